"""Masks compared, combined, and recovered from models that others have pruned."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from factories import cnn, mlp, model
from secateur.formats import onnx_model
from secateur.formats.errors import CheckFailed, InputError
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import from_proto, initializers
from secateur.pipeline import onnxrt
from secateur.pipeline.prune import Plan, apply, prune, shrink
from secateur.pipeline.prune.masks import combine, diff, extract, of_model, rewound


def masks(seeds: tuple[int, ...], sparsity: float = 0.5) -> list[Mask]:
    dense = from_proto(mlp([5, 7, 3]))
    return [prune(dense, Plan("random", sparsity, seed=seed)).mask for seed in seeds]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.floats(0, 1))
def test_combinations_keep_what_all_or_any_keep(seeds, sparsity):
    found = masks(tuple(seeds), sparsity)
    for name in found[0].tensors:
        kept = np.stack([mask.tensors[name] for mask in found])
        assert np.array_equal(combine(found, "intersect").tensors[name], kept.all(axis=0))
        assert np.array_equal(combine(found, "union").tensors[name], kept.any(axis=0))


@given(st.integers(0, 50), st.integers(0, 50))
def test_differences_count_every_entry_once(one, other):
    first, second = masks((one, other))
    for name, overlap in diff(first, second).items():
        a, b = first.tensors[name], second.tensors[name]
        assert (overlap.both, overlap.neither) == ((a & b).sum(), (~a & ~b).sum())
        assert (overlap.first, overlap.second) == ((a & ~b).sum(), (b & ~a).sum())
        assert overlap.jaccard == (a & b).sum() / (a | b).sum()


def test_a_tensor_that_a_mask_does_not_name_is_whole():
    half = Mask({"a": np.array([True, False])}, "0", "magnitude", "weight")
    other = Mask({"b": np.array([False])}, "0", "magnitude", "weight")
    assert combine([half, other], "intersect").tensors["a"].tolist() == [True, False]
    assert combine([half, other], "union").tensors["a"].tolist() == [True, True]
    assert vars(diff(half, other)["b"]) == {"both": 0, "first": 1, "second": 0, "neither": 0}


def test_masks_that_do_not_fit_are_refused():
    half = Mask({"a": np.ones(2, bool)}, "0", "magnitude", "weight")
    with pytest.raises(InputError, match=r"masks of 'a' have shapes \(2,\) and \(3,\)"):
        diff(half, Mask({"a": np.ones(3, bool)}, "0", "magnitude", "weight"))
    another = Mask({"a": np.ones(2, bool)}, "1", "magnitude", "weight")
    with pytest.raises(InputError, match="of different models"):
        combine([half, another], "union")
    assert combine([half, another], "union", force=True).tensors["a"].all()


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_extracted_masks_are_those_that_pruned(granularity):
    dense = from_proto(cnn(channels=6))
    result = prune(dense, Plan("magnitude", 0.5, granularity))
    found = extract(dense, from_proto(result.proto))
    assert found.by_name
    assert sum(found.changed.values()) == 0
    for name, keep in result.mask.tensors.items():
        assert np.array_equal(found.mask.tensors.get(name, np.ones_like(keep)), keep), name
    assert set(found.mask.tensors) <= set(result.mask.tensors) | {"conv0.weight", "conv1.weight", "fc.weight"}
    again = initializers(apply(dense, found.mask))
    assert all(np.array_equal(again[name], array) for name, array in initializers(result.proto).items())
    assert "all with the dense model's values" in found.summary()


def renamed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network as another exporter writes it: other names, and MatMul by transposed weights."""
    arrays = initializers(proto)
    nodes, constants, value = [], {}, "x"
    for layer in range(2):
        constants[f"m{layer}"] = np.ascontiguousarray(arrays[f"fc{layer}.weight"].T)
        constants[f"a{layer}"] = arrays[f"fc{layer}.bias"]
        result = "y" if layer else "h"
        nodes.append(helper.make_node("MatMul", [value, f"m{layer}"], [f"p{layer}"]))
        nodes.append(helper.make_node("Add", [f"p{layer}", f"a{layer}"], [result]))
        if not layer:
            nodes.append(helper.make_node("Relu", ["h"], ["r"]))
            value = "r"
    sizes = arrays["fc0.weight"].shape[1], len(arrays["fc1.weight"])
    return model(nodes, constants, ["N", sizes[0]], ["N", sizes[1]])


@pytest.mark.parametrize("sizes", [[5, 7, 3], [4, 4, 4]])
def test_masks_are_recovered_by_place_when_names_differ(sizes):
    dense = from_proto(mlp(sizes))
    result = prune(dense, Plan("magnitude", 0.5))
    other = renamed(result.proto)
    assert onnxrt.compare(result.proto, other) < 1e-6
    found = extract(dense, from_proto(other))
    assert not found.by_name
    assert all(np.array_equal(found.mask.tensors[name], keep) for name, keep in result.mask.tensors.items())
    assert sum(found.changed.values()) == 0


