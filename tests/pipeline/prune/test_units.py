"""Granularities, scopes, steps and patterns: what goes together, exactly as much as asked, never all of a layer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from factories import mlp, model
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import from_proto, initializers
from secateur.pipeline import onnxgraph, onnxrt
from secateur.pipeline.prune import Plan, prune, shrink
from secateur.pipeline.prune.granularity import Granularity
from secateur.pipeline.prune.tiles import tiled
from secateur.pipeline.prune.units import gather

UNITS = ["weight", "2:4", "1:3", "block:2x3", "block:4x4", "kernel", "grouped-kernel:2", "channel", "neuron"]


def net(seed: int = 0):
    """Convolutions and fully connected layers, widths that blocks and patterns do not divide."""
    random = np.random.default_rng(seed)
    constants = {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in {
            "c0": (6, 3, 3, 3),
            "c1": (8, 6, 3, 3),
            "w0": (32, 10),
            "b0": (10,),
            "w1": (10, 3),
        }.items()
    }
    nodes = [
        helper.make_node("Conv", ["x", "c0"], ["h0"], "conv0", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["h0"], ["r0"], "relu0"),
        helper.make_node("Conv", ["r0", "c1"], ["h1"], "conv1", kernel_shape=[3, 3]),
        helper.make_node("Flatten", ["h1"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w0", "b0"], ["h2"], "fc0"),
        helper.make_node("Relu", ["h2"], ["r2"], "relu2"),
        helper.make_node("MatMul", ["r2", "w1"], ["y"], "fc1"),
    ]
    return from_proto(model(nodes, constants, ["N", 3, 6, 6], ["N", 3]), "net.onnx")


def share(granularity: str, sparsity: float) -> float | None:
    return None if granularity[0].isdigit() else sparsity


@pytest.mark.parametrize("granularity", UNITS)
@given(st.floats(0, 1), st.integers(0, 5), st.sampled_from(["global", "layer", "erk"]))
@settings(max_examples=15)
def test_exactly_as_many_units_go_and_no_layer_is_empty(granularity, sparsity, seed, scope):
    dense = net(seed)
    if Granularity.parse(granularity).alike:
        scope = "layer"
    result = prune(dense, Plan("magnitude", share(granularity, sparsity), granularity, scope))
    pools = gather(dense, Granularity.parse(granularity)).pools
    assert result.units == sum(pool.size for pool in pools)
    if scope == "global":
        assert result.wanted == round(sparsity * result.units)
        assert result.pruned == min(result.wanted, result.units - len(pools))
    elif scope == "erk":
        assert result.wanted == round(sparsity * result.units)
        assert result.wanted - len(pools) <= result.pruned <= result.wanted
    elif granularity.startswith("grouped"):
        counts = [round(sparsity * pool.columns) for pool in pools]
        assert result.wanted == sum(pool.rows * count for pool, count in zip(pools, counts, strict=True))
    elif not granularity[0].isdigit():
        assert result.wanted == sum(round(sparsity * pool.size) for pool in pools)
        assert result.pruned == sum(min(round(sparsity * pool.size), pool.size - 1) for pool in pools)
    before, after = initializers(dense.proto), initializers(result.proto)
    for name, array in before.items():
        assert np.array_equal(after[name], np.where(result.mask.tensors.get(name, True), array, 0))
    assert all(result.mask.tensors[pool.layers[0].weight].any() for pool in pools)


@pytest.mark.parametrize("granularity", [unit for unit in UNITS if not unit[0].isdigit()])
@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["random", "magnitude"]),
    st.sampled_from(["global", "layer", "erk"]),
)
@settings(max_examples=15)
def test_what_goes_at_one_sparsity_goes_at_every_higher_one(granularity, one, other, criterion, scope):
    if Granularity.parse(granularity).alike:
        scope = "layer"
    low, high = (
        prune(net(), Plan(criterion, s, granularity, scope)).mask.tensors for s in sorted((one, other))
    )
    assert all((low[name] | ~high[name]).all() for name in high)


@given(st.integers(1, 7), st.integers(2, 8), st.integers(0, 5))
def test_n_of_m_weights_stay_along_the_inputs(n, m, seed):
    if n >= m:
        n, m = 1, n + 1
    dense = net(seed)
    result = prune(dense, Plan("magnitude", granularity=f"{n}:{m}"))
    assert result.pruned == result.wanted
    arrays = initializers(dense.proto)
    for name, axis in {"c0": 1, "c1": 1, "w0": 0, "w1": 0}.items():
        kept = np.moveaxis(result.mask.tensors[name], axis, -1)
        sizes = np.moveaxis(np.abs(arrays[name]), axis, -1)
        for start in range(0, kept.shape[-1], m):
            part, weights = kept[..., start : start + m], sizes[..., start : start + m]
            assert (part.sum(axis=-1) == min(n, part.shape[-1])).all()
            smallest_kept = np.where(part, weights, np.inf).min(axis=-1)
            assert (np.where(part, 0, weights).max(axis=-1) <= smallest_kept).all()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
def test_blocks_reach_to_the_edges(height, width, tall, wide):
    matrix = np.random.default_rng(height * width).normal(size=(height, width))
    found = tiled(matrix, tall, wide, lambda rows: rows.sum(axis=1))
    expected = [
        [matrix[i : i + tall, j : j + wide].sum() for j in range(0, width, wide)]
        for i in range(0, height, tall)
    ]
    assert np.allclose(found, expected)


@pytest.mark.parametrize("granularity", ["block:4x4", "block:3x5", "kernel"])
def test_blocks_and_kernels_go_whole(granularity):
    result = prune(net(), Plan("magnitude", 0.5, granularity, scope="layer"))
    for name, keep in result.mask.tensors.items():
        matrix = keep.reshape(len(keep), -1) if name[0] == "c" else keep.T
        tall, wide = {"block:4x4": (4, 4), "block:3x5": (3, 5), "kernel": (1, 9)}[granularity]
        for i in range(0, matrix.shape[0], tall):
            for j in range(0, matrix.shape[1], wide):
                assert len(np.unique(matrix[i : i + tall, j : j + wide])) == 1


def test_groups_of_filters_read_as_many_inputs():
    """Filters of two kinds, mixed: those that weigh inputs 0 to 2 and those that weigh 3 to 5."""
    random = np.random.default_rng(0)
    kinds = np.array([0, 1, 1, 0, 1, 0, 0, 1])
    weight = random.normal(size=(8, 6, 3, 3)) * 0.1
    for filter_, kind in enumerate(kinds):
        weight[filter_, 3 * kind : 3 * kind + 3] += 1
    dense = net()
    arrays = {**initializers(dense.proto), "c1": weight.astype(np.float32)}
    dense = from_proto(model(list(dense.graph.node), arrays, ["N", 3, 6, 6], ["N", 3]))
    result = prune(dense, Plan("magnitude", 0.5, "grouped-kernel:2", include=("conv1",)))
    reads = result.mask.tensors["c1"].all(axis=(2, 3))
    assert np.array_equal(reads, result.mask.tensors["c1"].any(axis=(2, 3)))
    assert np.array_equal(reads, [np.arange(6) // 3 == kind for kind in kinds])


@pytest.mark.parametrize(
    ("granularity", "sparsity"),
    [("grouped-kernel:2", 0.5), ("grouped-kernel:4", 0.5), ("grouped-kernel:2", 0.7)],
)
def test_groups_of_filters_end_in_grouped_convolutions(granularity, sparsity):
    pruned = from_proto(prune(net(), Plan("magnitude", sparsity, granularity, include=("conv1",))).proto)
    small = shrink(pruned).proto
    (conv,) = [node for node in small.graph.node if node.name == "conv1"]
    groups = int(granularity[-1])
    assert onnxgraph.attribute(conv, "group", 1) == groups
    assert initializers(small)["c1"].shape == (8, round(6 * (1 - sparsity)), 3, 3)
    assert onnxrt.compare(pruned, small) < 1e-5


def residual(branches: int = 3):
    """Gemm, then x + Gemm(Relu(Gemm(x))) for some branches, then Gemm."""
    random = np.random.default_rng(1)
    nodes = [helper.make_node("Gemm", ["x", "stem"], ["v0"], "stem")]
    constants = {"stem": random.normal(size=(4, 6)), "head": random.normal(size=(6, 3))}
    for i in range(branches):
        scale = 1 + (i + 1) % branches  # the last branch is the smallest
        constants |= {
            f"a{i}": scale * random.normal(size=(6, 8)),
            f"b{i}": scale * random.normal(size=(8, 6)),
        }
        constants |= {f"c{i}": random.normal(size=6)}
        nodes += [
            helper.make_node("Gemm", [f"v{i}", f"a{i}"], [f"h{i}"], f"first{i}"),
            helper.make_node("Relu", [f"h{i}"], [f"r{i}"], f"relu{i}"),
            helper.make_node("Gemm", [f"r{i}", f"b{i}", f"c{i}"], [f"o{i}"], f"second{i}"),
            helper.make_node("Add", [f"v{i}", f"o{i}"], [f"v{i + 1}"], f"add{i}"),
        ]
    nodes.append(helper.make_node("Gemm", [f"v{branches}", "head"], ["y"], "head"))
    arrays = {name: array.astype(np.float32) for name, array in constants.items()}
    return from_proto(model(nodes, arrays, ["N", 4], ["N", 3]))


def test_residual_branches_go_whole_and_shrinking_removes_them():
    dense = residual()
    result = prune(dense, Plan("magnitude", 1 / 3, "layer"))
    assert (result.units, result.pruned) == (3, 1)
    assert "1 of 3 residual branches" in result.summary()
    assert {name for name, keep in result.mask.tensors.items() if not keep.any()} == {"b2", "c2"}
    small = shrink(from_proto(result.proto)).proto
    assert [node.op_type for node in small.graph.node].count("Add") == 2
    everything = prune(dense, Plan("magnitude", 1.0, "layer")).proto
    assert [node.name for node in shrink(from_proto(everything)).proto.graph.node] == ["stem", "head"]


def test_patterns_choose_branches():
    result = prune(residual(), Plan("magnitude", 1.0, "layer", exclude=("first0", "add1")))
    assert {name for name, keep in result.mask.tensors.items() if not keep.any()} == {"b2", "c2"}
    with pytest.raises(InputError, match=r"pattern 'add9' matches no layer \(there are add0, add1, add2\)"):
        prune(residual(), Plan("magnitude", 1.0, "layer", include=("add9",)))
    with pytest.raises(InputError, match="no prunable layer: expected residual branches"):
        prune(net(), Plan("magnitude", 0.5, "layer"))


def test_heads_go_whole_and_shrinking_removes_them():
    """Three heads of two channels: query, key, value and what reads them lose the same ones."""
    random = np.random.default_rng(0)
    shapes = {"q": (6, 6), "k": (6, 6), "v": (6, 6), "o": (6, 6)}
    constants = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"split": np.array([0, 4, 3, 2]), "join": np.array([0, 4, 6])}
    nodes = []
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes.append(helper.make_node("MatMul", ["x", name], [f"{name}0"], name))
        nodes.append(helper.make_node("Reshape", [f"{name}0", "split"], [f"{name}1"], f"split_{name}"))
        nodes.append(helper.make_node("Transpose", [f"{name}1"], [f"{name}2"], f"turn_{name}", perm=order))
    nodes += [
        helper.make_node("MatMul", ["q2", "k2"], ["s"], "scores"),
        helper.make_node("Softmax", ["s"], ["p"], "softmax", axis=-1),
        helper.make_node("MatMul", ["p", "v2"], ["m"], "mix"),
        helper.make_node("Transpose", ["m"], ["t"], "turn", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "join"], ["j"], "join"),
        helper.make_node("MatMul", ["j", "o"], ["y"], "out"),
    ]
    dense = from_proto(model(nodes, constants, ["N", 4, 6], ["N", 4, 6]))
    result = prune(dense, Plan("magnitude", 1 / 3, "head"))
    assert (result.units, result.pruned) == (3, 1)
    masks = result.mask.tensors
    per_head = np.abs(np.stack([initializers(dense.proto)[name] for name in "qkv"])).reshape(3, 6, 3, 2)
    worst = int(per_head.mean(axis=(0, 1, 3)).argmin())
    gone = np.arange(6) // 2 == worst
    assert np.array_equal(~masks["v"].any(axis=0), gone)
    assert np.array_equal(~masks["o"].any(axis=1), gone)
    small = shrink(from_proto(result.proto)).proto
    assert {name: initializers(small)[name].shape for name in "qkvo"} == dict.fromkeys("qkv", (6, 4)) | {
        "o": (4, 6)
    }


def test_neurons_are_those_of_dense_layers():
    result = prune(net(), Plan("magnitude", 0.5, "neuron"))
    assert result.units == 10
    assert result.mask.tensors["c1"].all() if "c1" in result.mask.tensors else True
    assert (~result.mask.tensors["b0"]).sum() == 5
    assert np.array_equal(result.mask.tensors["w1"].any(axis=1), result.mask.tensors["b0"])


def test_steps_end_where_one_step_does_when_scores_stay():
    once = prune(net(), Plan("magnitude", 0.7))
    for name in ("geometric", "linear", "cubic"):
        steps = prune(net(), Plan("magnitude", 0.7, steps=4, schedule=name))
        assert all(np.array_equal(steps.mask.tensors[key], keep) for key, keep in once.mask.tensors.items())


def test_refilled_units_are_whole():
    dense = net()
    result = prune(dense, Plan("magnitude", 0.5, "channel", refill=True))
    weights = prune(dense, Plan("magnitude", 0.5)).mask.tensors
    kept = result.mask.tensors["c0"].any(axis=(1, 2, 3))
    assert (result.mask.tensors["c0"][kept]).all()
    left = (np.abs(initializers(dense.proto)["c0"]) * weights["c0"]).mean(axis=(1, 2, 3))
    assert left[kept].min() >= left[~kept].max()


@pytest.mark.parametrize(
    ("settings_", "gone"),
    [
        ({"include": ("fc*",)}, {"w0", "w1"}),
        ({"exclude": ("conv1", "w1")}, {"c0", "w0"}),
        ({"include": ("conv*",), "exclude": ("c0",)}, {"c1"}),
        ({"sparsity": None, "ratios": {"conv0": 0.5, "w*": 0.25}}, {"c0", "w0", "w1"}),
    ],
)
def test_patterns_choose_layers(settings_, gone):
    result = prune(net(), Plan("magnitude", **{"sparsity": 0.5, **settings_}))
    assert {name for name, keep in result.mask.tensors.items() if not keep.all()} == gone


def test_ratios_are_each_layers_own():
    result = prune(net(), Plan("magnitude", 0.1, ratios={"conv0": 0.5, "conv*": 0.25}))
    shares = {name: (~keep).mean() for name, keep in result.mask.tensors.items()}
    assert shares == pytest.approx({"c0": 0.5, "c1": 0.25, "w0": 0.1, "w1": 0.1})


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"granularity": "3:2"}, "expected 0 < N < M"),
        ({"granularity": "blocks"}, "unknown granularity 'blocks': expected weight, N:M"),
        ({"granularity": "grouped-kernel:1"}, "at least 2 groups"),
        ({"granularity": "2:4", "sparsity": 0.5}, "leave out a sparsity"),
        ({"granularity": "2:4", "steps": 3}, "leave out steps"),
        ({"granularity": "2:4", "scope": "global"}, "expected scope layer"),
        ({"sparsity": None}, "no sparsity"),
        ({"sparsity": 0.5, "scope": "all"}, "unknown scope 'all': expected one of global, layer, erk"),
        ({"sparsity": 0.5, "scope": "global", "ratios": {"a": 0.1}}, "ratios are for each layer alone"),
        ({"ratios": {"a": 1.5}}, "ratio a 1.5: expected a share"),
        ({"sparsity": 0.5, "schedule": "slow"}, "unknown schedule 'slow'"),
        ({"sparsity": 0.5, "steps": 0}, "0 steps"),
        ({"sparsity": 0.5, "refill": True}, "refill chooses larger units"),
        ({"sparsity": 0.5, "reduction": "l2"}, "nothing to reduce"),
        ({"sparsity": 0.5, "normaliser": "best"}, "unknown normaliser 'best'"),
        ({"criterion": "bn-scale", "sparsity": 0.5}, "scores channels: expected granularity channel"),
    ],
)
def test_what_does_not_go_together_is_refused(settings_, message):
    with pytest.raises(InputError, match=message) as caught:
        Plan(**{"criterion": "magnitude", **settings_})
    assert "\n" not in str(caught.value)


def test_patterns_that_match_nothing_are_refused():
    with pytest.raises(
        InputError, match=r"net\.onnx: pattern 'con' matches no layer \(there are conv0, conv1, fc0, fc1\)"
    ):
        prune(net(), Plan("magnitude", 0.5, include=("con",)))
    with pytest.raises(InputError, match="pattern 'fd0' matches no layer"):
        prune(net(), Plan("magnitude", ratios={"fd0": 0.5}))
    with pytest.raises(InputError, match="the patterns leave no layer"):
        prune(net(), Plan("magnitude", 0.5, exclude=("*",)))


@pytest.mark.parametrize("granularity", ["kernel", "grouped-kernel:2"])
def test_a_network_without_such_units_is_refused(granularity):
    with pytest.raises(InputError, match=f"no prunable {granularity.split(':')[0]}: expected a Conv"):
        prune(from_proto(mlp([4, 5, 2])), Plan("magnitude", 0.5, granularity))
