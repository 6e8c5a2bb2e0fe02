"""Verdicts through every operator: never against a sample, and with ReLUs alone as MILP says."""

from __future__ import annotations

import numpy as np
import pytest

from cases import CASES, case
from cases.piecewise import PIECEWISE
from factories import box_property
from nets import INPUTS
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline import onnxrt
from secateur.pipeline.verify import verify

VARYING, SIDE = 2, 41


def landscape(name: str, seed: int) -> tuple[Model, np.ndarray, np.ndarray, float, float]:
    """A case's network, a box of which two sides have width, and on a dense grid in it the least Y_0 and its spread."""
    model = case(name, seed)
    random = np.random.default_rng(seed)
    low = random.uniform(-1, 1, INPUTS).astype(np.float32)
    high = low.copy()
    high[:VARYING] += np.float32(0.5)
    share = np.linspace(0, 1, SIDE, dtype=np.float32)
    x = np.tile(low, (SIDE**2, 1))
    x[:, 0] += np.repeat(share, SIDE) * np.float32(0.5)
    x[:, 1] += np.tile(share, SIDE) * np.float32(0.5)
    y = onnxrt.run(model, np.clip(x, low, high))[:, 0]
    return model, low, high, float(y.min()), float(y.max() - y.min())


def below(low: np.ndarray, high: np.ndarray, threshold: float) -> Query:
    text = box_property(low.astype(float).tolist(), high.astype(float).tolist(), 2, f"(<= Y_0 {threshold!r})")
    return vnnlib.parse(text, "p")


@pytest.mark.parametrize("name", CASES)
def test_verdicts_are_never_against_a_sample(name: str) -> None:
    model, low, high, least, spread = landscape(name, 4)
    spread = max(spread, 1e-3)
    assert verify(model, below(low, high, least + 0.01 * spread), timeout=20).verdict == "sat"
    assert verify(model, below(low, high, least - 0.5 * spread), timeout=20).verdict == "unsat"


@pytest.mark.parametrize("name", PIECEWISE)
def test_sums_of_relus_are_decided_as_by_milp(name: str) -> None:
    model, low, high, least, spread = landscape(name, 5)
    for shift in (-0.1, -0.01, 0.01):
        query = below(low, high, least + shift * max(spread, 1e-3))
        exact = verify(model, query, timeout=20, verifier="milp").verdict
        found = verify(model, query, timeout=20).verdict
        assert found == exact or exact == "unknown"  # near its tolerances MILP does not say
