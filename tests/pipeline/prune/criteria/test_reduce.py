"""Reductions and normalisers against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.pipeline.prune.criteria.reduce import NORMALISERS, REDUCTIONS, lamp

scores = st.lists(st.integers(-4, 9), min_size=1, max_size=20).map(lambda x: np.array(x, np.float64) / 4)


def test_reductions():
    rows = np.array([[1.0, -2.0, 2.0], [0.0, 3.0, 4.0]])
    expected = {
        "sum": [1, 7],
        "mean": [1 / 3, 7 / 3],
        "max": [2, 4],
        "l1": [5, 7],
        "l2": [3, 5],
        "first": [1, 0],
    }
    assert set(expected) == set(REDUCTIONS)
    for name, values in expected.items():
        assert np.allclose(REDUCTIONS[name](rows), values), name


@given(scores)
@settings(max_examples=60, deadline=None)
def test_normalisers_keep_the_order(values):
    order = np.argsort(values, kind="stable")
    for name, normalise in NORMALISERS.items():
        result = normalise(values.copy())
        assert np.isfinite(result).all(), name
        assert (np.diff(result[order]) >= 0).all(), name


def test_means_and_norms_become_one():
    values = np.array([1.0, 2.0, 6.0])
    assert NORMALISERS["mean"](values).mean() == pytest.approx(1)
    assert np.linalg.norm(NORMALISERS["layer"](values)) == pytest.approx(1)
    assert (NORMALISERS["mean"](np.zeros(3)) == 0).all()


@given(scores.map(np.abs))
@settings(max_examples=60, deadline=None)
def test_lamp_by_its_definition(values):
    """Eq. 5 of 2010.07611, by a double loop: weights sorted, each over itself and all behind it."""
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    result = lamp(values)
    for place, index in enumerate(order):
        behind = sum(values[i] ** 2 for i in order[place:])
        assert result[index] == pytest.approx(values[index] ** 2 / behind if behind else 0.0)
    if values.any():
        assert result.max() == pytest.approx(1)
