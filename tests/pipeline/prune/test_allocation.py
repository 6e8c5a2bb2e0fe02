"""How many units go and which: exact counts, ties, and nothing that comes back at a higher sparsity."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secateur.pipeline.prune import allocation, schedule

POOLS = st.lists(
    hnp.arrays(np.float64, st.integers(1, 12), elements=st.sampled_from([-1.5, 0, 0.25, 1, 3])),
    min_size=1,
    max_size=5,
)
SHAPES = st.lists(st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple), min_size=1, max_size=6)
CURVES = st.lists(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9]), st.floats(-0.1, 1)),
        max_size=4,
        unique_by=lambda p: p[0],
    ).map(sorted),
    min_size=1,
    max_size=5,
)


@given(POOLS, st.data())
def test_the_lowest_go_ties_by_position(pools, data):
    flat = np.concatenate(pools)
    count = data.draw(st.integers(0, len(flat)))
    dropped = np.concatenate(allocation.lowest(pools, count))
    expected = np.zeros(len(flat), bool)
    expected[np.argsort(flat, kind="stable")[:count]] = True
    assert np.array_equal(dropped, expected)


@given(POOLS, st.data(), st.integers(1, 4))
def test_kth_lowest_by_pivots_is_that_of_sorting(pools, data, few):
    for scores in pools:  # what went before, and what must stay
        scores[data.draw(hnp.arrays(bool, len(scores)))] = -np.inf
        scores[data.draw(hnp.arrays(bool, len(scores)))] = np.inf
    flat = np.sort(np.concatenate(pools))
    finite = int((flat < np.inf).sum())
    for k in range(1, finite + 1):
        assert allocation.kth_lowest(pools, k, few) == flat[k - 1]


def test_kth_lowest_of_many_scores():
    pools = [
        np.random.default_rng(i).normal(size=size).astype(np.float32)
        for i, size in enumerate((90_000, 7, 30_000))
    ]
    flat = np.sort(np.concatenate(pools))
    for k in (1, 2, 17, 60_000, 119_999, 120_007):
        assert allocation.kth_lowest(pools, k, few=100) == flat[k - 1]


@given(hnp.arrays(np.float64, (3, 6), elements=st.sampled_from([0.0, 1.0, 2.0])), st.integers(0, 6))
def test_every_row_loses_as_many(scores, count):
    dropped = allocation.lowest_of_rows(scores, count)
    assert (dropped.sum(axis=1) == count).all()
    for row, drop in zip(scores, dropped, strict=True):
        assert np.array_equal(drop, allocation.lowest([row], count)[0])


@given(POOLS)
def test_protected_units_never_go(pools):
    for scores in pools:
        best = scores.max()
        allocation.protect(scores, 1)
        assert (scores == np.inf).sum() == 1
        assert not (scores[:-1][scores[1:] == np.inf] > best).any()
    dropped = allocation.lowest(pools, 1000)
    assert all((~drop).sum() == 1 for drop in dropped)


def families() -> st.SearchStrategy[tuple[allocation.Family, int]]:
    erk = SHAPES.map(lambda shapes: (allocation.erk([[shape] for shape in shapes]), len(shapes)))
    measured = CURVES.map(lambda curves: (allocation.measured(curves), len(curves)))
    return st.one_of(erk, measured)


@given(families(), st.data())
def test_families_share_out_exact_totals_that_only_grow(family, data):
    family, count = family
    sizes = data.draw(st.lists(st.integers(1, 50), min_size=count, max_size=count))
    before = [0] * count
    for total in sorted(data.draw(st.lists(st.integers(0, sum(sizes)), min_size=1, max_size=6))):
        counts = allocation.exactly(family, sizes, total)
        assert sum(counts) == total
        assert all(low <= high <= size for low, high, size in zip(before, counts, sizes, strict=True))
        before = counts


def test_erk_gives_densities_in_proportion():
    """Three layers, none of which is at its limit: density × (product / sum of its sizes) is the same for all."""
    shapes = [(400, 300), (300, 200, 3, 3), (100, 300)]
    sizes = [int(np.prod(shape)) for shape in shapes]
    counts = allocation.exactly(
        allocation.erk([[shape] for shape in shapes]), sizes, round(0.95 * sum(sizes))
    )
    factor = [
        (1 - count / size) * size / sum(shape)
        for count, size, shape in zip(counts, sizes, shapes, strict=True)
    ]
    assert factor == pytest.approx([factor[0]] * 3, rel=1e-2)


def test_measured_ratios_cost_the_same():
    """The second layer loses accuracy twice as fast: it is pruned half as much."""
    curves = [[(0.4, 0.1), (0.8, 0.2)], [(0.4, 0.2), (0.8, 0.4)]]
    counts = allocation.exactly(allocation.measured(curves), [1000, 1000], 600)
    assert counts == [pytest.approx(400, abs=1), pytest.approx(200, abs=1)]


@pytest.mark.parametrize("name", schedule.SCHEDULES)
@given(sparsity=st.floats(0, 1), steps=st.integers(1, 12))
def test_schedules_grow_to_what_was_asked(name, sparsity, steps):
    course = [until(sparsity) for until in schedule.course(name, steps)]
    assert len(course) == steps
    assert course[-1] == sparsity
    assert all(0 <= low <= high + 1e-12 for low, high in pairwise(course))


def test_schedules_are_those_of_their_sources():
    geometric = [1 - until(1 - 0.8**5) for until in schedule.course("geometric", 5)]
    assert geometric == pytest.approx([0.8**k for k in range(1, 6)])
    assert [until(0.6) for until in schedule.course("linear", 3)] == pytest.approx([0.2, 0.4, 0.6])
    assert [until(0.8) for until in schedule.course("cubic", 2)] == pytest.approx([0.7, 0.8])
