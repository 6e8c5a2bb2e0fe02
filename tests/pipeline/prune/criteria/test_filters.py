"""Data-free criteria against their definitions, written out."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from factories import cnn, mlp, model
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import from_proto, initializers, set_initializer
from secateur.pipeline.prune import criteria, layers, prune
from secateur.pipeline.prune.criteria import Context
from secateur.pipeline.prune.criteria.behind import behind


def score(name: str, proto: onnx.ModelProto) -> criteria.Saliency:
    source = from_proto(proto, "net.onnx")
    return criteria.score(name, Context(source, tuple(layers.find(source.proto))))


def test_lamp_is_a_double_loop():
    proto = mlp([3, 4, 2], seed=5)
    for name, found in score("lamp", proto).items():
        weights = np.abs(initializers(proto)[name].astype(np.float64)).ravel()
        expected = [w**2 / sum(v**2 for v in weights if v >= w) for w in weights]
        assert np.allclose(found.ravel(), expected)


@pytest.mark.parametrize("proto", [mlp([5, 7, 3], seed=3), cnn(seed=3)], ids=["mlp", "cnn"])
def test_fpgm_sums_distances(proto):
    for name, found in score("fpgm", proto).items():
        filters = initializers(proto)[name].astype(np.float64).reshape(len(found), -1)
        expected = [sum(np.linalg.norm(a - b) for b in filters) for a in filters]
        assert np.allclose(found, expected)


def test_fpgm_drops_what_lies_in_the_middle():
    """The published point: not the smallest filter goes, but the one that the others surround."""
    proto = mlp([2, 5, 3])
    filters = np.array([[9, 9], [11, 9], [9, 11], [11, 11], [10, 10]], np.float32)
    set_initializer(proto, "fc0.weight", filters)
    assert score("fpgm", proto)["fc0.weight"].argmin() == 4


@given(st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_cosine_compares_with_longer_filters(seed):
    random = np.random.default_rng(seed)
    proto = mlp([3, 6, 2])
    filters = random.integers(-2, 3, size=(6, 3)).astype(np.float32)
    set_initializer(proto, "fc0.weight", filters)
    found = score("cosine", proto)["fc0.weight"]
    keys = [(np.linalg.norm(f), i) for i, f in enumerate(filters)]
    for i, own in enumerate(filters):
        longer = [f for f, key in zip(filters, keys, strict=True) if key > keys[i]]
        if not own.any():
            expected = 0.0
        else:
            cosines = [own @ f / np.linalg.norm(own) / np.linalg.norm(f) for f in longer]
            expected = 1 - max(cosines) if cosines else 1.0
        assert found[i] == pytest.approx(expected, abs=1e-6)


def test_of_two_filters_alike_one_stays():
    proto = mlp([3, 4, 2], seed=1)
    filters = np.array([[1, 0, 0], [0, 2, 0], [3, 0, 0], [0, 0, 1]], np.float32)
    set_initializer(proto, "fc0.weight", filters)
    mask = prune(from_proto(proto), "cosine", sparsity=0.25, granularity="channel").mask.tensors["fc0.weight"]
    assert mask.any(axis=1).tolist() == [False, True, True, True]


def test_large_layers_are_scored_in_parts(monkeypatch):
    proto = mlp([6, 11, 3], seed=7)
    whole = {name: score(name, proto)["fc0.weight"] for name in ("fpgm", "cosine")}
    monkeypatch.setattr("secateur.pipeline.prune.criteria.filters._ROWS", 4)
    for name, expected in whole.items():
        assert np.allclose(score(name, proto)["fc0.weight"], expected), name


def test_batchnorm_scales_score_their_channels_and_the_rest_stays():
    proto = cnn(seed=2, channels=6)
    found = score("bn-scale", proto)
    assert set(found) == {"conv0.weight"}
    assert np.allclose(found["conv0.weight"], np.abs(initializers(proto)["bn0.scale"]))
    result = prune(from_proto(proto), "bn-scale", sparsity=0.5, granularity="channel")
    gone = ~result.mask.tensors["conv0.weight"].any(axis=(1, 2, 3))
    assert set(np.flatnonzero(gone)) == set(np.argsort(found["conv0.weight"])[:3])
    assert result.mask.tensors["conv1.weight"].any(axis=(1, 2, 3)).all()
    assert result.unscored == ("conv1",)
    assert result.summary().endswith("1 without scores left alone: conv1")
    with pytest.raises(InputError, match="no scores for any layer: no BatchNormalization stands behind it"):
        score("bn-scale", mlp([3, 4, 2]))


def test_the_way_behind_a_layer_leads_through_sums_and_pools_but_not_through_layers():
    random = np.random.default_rng(0)
    norms = {f"{n}.{part}": np.ones(2, np.float32) for n in "ab" for part in ("scale", "bias", "mean", "var")}
    constants = norms | {f"w{i}": random.normal(size=(2, 2, 1, 1)).astype(np.float32) for i in range(3)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"]),
        helper.make_node("BatchNormalization", ["c0", "a.scale", "a.bias", "a.mean", "a.var"], ["n0"]),
        helper.make_node("Conv", ["n0", "w1"], ["c1"]),
        helper.make_node("MaxPool", ["c1"], ["p1"], kernel_shape=[2, 2]),
        helper.make_node("MaxPool", ["n0"], ["p0"], kernel_shape=[2, 2]),
        helper.make_node("Add", ["p0", "p1"], ["s"]),
        helper.make_node("BatchNormalization", ["s", "b.scale", "b.bias", "b.mean", "b.var"], ["n1"]),
        helper.make_node("Relu", ["n1"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["y"]),
    ]
    proto = model(nodes, constants, ["N", 2, 4, 4], ["N", 2, 3, 3])
    found = behind(proto, layers.find(proto))
    assert [found[f"w{i}"].relu for i in range(3)] == ["r", "r", None]
    scales = [norm and norm.input[1] for norm in (found[f"w{i}"].batchnorm for i in range(3))]
    assert scales == ["b.scale", "b.scale", None]


@pytest.mark.parametrize("name", ["random", "magnitude", "lamp", "bn-scale", "fpgm", "cosine"])
def test_same_seed_same_scores(name):
    first, again = (score(name, cnn(seed=4)) for _ in range(2))
    assert all(a.tobytes() == b.tobytes() for a, b in itertools.zip_longest(first.values(), again.values()))
