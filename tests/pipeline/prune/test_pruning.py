"""Masks from scores: exact counts, ties, scopes, granularities, and the third-party oracle."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from factories import cnn, mlp, model
from secateur.formats import onnx_model
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import from_proto, initializers
from secateur.pipeline import onnxrt
from secateur.pipeline.prune import CRITERIA, apply, prune

FREE = sorted(name for name, row in CRITERIA.items() if row.unit == "weight" and not row.needs)


@pytest.mark.data
@pytest.mark.parametrize("percent", [10, 30, 50, 70, 80, 90])
def test_layerwise_magnitude_gives_the_third_party_masks(shared_data, percent):
    folder = shared_data / "pruned_nets" / "fanc"
    dense = onnx_model.read(str(folder / "fcnn7_mnist_dense.onnx"))
    theirs = initializers(onnx_model.read(str(folder / f"fcnn7_mnist_sparse{percent}.onnx")).proto)
    ours = prune(dense, "magnitude", sparsity=percent / 100, scope="layer")
    assert len(ours.mask.tensors) == 8
    for name, keep in ours.mask.tensors.items():
        assert np.array_equal(keep, theirs[name] != 0), name
    for name, array in initializers(ours.proto).items():
        assert np.array_equal(array, theirs[name]), name


@given(
    st.floats(0, 1),
    st.sampled_from(["global", "layer"]),
    st.sampled_from(FREE),
    st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_exactly_k_weights_go_and_nothing_else_changes(sparsity, scope, criterion, seed):
    dense = from_proto(mlp([5, 7, 6, 3], seed=seed))
    result = prune(dense, criterion, sparsity=sparsity, scope=scope, seed=seed)
    before, after = initializers(dense.proto), initializers(result.proto)
    sizes = {name: array.size for name, array in before.items() if array.ndim == 2}
    assert set(result.mask.tensors) == set(sizes)
    gone = {name: int((~keep).sum()) for name, keep in result.mask.tensors.items()}
    if scope == "layer":
        assert gone == {name: min(round(sparsity * size), size - 1) for name, size in sizes.items()}
        assert result.wanted == sum(round(sparsity * size) for size in sizes.values())
    else:
        assert result.wanted == round(sparsity * sum(sizes.values()))
        assert result.pruned == min(result.wanted, sum(sizes.values()) - len(sizes))
    assert result.pruned == sum(gone.values())
    assert all(gone[name] < size for name, size in sizes.items())
    for name, array in before.items():
        assert np.array_equal(after[name], np.where(result.mask.tensors.get(name, True), array, 0))


def test_global_magnitude_drops_the_smallest_of_all_layers():
    dense = from_proto(mlp([5, 7, 6, 3], seed=1))
    result = prune(dense, "magnitude", sparsity=0.6)
    weights = {name: np.abs(initializers(dense.proto)[name]) for name in result.mask.tensors}
    dropped = np.concatenate([weights[name][~keep] for name, keep in result.mask.tensors.items()])
    kept = np.concatenate([weights[name][keep] for name, keep in result.mask.tensors.items()])
    assert dropped.max() <= kept.min()


def test_ties_go_in_order_of_position():
    proto = mlp([4, 4, 2])
    for name in ("fc0.weight", "fc1.weight"):
        onnx_model.set_initializer(proto, name, np.ones_like(initializers(proto)[name]))
    masks = prune(from_proto(proto), "magnitude", sparsity=10 / 24).mask.tensors
    assert np.array_equal(masks["fc0.weight"].ravel(), np.arange(16) >= 10)
    assert masks["fc1.weight"].all()


def test_random_depends_on_the_seed_alone():
    dense = from_proto(mlp([5, 7, 3]))
    first, again, other = (prune(dense, "random", sparsity=0.5, seed=seed) for seed in (3, 3, 4))
    assert onnx_model.to_bytes(first.proto) == onnx_model.to_bytes(again.proto)
    assert any((first.mask.tensors[n] != other.mask.tensors[n]).any() for n in first.mask.tensors)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("criterion", FREE)
def test_channels_that_go_are_exactly_zero_behind_their_activation(scope, criterion):
    dense = from_proto(cnn(seed=2, channels=6))
    result = prune(dense, criterion, sparsity=0.5, granularity="channel", scope=scope)
    assert result.pruned == result.wanted == 9  # of 6 + 12; the three outputs stay
    masks = result.mask.tensors
    parameters = {"conv0.bias", "bn0.scale", "bn0.bias", "conv1.bias"}
    assert set(masks) == {"conv0.weight", "conv1.weight", "fc.weight"} | parameters
    for value, name in (("r0", "conv0.weight"), ("r1", "conv1.weight")):
        inner = onnx.ModelProto.FromString(result.proto.SerializeToString())
        inner.graph.output[0].CopyFrom(onnx.ValueInfoProto(name=value))
        x = onnxrt.sample_inputs(64, seed=0, samples=8)
        rows = onnxrt.run(inner, x).reshape(8, len(masks[name]), -1)
        gone = ~masks[name].reshape(len(masks[name]), -1).any(axis=1)
        assert gone.any()
        assert (rows[:, gone] == 0).all()
        assert (rows[:, ~gone] != 0).any(axis=(0, 2)).any()


def test_channel_scores_of_layers_with_different_scale_compare():
    """Ten times larger weights in one layer must not shield that layer from global channel pruning."""
    dense = mlp([8, 16, 16, 3], seed=4)
    scaled = onnx.ModelProto.FromString(dense.SerializeToString())
    onnx_model.set_initializer(scaled, "fc0.weight", initializers(dense)["fc0.weight"] * np.float32(16))
    masks = [
        prune(from_proto(proto), "magnitude", sparsity=0.5, granularity="channel").mask.tensors
        for proto in (dense, scaled)
    ]
    assert all(np.array_equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_every_layer_keeps_a_channel():
    result = prune(from_proto(mlp([4, 6, 5, 3])), "magnitude", sparsity=1.0, granularity="channel")
    assert (result.wanted, result.pruned) == (11, 9)
    assert "2 fewer than asked" in result.summary()
    assert [int(result.mask.tensors[f"fc{i}.weight"].any(axis=1).sum()) for i in (0, 1)] == [1, 1]


def test_conv_transpose_and_matmul_channels_lie_on_their_own_axes():
    random = np.random.default_rng(0)
    constants = {
        "w0": random.normal(size=(1, 5, 2, 2)).astype(np.float32),
        "w1": random.normal(size=(45, 4)).astype(np.float32),
        "b1": random.normal(size=4).astype(np.float32),
        "w2": random.normal(size=(4, 2)).astype(np.float32),
    }
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w0"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "w1"], ["m"]),
        helper.make_node("Add", ["b1", "m"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["y"]),
    ]
    masks = prune(
        from_proto(model(nodes, constants, ["N", 1, 2, 2], ["N", 2])),
        "magnitude",
        sparsity=0.5,
        granularity="channel",
        scope="layer",
    ).mask.tensors
    assert {name: mask.shape for name, mask in masks.items()} == {
        "w0": (1, 5, 2, 2),
        "w1": (45, 4),
        "b1": (4,),
        "w2": (4, 2),
    }
    assert int((~masks["w0"][0, :, 0, 0]).sum()) == 2
    assert np.array_equal(masks["w1"].any(axis=0), masks["b1"])
    assert np.array_equal(masks["w2"].any(axis=1), masks["b1"])
    assert np.array_equal(masks["w1"].any(axis=1), masks["w0"][0, :, 0, 0].repeat(9))


def test_channels_that_pass_a_layer_unmixed_stay():
    """The MatMul mixes the last axis; the convolution's channels are still the output's."""
    constants = {"w": np.ones((3, 1, 1, 1), np.float32), "m": np.ones((4, 2), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("MatMul", ["c", "m"], ["y"]),
    ]
    proto = model(nodes, constants, ["N", 1, 5, 4], ["N", 3, 5, 2])
    with pytest.raises(InputError, match="no prunable channel"):
        prune(from_proto(proto), "magnitude", sparsity=0.5, granularity="channel")


def test_half_precision_weights_are_pruned():
    proto = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
        ],
        {"w": np.arange(1, 7, dtype=np.float16).reshape(3, 2)},
        ["N", 3],
        ["N", 2],
        input_type=TensorProto.FLOAT16,
    )
    after = initializers(prune(from_proto(proto), "magnitude", sparsity=0.5).proto)["w"]
    assert after.dtype == np.float16
    assert after.ravel().tolist() == [0, 0, 0, 4, 5, 6]


def test_unsupported_and_unfit_models_are_refused_by_name():
    relu = model([helper.make_node("Relu", ["x"], ["y"])], {}, ["N", 3], ["N", 3])
    with pytest.raises(InputError, match="no prunable weight"):
        prune(from_proto(relu), "magnitude", sparsity=0.5)
    with pytest.raises(InputError, match="no prunable channel"):
        prune(from_proto(mlp([3, 2])), "magnitude", sparsity=0.5, granularity="channel")
    quantised = model(
        [
            helper.make_node("DequantizeLinear", ["w8", "scale"], ["w"]),
            helper.make_node("MatMul", ["x", "w"], ["y"], "fc"),
        ],
        {"w8": np.ones((3, 2), np.int8), "scale": np.array(0.5, np.float32)},
        ["N", 3],
        ["N", 2],
    )
    with pytest.raises(UnsupportedError, match="quantised weight 'w' of MatMul 'fc'"):
        prune(from_proto(quantised), "magnitude", sparsity=0.5)
    sparse = mlp([3, 2])
    values = numpy_helper.from_array(np.ones(1, np.float32), "extra")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "at")
    sparse.graph.sparse_initializer.add(values=values, indices=indices, dims=[4])
    with pytest.raises(UnsupportedError, match="sparse initializer 'extra'"):
        prune(from_proto(sparse), "magnitude", sparsity=0.5)
    with pytest.raises(InputError, match="unknown criterion 'magic'"):
        prune(from_proto(mlp([3, 2])), "magic", sparsity=0.5)
    with pytest.raises(InputError, match="between 0 and 1"):
        prune(from_proto(mlp([3, 2])), "magnitude", sparsity=1.5)


def test_apply_wants_the_model_the_mask_was_made_for():
    dense, retrained = (from_proto(mlp([4, 5, 2], seed=seed), "net.onnx") for seed in (0, 1))
    mask = prune(dense, "magnitude", sparsity=0.5).mask
    assert initializers(apply(dense, mask)).keys() == initializers(dense.proto).keys()
    with pytest.raises(InputError, match=r"net\.onnx: the mask was made for the model"):
        apply(retrained, mask)
    forced = initializers(apply(retrained, mask, force=True))
    assert np.array_equal(
        forced["fc0.weight"], initializers(retrained.proto)["fc0.weight"] * mask.tensors["fc0.weight"]
    )


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"nothing": np.ones(3, bool)}, "names 'nothing'"),
        ({"fc0.weight": np.ones((5, 5), bool)}, r"shape \(5, 5\)"),
    ],
)
def test_apply_names_what_does_not_fit(tensors, message):
    dense = from_proto(mlp([4, 5, 2]))
    with pytest.raises(InputError, match=message):
        apply(dense, Mask(tensors, dense.sha256, "magnitude", "weight"))


def test_provenance_tells_how_the_model_was_made():
    dense = from_proto(mlp([4, 5, 2]))
    step = onnx_model.provenance(prune(dense, "magnitude", sparsity=0.25).proto)[-1]
    assert step["command"] == "prune"
    assert step["source_sha256"] == dense.sha256
    assert step["arguments"] == {
        "criterion": "magnitude",
        "granularity": "weight",
        "scope": "global",
        "seed": 0,
        "sparsity": 0.25,
    }


@pytest.mark.parametrize("criterion", ["random", "magnitude"])
@pytest.mark.parametrize("granularity", ["weight", "channel", "block:2x2"])
def test_a_later_round_goes_on_from_the_mask_of_an_earlier_one(criterion, granularity):
    dense = from_proto(cnn(channels=8))
    first = prune(dense, criterion, sparsity=0.4, granularity=granularity, seed=1)
    # weights that came back in between must not count: it is the mask that says what is gone
    second = prune(dense, criterion, sparsity=0.7, granularity=granularity, seed=2, keep=first.mask)
    alone = prune(dense, criterion, sparsity=0.7, granularity=granularity, seed=2)
    assert second.wanted == alone.wanted == second.pruned
    assert second.mask.sparsity == pytest.approx(alone.mask.sparsity, abs=0.15)
    for name, keep in first.mask.tensors.items():
        assert not (second.mask.tensors[name] & ~keep).any(), name
    if criterion == "random":
        assert any(
            (second.mask.tensors[name] != alone.mask.tensors[name]).any() for name in alone.mask.tensors
        )
    if granularity == "weight":
        assert sum(int((~keep).sum()) for keep in second.mask.tensors.values()) == second.pruned
