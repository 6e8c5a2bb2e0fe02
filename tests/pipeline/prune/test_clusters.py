"""Clusters of the same size: as many rows in each, at the least cost that scipy's assignment finds, too."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from secateur.pipeline.prune.clusters import alike, balanced


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(1, 8))
def test_groups_are_full_at_the_least_cost(data, groups, each):
    numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-10, 10))
    costs = data.draw(arrays(np.float64, (groups * each, groups), elements=numbers))
    place = balanced(costs)
    assert np.bincount(place, minlength=groups).tolist() == [each] * groups
    best = costs.repeat(each, axis=1)[linear_sum_assignment(costs.repeat(each, axis=1))].sum()
    assert np.isclose(costs[np.arange(len(costs)), place].sum(), best, atol=1e-9)


def test_what_is_alike_comes_together():
    """Three directions, mixed and of any length."""
    random = np.random.default_rng(0)
    kinds = random.permutation(np.arange(12) % 3)
    rows = np.eye(3)[kinds] * random.uniform(0.5, 9, (12, 1)) + random.normal(size=(12, 3)) * 0.01
    members = alike(rows, 3)
    assert sorted(members.ravel().tolist()) == list(range(12))
    assert all(len(set(kinds[group].tolist())) == 1 for group in members)