def test_retrained_survivors_are_counted():
    dense = from_proto(mlp([5, 7, 3]), "dense.onnx")
    result = prune(dense, Plan("magnitude", 0.5))
    weight = initializers(result.proto)["fc0.weight"].copy()
    weight[weight > 0] += 1
    changed = int((weight > 0).sum())
    onnx_model.set_initializer(result.proto, "fc0.weight", weight)
    found = extract(dense, from_proto(result.proto))
    assert found.changed == {"fc0.weight": changed, "fc1.weight": 0}
    assert all(np.array_equal(found.mask.tensors[name], keep) for name, keep in result.mask.tensors.items())
    with pytest.raises(CheckFailed, match=rf"net: {changed} weights that are not zero .* 'fc0\.weight'"):
        rewound(found.changed, "net")
    assert "have their initial values" in rewound(dict.fromkeys(found.changed, 0), "net")


def test_models_that_do_not_fit_are_refused_with_the_reason():
    dense = from_proto(cnn(channels=6), "dense.onnx")
    small = shrink(from_proto(prune(dense, Plan("magnitude", 0.5, "channel")).proto)).proto
    with pytest.raises(InputError, match=r"small\.onnx: 'conv0\.weight' has shape .* before shrinking"):
        extract(dense, from_proto(small, "small.onnx"))
    with pytest.raises(InputError, match=r"2 layers with other names than the 3 of dense\.onnx"):
        extract(dense, from_proto(mlp([4, 5, 2])))
    with pytest.raises(InputError, match=r"layer 1, gemm1, has a weight 'fc1\.weight' of shape \(6, 5\)"):
        extract(from_proto(renamed(mlp([4, 5, 2]))), from_proto(mlp([4, 5, 6])))


def test_the_zeros_of_a_model_are_a_mask():
    dense = from_proto(mlp([5, 7, 3]))
    result = prune(dense, Plan("magnitude", 0.5))
    found = of_model(from_proto(result.proto))
    assert all(np.array_equal(found.tensors[name], keep) for name, keep in result.mask.tensors.items())


@pytest.mark.data
@pytest.mark.parametrize("percent", [10, 30, 50, 70, 80, 90])
def test_third_party_masks_are_recovered(shared_data, percent):
    folder = shared_data / "pruned_nets" / "fanc"
    dense = onnx_model.read(str(folder / "fcnn7_mnist_dense.onnx"))
    theirs = onnx_model.read(str(folder / f"fcnn7_mnist_sparse{percent}.onnx"))
    found = extract(dense, theirs)
    ours = prune(dense, Plan("magnitude", percent / 100, scope="layer")).mask
    assert found.mask.tensors.keys() == ours.tensors.keys()
    assert all(np.array_equal(found.mask.tensors[name], keep) for name, keep in ours.tensors.items())
    assert sum(found.changed.values()) == 0
    again = initializers(apply(dense, found.mask))
    assert all(np.array_equal(again[name], array) for name, array in initializers(theirs.proto).items())


def test_masks_through_the_command_line(invoke, tmp_path):
    dense, pruned, mask, other = (tmp_path / name for name in ("d.onnx", "p.onnx", "m", "o"))
    onnx_model.write(cnn(channels=6), str(dense))
    invoke("prune", "magnitude", dense, "-s", 0.9, "-o", pruned, "--mask-out", mask)
    invoke("prune", "random", dense, "-s", 0.9, "-o", tmp_path / "r.onnx", "--mask-out", other)
    extracted = invoke("extract-mask", dense, pruned, "-o", tmp_path / "e")
    assert extracted.exit_code == 0 and "89.95% of their entries are zero" in extracted.stderr
    shown = invoke("mask", "diff", mask, tmp_path / "e")
    assert shown.stdout == "" and " 1.0000  in all" in shown.stderr
    for how in ("intersect", "union"):
        assert invoke("mask", how, mask, other, "-o", tmp_path / how).exit_code == 0
    sparsities = [
        json.loads(invoke("mask", "stats", tmp_path / name, "--json").stdout)["sparsity"]
        for name in ("intersect", "m", "union")
    ]
    assert sparsities == sorted(sparsities, reverse=True)
    assert invoke("mask", "stats", pruned, "--init", dense).exit_code == 0
    refused = invoke("mask", "stats", pruned, "--init", tmp_path / "r.onnx")
    assert refused.exit_code == 1 and "have not their initial values" in refused.stderr
    stored = invoke("apply", dense, mask, "--sparse-initializers", "-o", tmp_path / "s.onnx")
    assert stored.exit_code == 0, stored.stderr
    assert (tmp_path / "s.onnx").stat().st_size < pruned.stat().st_size / 2
    assert onnxrt.compare(onnx_model.read(str(pruned)), onnx.load(tmp_path / "s.onnx"), tolerance=0) == 0
    assert invoke("convert", tmp_path / "s.onnx", "-o", tmp_path / "dense-again.onnx").exit_code == 0
    again = onnx.load(tmp_path / "dense-again.onnx")
    assert not again.graph.sparse_initializer
    assert all(np.array_equal(initializers(again)[k], v) for k, v in initializers(onnx.load(pruned)).items())
