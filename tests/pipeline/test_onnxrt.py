"""Running models: batches of every kind, ranks, types, and the comparison that judges rewrites."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from factories import cnn
from secateur.formats import onnx_parts
from secateur.formats.errors import CheckFailed, InputError, UnsupportedError
from secateur.pipeline import onnxrt


def linear(
    weight: np.ndarray,
    batch: int | str | None = 1,
    element: int = TensorProto.FLOAT,
    reshape: list[int] | None = None,
) -> ModelProto:
    """y = x @ weight, with `batch` as leading dimension (None: a vector), optionally reshaped first."""
    lead = [] if batch is None else [batch]
    nodes = [helper.make_node("MatMul", ["r" if reshape else "x", "w"], ["y"])]
    constants = [numpy_helper.from_array(weight.astype(helper.tensor_dtype_to_np_dtype(element)), "w")]
    if reshape:
        nodes.insert(0, helper.make_node("Reshape", ["x", "s"], ["r"]))
        constants.append(numpy_helper.from_array(np.array(reshape, np.int64), "s"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", element, [*lead, weight.shape[0]])],
        [helper.make_tensor_value_info("y", element, [*lead, weight.shape[1]])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    return model


WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 7


@pytest.mark.parametrize("batch", [1, "n", None])
@pytest.mark.parametrize("count", [0, 1, 2, 9, 300])
@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_every_batch_rank_and_type_gives_one_row_a_sample(batch, count, element):
    model = linear(WEIGHT, batch, element)
    x = onnxrt.sample_inputs(4, seed=1, samples=count)
    y = onnxrt.run(model, x)
    assert y.shape == (count, 3)
    assert np.allclose(y, x @ WEIGHT, atol=2e-2 if element == TensorProto.FLOAT16 else 1e-5)


@pytest.mark.parametrize("batch", [1, "n"])
def test_a_reshape_that_fixes_the_batch_is_run_sample_by_sample(batch):
    x = onnxrt.sample_inputs(4, seed=1, samples=20)
    assert np.allclose(onnxrt.run(linear(WEIGHT, batch, reshape=[1, 4]), x), x @ WEIGHT, atol=1e-5)


def test_a_reshape_that_mixes_samples_is_noticed():
    """[-1, 2] @ [2, 3] on two samples gives as many numbers as two outputs: only values tell."""
    model = linear(WEIGHT[:2], 1)
    mixed = helper.make_node("Reshape", ["y", "s"], ["z"])
    order = helper.make_node("Transpose", ["z"], ["t"], perm=[1, 0])
    model.graph.node.extend([mixed, order])
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 3], np.int64), "s"))
    model.graph.output[0].name = "t"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    x = onnxrt.sample_inputs(2, seed=3, samples=16)
    assert np.allclose(onnxrt.run(model, x), x @ WEIGHT[:2], atol=1e-5)


def test_shapes_and_counts():
    model = linear(WEIGHT, "n")
    assert onnxrt.input_shape(model) == (1, 4)
    assert (onnxrt.count_inputs(model), onnxrt.count_outputs(model)) == (4, 3)
    assert onnxrt.input_shape(linear(WEIGHT, None)) == (4,)


def test_a_ready_session_and_shaped_inputs_are_accepted():
    ready = onnxrt.session(linear(WEIGHT, 1))
    x = onnxrt.sample_inputs(4, seed=1, samples=10)
    assert np.allclose(onnxrt.run(ready, x.reshape(10, 1, 4)), x @ WEIGHT, atol=1e-5)


def test_wrong_sizes_and_unknown_operators_are_named():
    with pytest.raises(InputError, match="expected 4 input values a sample, found 5"):
        onnxrt.run(linear(WEIGHT), np.zeros((2, 5), np.float32))
    model = linear(WEIGHT)
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(UnsupportedError, match="NoSuchOperator"):
        onnxrt.session(model)


def test_compare_measures_relative_to_the_largest_output():
    changed = WEIGHT.copy()
    changed[0, 0] += 0.5
    assert onnxrt.compare(linear(WEIGHT), linear(WEIGHT, "n")) < 1e-6
    with pytest.raises(CheckFailed, match="differs"):
        onnxrt.compare(linear(WEIGHT), linear(changed))
    with pytest.raises(CheckFailed, match="2 outputs"):
        onnxrt.compare(linear(WEIGHT), linear(WEIGHT[:, :2]))
    assert onnxrt.compare(linear(WEIGHT), lambda x: x @ WEIGHT) < 1e-6


def test_compare_treats_non_finite_values_as_different():
    with pytest.raises(CheckFailed):
        onnxrt.compare(linear(WEIGHT), lambda x: np.where(x @ WEIGHT > 0.1, np.nan, x @ WEIGHT))


def test_compare_uses_real_inputs():
    def wrong_far_away(x: np.ndarray) -> np.ndarray:
        return x @ WEIGHT + (np.abs(x).max(axis=1, keepdims=True) > 50)

    assert onnxrt.compare(linear(WEIGHT), wrong_far_away) < 1e-6
    with pytest.raises(CheckFailed):
        onnxrt.compare(linear(WEIGHT), wrong_far_away, real_inputs=np.array([[0, 60, 0, 0]], np.float32))


@pytest.mark.parametrize("batch", [1, "n"])
def test_a_large_model_runs_the_same_with_its_weights_fed(monkeypatch: pytest.MonkeyPatch, batch: int | str):
    model = cnn(side=16, channels=16)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].Clear()
        setattr(value.type.tensor_type.shape.dim[0], "dim_value" if batch == 1 else "dim_param", batch)
    x = onnxrt.sample_inputs(256, seed=1, samples=20)
    whole, shapes = onnxrt.run(model, x), onnxrt.value_shapes(model)
    monkeypatch.setattr(onnx_parts, "LARGE", 4096)
    assert list(onnx_parts.apart(model)[1]) == ["conv1.weight", "fc.weight"]
    fed = onnxrt.Runner(model, frugal=True)
    assert np.allclose(fed(x), whole, atol=1e-5)
    assert onnxrt.value_shapes(model) == shapes
    assert onnxrt.count_inputs(model) == fed.inputs == 256
    assert onnxrt.compare(model, fed) == 0
    assert np.array_equal(onnxrt.run(model, x), whole)


def test_a_frugal_session_answers_the_same():
    model = cnn()
    x = onnxrt.sample_inputs(64, seed=1, samples=5).reshape(5, 1, 8, 8)
    usual, frugal = (onnxrt.session(model, frugal=choice).run(None, {"x": x}) for choice in (False, True))
    assert np.allclose(usual[0], frugal[0], atol=1e-6)


def test_zeros_fit_every_input_and_share_their_memory():
    inputs = [
        helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 3]),
        helper.make_tensor_value_info("b", TensorProto.DOUBLE, ["n", 2, "m"]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        helper.make_tensor_value_info("d", TensorProto.FLOAT, [4, "n"]),
    ]
    nodes = [helper.make_node("Identity", [value.name], [f"{value.name}2"]) for value in inputs]
    outputs = [onnx.ValueInfoProto(name=node.output[0]) for node in nodes]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    ready = onnxrt.session(model)
    feeds = onnxrt.zeros(ready, 5, but=["a"])
    assert {name: (value.shape, value.dtype.name) for name, value in feeds.items()} == {
        "b": ((5, 2, 1), "float64"),
        "c": ((), "bool"),
        "d": ((4, 5), "float32"),
    }
    assert np.shares_memory(feeds["b"], feeds["d"])
    assert not any(value.any() for value in feeds.values())
    whole = onnxrt.zeros(ready, 5)
    answers = onnxrt.answers(ready, ["a2", "c2"], whole)
    assert [value.shape for value in answers] == [(5, 3), ()]


def test_large_inputs_are_compared_on_fewer_samples_and_run_in_smaller_batches(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(onnxrt, "_CHUNK_ELEMENTS", 40)
    seen = []

    def note(x: np.ndarray) -> np.ndarray:
        seen.append(len(x))
        return x @ WEIGHT

    onnxrt.compare(linear(WEIGHT, "n"), note)
    onnxrt.compare(linear(WEIGHT, "n"), note, samples=3)
    assert seen == [10, 3]
    x = onnxrt.sample_inputs(4, seed=1, samples=25)
    assert np.allclose(onnxrt.run(linear(WEIGHT, "n"), x), x @ WEIGHT, atol=1e-5)


@pytest.mark.data
def test_shared_networks_of_odd_shapes_run(shared_data):
    from secateur.formats import onnx_model

    for name in ("test_nano", "test_tiny", "test_small", "test_sat"):
        model = onnx_model.read(str(shared_data / "benchmarks" / "test" / "onnx" / f"{name}.onnx"))
        x = onnxrt.sample_inputs(onnxrt.count_inputs(model), seed=0, samples=12)
        together = onnxrt.run(model, x)
        assert together.shape == (12, onnxrt.count_outputs(model))
        assert np.allclose(together, np.concatenate([onnxrt.run(model, row[None]) for row in x]), atol=1e-5)
