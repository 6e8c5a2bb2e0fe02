"""ONNX graphs as trainable functions: every weight is found, and returns to its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from factories import cnn, mlp, model
from secateur.formats import onnx_model
from secateur.formats.errors import UnsupportedError
from secateur.pipeline import onnxrt, onnxtorch
from secateur.pipeline.train.graph import TrainableGraph


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def everything() -> onnx.ModelProto:
    """Normalisation, an unevenly padded Conv, Gemm with alpha, beta and no transposition, MatMul + Add, a weight used
    twice, nodes without names and with names that clash in torch."""
    constants = {
        "mean": np.float32([0.5]),
        "deviation": np.float32([0.25]),
        "conv.weight": normal(2, 1, 3, 3),
        "gemm.weight": normal(32, 6),
        "gemm.bias": normal(6),
        "square": normal(6, 6),
        "bias": normal(6),
        "last": normal(4, 6),
    }
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["a"]),
        helper.make_node("Div", ["a", "deviation"], ["b"], "name.1"),
        helper.make_node("Conv", ["b", "conv.weight"], ["c"], "name", pads=[0, 0, 2, 2]),
        helper.make_node("Relu", ["c"], ["d"], "name_1"),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "gemm.weight", "gemm.bias"], ["f"], alpha=0.5, beta=2.0),
        helper.make_node("MatMul", ["f", "square"], ["g"]),
        helper.make_node("Add", ["bias", "g"], ["h"]),
        helper.make_node("Relu", ["h"], ["i"]),
        helper.make_node("MatMul", ["i", "square"], ["j"]),
        helper.make_node("Add", ["j", "i"], ["k"]),
        helper.make_node("Gemm", ["k", "last"], ["y"], transB=1),
    ]
    return model(nodes, constants, ["N", 1, 4, 4], ["N", 4])


def test_every_weight_is_trained_and_constants_of_normalisation_are_not() -> None:
    graph = TrainableGraph(onnx_model.from_proto(everything()))
    assert set(graph.parameters) == {"conv.weight", "gemm.weight", "gemm.bias", "square", "bias", "last"}
    assert not graph.statistics


@pytest.mark.parametrize("proto", [everything(), cnn(), mlp([5, 7, 3])], ids=["everything", "cnn", "mlp"])
def test_changed_weights_go_back_to_their_initializers(proto: onnx.ModelProto) -> None:
    source = onnx_model.from_proto(proto)
    graph = TrainableGraph(source)
    random = np.random.default_rng(0)
    values = {
        name: (array + random.random(array.shape)).astype(np.float32)
        for name, array in graph.snapshot().items()
    }
    written = graph.write_back(values)  # compares with onnxruntime
    after = onnx_model.initializers(written.proto)
    assert list(after) == list(onnx_model.initializers(proto))
    for name, array in onnx_model.initializers(proto).items():
        assert np.array_equal(after[name], values.get(name, array))
    assert list(written.proto.graph.node) == list(proto.graph.node)
    x = onnxrt.sample_inputs(onnxrt.count_inputs(proto), seed=3, samples=5)
    assert np.abs(onnxrt.run(written, x) - onnxrt.run(source, x)).max() > 1e-2


def test_gradients_are_those_of_finite_differences() -> None:
    source = onnx_model.from_proto(everything())
    graph = TrainableGraph(source)
    x = onnxrt.sample_inputs(16, seed=1, samples=4)
    graph(graph.inputs(x)).sum().backward()
    for name in ("square", "gemm.weight", "gemm.bias"):  # used twice; scaled and transposed; scaled
        values = graph.snapshot()
        index = (3,) * values[name].ndim
        sums = []
        for step in (1e-2, -1e-2):
            moved = values[name].copy()
            moved[index] += step
            sums.append(
                onnxrt.run(TrainableGraph(source).write_back(values | {name: moved}), x).sum(dtype=float)
            )
        gradient = graph.parameters[name].grad
        assert gradient is not None
        assert float(gradient[index]) == pytest.approx((sums[0] - sums[1]) / 2e-2, rel=0.05, abs=0.05)


def test_statistics_move_in_training_mode_only() -> None:
    graph = TrainableGraph(onnx_model.from_proto(cnn()))
    assert set(graph.statistics) == {"bn0.mean", "bn0.var"}
    before = graph.snapshot()
    x = graph.inputs(onnxrt.sample_inputs(64, seed=0, samples=8))
    with torch.no_grad():
        graph(x)
        assert all(np.array_equal(before[name], array) for name, array in graph.snapshot().items())
        graph.train()
        graph(x)
    after = graph.snapshot()
    assert not np.array_equal(before["bn0.mean"], after["bn0.mean"])
    assert not np.array_equal(before["bn0.var"], after["bn0.var"])


def test_what_cannot_be_trained_is_refused() -> None:
    relu = model([helper.make_node("Relu", ["x"], ["y"])], {}, ["N", 3], ["N", 3])
    with pytest.raises(UnsupportedError, match="no weights"):
        TrainableGraph(onnx_model.from_proto(relu))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Trilu", ["m"], ["y"])]
    strange = model(nodes, {"w": normal(3, 2)}, ["N", 3], ["N", 2])
    with pytest.raises(UnsupportedError, match="'Trilu'"):
        TrainableGraph(onnx_model.from_proto(strange))
    shared = cnn()
    next(node for node in shared.graph.node if node.op_type == "BatchNormalization").input[3] = "bn0.bias"
    with pytest.raises(UnsupportedError, match=r"'bn0\.bias' is also used"):
        TrainableGraph(onnx_model.from_proto(shared))
    fixed = model(
        [
            helper.make_node("Reshape", ["x", "flat"], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["m"]),
            helper.make_node("Reshape", ["m", "row"], ["y"]),
        ],
        {"flat": np.array([4]), "row": np.array([1, 2]), "w": normal(4, 2)},
        [1, 2, 2],
        [1, 2],
    )
    with pytest.raises(UnsupportedError, match="batch"):
        TrainableGraph(onnx_model.from_proto(fixed))


def test_older_opsets_are_raised_first() -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    old = onnx_model.from_proto(model(nodes, {"w": normal(3, 2)}, ["N", 3], ["N", 2], opset=8))
    graph = TrainableGraph(old)
    assert graph.write_back(graph.snapshot()).proto.opset_import[0].version == 8


def test_normalisation_behind_a_computed_reshape() -> None:
    """onnx does not infer of what rank its input is."""
    source = cnn()
    next(node for node in source.graph.node if node.op_type == "BatchNormalization").input[0] = "image"
    nodes = [
        helper.make_node("Shape", ["c0"], ["size"]),
        helper.make_node("Cast", ["size"], ["rounded"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Cast", ["rounded"], ["target"], to=onnx.TensorProto.INT64),
        helper.make_node("Compress", ["target", "all"], ["chosen"]),
        helper.make_node("Reshape", ["c0", "chosen"], ["image"]),
    ]
    for place, node in enumerate(nodes, 1):
        source.graph.node.insert(place, node)
    source.graph.initializer.append(numpy_helper.from_array(np.ones(4, bool), "all"))
    prepared = onnxtorch.prepared(onnx_model.from_proto(source))
    (noted,) = [value for value in prepared.graph.value_info if value.name == "image"]
    assert len(noted.type.tensor_type.shape.dim) == 4


def test_newer_opsets_and_fixed_batches_are_lowered_first() -> None:
    """Opset 22 as torch's exporter writes it: reductions by an input, allowzero, a batch of one."""
    constants = {
        "w": normal(4, 1, 3, 3),
        "axes": np.array([2, 3]),
        "shape": np.array([1, 4]),
        "v": normal(4, 2),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("Gelu", ["c"], ["g"]),
        helper.make_node("ReduceMean", ["g", "axes"], ["m"], keepdims=1),
        helper.make_node("Reshape", ["m", "shape"], ["f"], allowzero=1),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    source = onnx_model.from_proto(model(nodes, constants, [1, 1, 6, 6], [1, 2], opset=22))
    graph = TrainableGraph(source)
    assert set(graph.parameters) == {"w", "v"}
    changed = {name: array * np.float32(1.5) for name, array in graph.snapshot().items()}
    written = graph.write_back(changed)
    assert written.proto.opset_import[0].version == 22
    assert [node.op_type for node in written.graph.node] == [node.op_type for node in nodes]


@pytest.mark.data
@pytest.mark.parametrize(
    "path",
    ["oval21", "tllverifybench", "sat_relu", "safenlp", "cersyve"],
)
def test_benchmark_networks_are_bound(shared_data: Path, path: str) -> None:
    file = sorted((shared_data / "benchmarks" / path).rglob("*.onnx*"))[0]
    source = onnx_model.read(str(file))
    graph = TrainableGraph(source)
    weights = {name for name, array in onnx_model.initializers(source.proto).items() if array.ndim >= 2}
    assert weights <= set(graph.parameters)
    written = onnx_model.initializers(graph.write_back(graph.snapshot()).proto)
    for name, array in onnx_model.initializers(source.proto).items():
        assert np.array_equal(written[name], array)
