"""CKA of residual branches, by another formula on values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from factories import mlp, model
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model, from_proto
from secateur.pipeline.prune import criteria, layers, prune
from secateur.pipeline.prune.criteria import Context, Samples
from secateur.pipeline.prune.criteria.similarity import alignment


def residual(strengths: tuple[float, ...], seed: int = 0) -> tuple[Model, dict[str, np.ndarray]]:
    """x [N, 6] -> Relu(x W), then h + strength · Relu(h A) B for each strength, then 3 outputs."""
    random = np.random.default_rng(seed)
    constants = {"w": random.normal(size=(6, 6)), "v": random.normal(size=(6, 3))}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["h0"])]
    for i, strength in enumerate(strengths):
        constants |= {f"a{i}": random.normal(size=(6, 6)), f"b{i}": strength * random.normal(size=(6, 6))}
        nodes += [
            helper.make_node("MatMul", [f"h{i}", f"a{i}"], [f"p{i}"]),
            helper.make_node("Relu", [f"p{i}"], [f"r{i}"]),
            helper.make_node("MatMul", [f"r{i}", f"b{i}"], [f"q{i}"]),
            helper.make_node(
                "Add", [f"h{i}", f"q{i}"] if i % 2 else [f"q{i}", f"h{i}"], [f"h{i + 1}"], f"add{i}"
            ),
        ]
    nodes.append(helper.make_node("MatMul", [f"h{len(strengths)}", "v"], ["y"]))
    arrays = {name: array.astype(np.float32) for name, array in constants.items()}
    return from_proto(model(nodes, arrays, ["N", 6], ["N", 3]), "net.onnx"), arrays


def score(source: Model, samples: Samples | None) -> criteria.Saliency:
    return criteria.score("cka", Context(source, tuple(layers.find(source.proto)), data=samples))


def by_covariances(x: np.ndarray, y: np.ndarray) -> float:
    """Kornblith et al., eq. 5: ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of centred columns."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def test_branches_score_what_they_change():
    source, c = residual((1.0, 0.01, 0.3))
    images = (
        np.random.default_rng(1).normal(size=(80, 6)).astype(np.float32)
    )  # more than are recorded at once
    found = score(source, Samples(images))
    hidden = np.maximum(images @ c["w"], 0).astype(np.float64)
    for i in range(3):
        after = hidden + np.maximum(hidden @ c[f"a{i}"], 0) @ c[f"b{i}"]
        assert found[f"add{i}"] == pytest.approx(1 - by_covariances(hidden, after), abs=1e-5)
        hidden = after
    assert found["add1"] < found["add2"] < found["add0"]
    kept = prune(source, "cka", sparsity=1 / 3, granularity="layer", data=Samples(images)).mask.tensors
    assert [name for name, mask in kept.items() if not mask.any()] == ["b1"]


@given(st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_alignment_ignores_rotation_scale_and_place(seed):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(12, 5)), random.normal(size=(12, 7))
    turn = np.linalg.qr(random.normal(size=(5, 5)))[0]
    value = alignment(x, y)
    assert 0 <= value <= 1 and value == pytest.approx(by_covariances(x, y))
    assert alignment(3 * x @ turn + 1, y) == pytest.approx(value)
    assert alignment(x, x @ turn) == pytest.approx(1)
    assert alignment(x, np.ones((12, 2))) == 0


def test_what_is_missing_is_named():
    source, _ = residual((1.0,))
    with pytest.raises(InputError, match=r"net\.onnx: criterion 'cka' needs data"):
        score(source, None)
    plain = from_proto(mlp([6, 5, 3]))
    with pytest.raises(InputError, match="no scores for any layer: it has no residual branch"):
        score(plain, Samples(np.zeros((2, 6), np.float32)))
