"""Masks applied: judged in onnxruntime by the original with the mask in its graph, on random and on real inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper

from channel_graphs import graphs
from factories import cnn, mlp, model
from secateur.formats import onnx_model, onnx_parts
from secateur.formats.errors import CheckFailed, InputError, UnsupportedError
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model, from_proto, initializers
from secateur.pipeline import onnxrt
from secateur.pipeline.prune import Samples, apply, applying, prune, reference, shrink


def half(source: Model, *names: str, seed: int = 0) -> Mask:
    """A random half of the initializers named, or of all that are matrices or more."""
    random = np.random.default_rng(seed)
    arrays = {n: a for n, a in initializers(source).items() if (n in names if names else a.ndim > 1)}
    return Mask({n: random.random(a.shape) < 0.5 for n, a in arrays.items()}, source.sha256, "test", "weight")


def zeroed(source: Model, mask: Mask) -> onnx.ModelProto:
    """By hand."""
    copy = onnx.ModelProto.FromString(source.proto.SerializeToString())
    for name, keep in mask.tensors.items():
        onnx_model.set_initializer(copy, name, initializers(copy)[name] * keep)
    return copy


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_the_reference_computes_what_zeros_by_hand_compute(proto):
    source = from_proto(proto)
    mask = half(source)
    made = reference.multiplied(source, mask)
    onnx.checker.check_model(made.proto)
    x = onnxrt.sample_inputs(onnxrt.count_inputs(source), seed=1, samples=4)
    by_hand, found = onnxrt.run(zeroed(source, mask), x), onnxrt.run(made, x)
    assert onnxrt.difference(by_hand, found) <= 1e-4
    assert not set(initializers(made)) & set(mask.tensors)  # it shares no tensor with the rewrite


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_weights_of_other_types_and_old_inputs(kind):
    """Initializers that are inputs, too, as files of IR version 3 list them."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=kind),
        helper.make_node("Gemm", ["narrow", "w", "b"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["y"], to=TensorProto.FLOAT),
    ]
    random = np.random.default_rng(0)
    arrays = {"w": random.normal(size=(4, 3)).astype(dtype), "b": random.normal(size=3).astype(dtype)}
    proto = model(nodes, arrays, ["N", 4], ["N", 3])
    proto.ir_version = 3
    proto.graph.input.append(helper.make_tensor_value_info("w", kind, [4, 3]))
    proto.graph.input.append(helper.make_tensor_value_info("b", kind, [3]))
    source = from_proto(proto)
    mask = half(source, "w", "b")
    result = apply(source, mask)
    assert all(np.array_equal(initializers(result)[n], arrays[n] * mask.tensors[n]) for n in arrays)


def test_names_that_are_taken_are_left_alone():
    proto = mlp([3, 4, 2])
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = "dense:fc0.weight"
    source = from_proto(proto)
    assert "dense::fc0.weight" in initializers(reference.multiplied(source, half(source)))
    apply(source, half(source))


@pytest.mark.parametrize("large", [False, True])
def test_a_wrong_rewrite_is_found(large, monkeypatch, tmp_path):
    """One weight that the mask removes is still there, and the check tensor by tensor sleeps."""
    source = from_proto(cnn(channels=12))
    if large:
        source = reread(source, tmp_path, monkeypatch)
    mask = half(source, "conv1.weight", "fc.weight")
    monkeypatch.setattr(applying, "_check", lambda *_: None)
    gone = np.where(mask.tensors["conv1.weight"], 0, np.abs(initializers(source)["conv1.weight"]))
    place = np.unravel_index(np.argmax(gone), gone.shape)
    wrong = {name: keep.copy() for name, keep in mask.tensors.items()}
    wrong["conv1.weight"][place] = True
    masked = applying.masked
    monkeypatch.setattr(
        applying,
        "masked",
        lambda model, mask: masked(model, Mask(wrong, mask.model_sha256, "test", "weight")),
    )
    with pytest.raises(CheckFailed, match="differs from the original by"):
        apply(source, mask)


def test_a_wrong_tensor_is_found_even_where_it_has_no_effect():
    source = from_proto(mlp([3, 4, 2]))
    mask = half(source, "fc0.weight")
    result = applying.masked(source, mask)
    onnx_model.set_initializer(result.light, "fc1.bias", np.float32([0, 0]))
    with pytest.raises(CheckFailed, match=r"initializer 'fc1\.bias' is not the masked original"):
        applying._check(source, mask, result)


