"""Stability criteria against the bounds that `verify` gives for networks cut off in front of a ReLU."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from factories import box_property, cnn, mlp, model
from secateur.formats import vnnlib
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model, from_proto, initializers, set_initializer
from secateur.pipeline import onnxrt
from secateur.pipeline.prune import criteria, layers, prune
from secateur.pipeline.prune.criteria import Context, Samples
from secateur.pipeline.verify import bounds

NAMES = ["instability", "rs", "nrs", "unstable", "bound-width"]
EPSILON = 0.05


def score(name: str, source: Model, samples: Samples | None, **changes) -> criteria.Saliency:
    found = tuple(layers.find(source.proto))
    return criteria.score(name, Context(source, found, data=samples, **{"epsilon": EPSILON, **changes}))


def cut(source: Model, value: str) -> Model:
    proto = onnx.ModelProto.FromString(source.proto.SerializeToString())
    shape = onnxrt.value_shapes(source)[value]
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, shape))
    return from_proto(proto)


def argument_bounds(source: Model, value: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of `value`, [samples, channels, positions], by the public function on one ball at a time."""
    inner, shape = cut(source, value), onnxrt.value_shapes(source)[value]
    sides = []
    for image in images.astype(np.float64).reshape(len(images), -1):
        low, high = np.clip(image - EPSILON, 0, 1), np.clip(image + EPSILON, 0, 1)
        text = box_property(low.tolist(), high.tolist(), int(np.prod(shape)), "(<= Y_0 0.0)")
        (region,) = bounds(inner, vnnlib.parse(text, "ball"), "ibp").regions
        sides.append((region.lower, region.upper))
    both = np.array(sides).reshape(len(images), 2, shape[1], -1)
    return both[:, 0], both[:, 1]


@pytest.mark.parametrize(
    ("proto", "arguments"),
    [
        (cnn(seed=2), {"conv0.weight": "b0", "conv1.weight": "c1"}),
        (mlp([6, 7, 5, 3], seed=2), {"fc0.weight": "fc0", "fc1.weight": "fc1"}),
    ],
    ids=["cnn", "mlp"],
)
def test_scores_follow_from_the_bounds(proto, arguments):
    source = from_proto(proto)
    images = np.random.default_rng(0).random((3, onnxrt.count_inputs(source)), np.float32)
    scale = np.abs(initializers(proto).get("bn0.scale", np.ones(1)).astype(np.float64))
    found = {name: score(name, source, Samples(images)) for name in NAMES}
    for weight, value in arguments.items():
        low, high = argument_bounds(source, value, images)
        square = scale.reshape(1, -1, 1) ** 2 if weight == "conv0.weight" else 1.0
        product, unstable = low * high, (low < 0) & (high > 0)
        expected = {
            "instability": -np.where(unstable, -product, 0.0),
            "rs": np.tanh(1 + product),
            "nrs": np.tanh(1 + product / square),
            "unstable": -unstable.astype(float),
            "bound-width": low - high,
        }
        assert unstable.any() and not unstable.all()
        for name in NAMES:
            assert np.allclose(found[name][weight], expected[name].mean(axis=(0, 2)), atol=1e-6), (
                name,
                weight,
            )
    assert set(found["rs"]) == set(arguments)


@pytest.mark.parametrize("name", NAMES)
def test_unstable_channels_score_lowest(name):
    """A channel whose argument swings about zero, beside ones that are surely active and surely not."""
    proto = mlp([3, 3, 2], seed=1)
    set_initializer(proto, "fc0.weight", np.array([[1, 0, 0], [4, -4, 4], [1, 0, 0]], np.float32))
    set_initializer(proto, "fc0.bias", np.array([5, -2, -5], np.float32))
    samples = Samples(np.full((2, 3), 0.5, np.float32))
    result = prune(
        from_proto(proto), name, sparsity=1 / 3, granularity="channel", data=samples, epsilon=EPSILON
    )
    assert result.mask.tensors["fc0.weight"].any(axis=1).tolist() == [True, False, True]


def test_linear_bounds_are_tighter_and_samples_in_parts_the_same(monkeypatch):
    source = from_proto(mlp([6, 9, 9, 3], seed=5))
    samples = Samples(np.random.default_rng(0).random((7, 6), np.float32))
    intervals, linear = (
        score("bound-width", source, samples, options={"bounds": b}) for b in ("ibp", "crown")
    )
    assert (linear["fc1.weight"] >= intervals["fc1.weight"]).all()
    assert (linear["fc1.weight"] > intervals["fc1.weight"]).any()
    monkeypatch.setattr("secateur.pipeline.prune.criteria.stability._NUMBERS", 1)
    alone = score("bound-width", source, samples)
    assert all(np.allclose(alone[name], intervals[name]) for name in intervals)


def test_pooling_before_and_behind_the_relu():
    """The engine bounds a MaxPool by ReLUs of its own, which are nobody's neurons."""
    weight = np.random.default_rng(0).normal(size=(3, 1, 3, 3)).astype(np.float32)
    first = [helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3])]
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    last = [helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("MatMul", ["f", "v"], ["y"])]
    constants = {"w": weight, "v": np.ones((12, 2), np.float32)}
    relu_first = [helper.make_node("Relu", ["c"], ["r"]), helper.make_node("MaxPool", ["r"], ["p"], **pool)]
    pool_first = [helper.make_node("MaxPool", ["c"], ["m"], **pool), helper.make_node("Relu", ["m"], ["p"])]
    images = Samples(np.random.default_rng(1).random((4, 36), np.float32))
    found = []
    for middle in (relu_first, pool_first):
        proto = model([*first, *middle, *last], constants, ["N", 1, 6, 6], ["N", 2])
        found.append(score("bound-width", from_proto(proto), images)["w"])
    weights = np.abs(weight.astype(np.float64)).reshape(3, -1).sum(axis=1)
    assert (found[0] >= -2 * EPSILON * weights - 1e-6).all() and (found[0] < -EPSILON * weights).all()
    assert (found[1] < 0).all()