def test_real_inputs_count():
    """A rewrite that is right on random inputs, which are all below 50, and wrong above."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    arrays = {"w": np.eye(2, dtype=np.float32), "b": np.float32([-50, -50])}
    source = from_proto(model(nodes, arrays, ["N", 2], ["N", 2]))
    mask = Mask({"w": np.array([[True, True], [True, False]])}, source.sha256, "test", "weight")
    reference.judge(source, mask, source)
    far = random.uniform(60, 70, (5, 2)).astype(np.float32)
    with pytest.raises(CheckFailed, match="on 69 inputs in onnxruntime"):
        reference.judge(source, mask, source, real_inputs=far)
    reference.judge(source, mask, apply(source, mask), real_inputs=far)
    with pytest.raises(InputError, match="samples have 3 elements, the network 2 inputs"):
        apply(source, mask, real_inputs=far.repeat(2, axis=1)[:, :3])


def test_pruning_compares_on_its_data(monkeypatch):
    seen = []
    compare = onnxrt.compare
    monkeypatch.setattr(onnxrt, "compare", lambda *a, **k: seen.append(k["real_inputs"]) or compare(*a, **k))
    images = np.random.default_rng(0).random((100, 1, 8, 8), np.float32)
    prune(from_proto(cnn()), "apoz", sparsity=0.5, granularity="channel", data=Samples(images))
    assert [len(part) for part in seen] == [64]  # as many as random ones


def test_what_onnxruntime_does_not_run_is_refused_by_name():
    proto = mlp([3, 2])
    proto.graph.node.add(op_type="Strange", domain="nobody", input=["y"], output=["z"])
    proto.opset_import.add(domain="nobody", version=1)
    with pytest.raises(UnsupportedError, match="onnxruntime does not load it"):
        prune(from_proto(proto), "magnitude", sparsity=0.5)


# --- large models --------------------------------------------------------------------------------------------


def reread(source: Model, folder: Path, patch: pytest.MonkeyPatch) -> Model:
    """The model as it is read when it counts as large."""
    path = folder / "large.onnx"
    onnx_model.write(source, str(path))
    patch.setattr(onnx_parts, "LARGE", 1)
    read = onnx_model.read(str(path))
    assert read.weights
    return read


RECIPES = [
    ("magnitude", {"sparsity": 0.7}),
    ("magnitude", {"sparsity": 0.5, "granularity": "channel"}),
    ("magnitude", {"granularity": "2:4"}),
    ("magnitude", {"sparsity": 0.5, "granularity": "grouped-kernel:4"}),
    ("random", {"sparsity": 0.5, "steps": 3}),
    ("fpgm", {"sparsity": 0.5, "granularity": "channel"}),
    ("magnitude", {"sparsity": 0.5, "granularity": "channel", "refill": True}),
]


@pytest.mark.parametrize(("criterion", "options"), RECIPES)
def test_large_models_are_pruned_alike(criterion, options, tmp_path, monkeypatch):
    whole = from_proto(cnn(channels=16, side=16), "large.onnx")
    small = prune(whole, criterion, **options)
    source = reread(whole, tmp_path, monkeypatch)
    large = prune(source, criterion, **options)
    assert onnx_model.to_bytes(large.model) == onnx_model.to_bytes(small.model)
    assert large.model.sha256 == small.model.sha256
    if criterion == "magnitude":
        assert "proto" not in vars(source) and "proto" not in vars(large.model)
    assert onnx_model.to_bytes(apply(source, large.mask)) == onnx_model.to_bytes(apply(whole, small.mask))


def test_large_models_are_shrunk_alike(tmp_path, monkeypatch):
    dense = from_proto(cnn(channels=16, side=16))
    pruned = prune(dense, "magnitude", sparsity=0.5, granularity="channel").model
    expected = shrink(pruned)
    source = reread(pruned, tmp_path, monkeypatch)
    found = shrink(source)
    assert onnx_model.to_bytes(found.proto) == onnx_model.to_bytes(expected.proto)
    assert found.parameters_after < found.parameters_before
    assert "proto" not in vars(source)


def test_a_large_model_is_stored_sparse(tmp_path, monkeypatch):
    source = reread(from_proto(cnn(channels=16, side=16)), tmp_path, monkeypatch)
    mask = prune(source, "magnitude", sparsity=0.9).mask
    stored = apply(source, mask, sparse=True)
    assert stored.light.graph.sparse_initializer
    assert onnxrt.compare(stored, apply(source, mask), tolerance=0.0, frugal=False) == 0.0