def test_bounds_that_are_infinite_count_as_very_wide():
    """The interval of an Exp overflows; what reads it has no bounds, and scores lowest of all."""
    constants = {
        "big": np.full((2, 2), 1e4, np.float32),
        "w": np.ones((2, 3), np.float32),
        "v": np.ones((3, 2), np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "big"], ["m"]),
        helper.make_node("Exp", ["m"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    source = from_proto(model(nodes, constants, ["N", 2], ["N", 2]))
    for name in NAMES:
        found = score(name, source, Samples(np.ones((2, 2), np.float32)))["w"]
        assert np.isfinite(found).all(), name


def test_inputs_outside_the_unit_box_are_not_clipped():
    source = from_proto(mlp([6, 9, 3], seed=5))
    images = np.full((1, 6), 2.0, np.float32)
    width = np.abs(initializers(source.proto)["fc0.weight"].astype(np.float64)).sum(axis=1) * 2 * EPSILON
    assert np.allclose(score("bound-width", source, Samples(images))["fc0.weight"], -width)


@pytest.mark.parametrize("name", NAMES)
def test_same_bytes_and_named_needs(name):
    source, images = from_proto(cnn(seed=2), "net.onnx"), np.random.default_rng(0).random((3, 64), np.float32)
    first, again = (score(name, source, Samples(images)) for _ in range(2))
    assert all(first[key].tobytes() == again[key].tobytes() for key in first)
    with pytest.raises(InputError, match=rf"net\.onnx: criterion '{name}' needs data"):
        score(name, source, None)
    with pytest.raises(InputError, match=f"criterion '{name}' needs a positive ε"):
        score(name, source, Samples(images), epsilon=None)
    with pytest.raises(InputError, match="expected one of ibp, crown"):
        score(name, source, Samples(images), options={"bounds": "best"})
    with pytest.raises(InputError, match="no Relu, or Clip from 0, stands behind it"):
        score(name, from_proto(mlp([64, 2])), Samples(images))


def activated(kind: str) -> onnx.ModelProto:
    """Gemm – an activation as exporters write it – Gemm."""
    forms: dict[str, tuple[list[tuple[str, list[str], str]], dict[str, np.ndarray]]] = {
        "relu": ([("Relu", ["h"], "a")], {}),
        "relu6": ([("Clip", ["h", "zero", "six"], "a")], {"zero": np.float32(0), "six": np.float32(6)}),
        "clip": ([("Clip", ["h", "one", "six"], "a")], {"one": np.float32(1), "six": np.float32(6)}),
        "gelu": (
            [
                ("Div", ["h", "root"], "d"),
                ("Erf", ["d"], "e"),
                ("Add", ["e", "one"], "f"),
                ("Mul", ["h", "f"], "g"),
                ("Mul", ["g", "half"], "a"),
            ],
            {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)},
        ),
        "silu": ([("Sigmoid", ["h"], "s"), ("Mul", ["s", "h"], "a")], {}),
        "sigmoid": ([("Sigmoid", ["h"], "a")], {}),
    }
    parts, constants = forms[kind]
    random = np.random.default_rng(3)
    weights = {
        "w0": random.normal(size=(4, 6)),
        "b0": random.normal(size=6),
        "w1": random.normal(size=(6, 2)),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["h"], "first"),
        *(helper.make_node(op, into, [out], f"node {out}") for op, into, out in parts),
        helper.make_node("Gemm", ["a", "w1"], ["y"], "last"),
    ]
    arrays = {name: np.asarray(array, np.float32) for name, array in (weights | constants).items()}
    return model(nodes, arrays, ["N", 4], ["N", 2])


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize("name", NAMES)
def test_relu6_counts_as_the_relu_at_its_lower_end(name, method):
    images = np.random.default_rng(0).random((3, 4), np.float32)
    plain, clipped = (
        score(name, from_proto(activated(kind)), Samples(images), epsilon=0.3, options={"bounds": method})
        for kind in ("relu", "relu6")
    )
    assert plain.keys() == clipped.keys() == {"w0"}
    assert np.allclose(plain["w0"], clipped["w0"])
    assert len(np.unique(plain["w0"])) > 1


@pytest.mark.parametrize(
    ("kind", "node"),
    [
        ("clip", "Clip 'node a'"),
        ("gelu", "Mul 'node g'"),
        ("silu", "Mul 'node a'"),
        ("sigmoid", "Sigmoid 'node a'"),
    ],
)
def test_what_is_no_relu_is_named(kind, node):
    """The activation is what gives the activated value: of x·g(x), the product."""
    images = np.random.default_rng(0).random((3, 4), np.float32)
    with pytest.raises(InputError, match=f"no scores for any layer: {node}, behind first, is no ReLU"):
        score("rs", from_proto(activated(kind)), Samples(images))
