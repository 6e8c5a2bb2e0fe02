"""Clusters of the same size, for granularities that need as many filters in each group."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_ROUNDING = 1e-12  # of the largest cost: a detour has to save more than this


def alike(features: Floats, groups: int, rounds: int = 20) -> Indices:
    """Rows of `features` in clusters of the same size [groups, rows / groups]: k-means on rows of length 1, where
    each round assigns rows to places at the least total distance. The first centres are far from each other, found
    one after the other from the first row."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    rows = np.divide(features, lengths, out=np.zeros_like(features), where=lengths > 0)
    each = len(rows) // groups
    chosen = [0]
    nearest = np.full(len(rows), np.inf)
    while len(chosen) < groups:
        nearest = np.minimum(nearest, np.square(rows - rows[chosen[-1]]).sum(axis=1))
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
    centres, members = rows[chosen], None
    for _ in range(rounds):
        distances = (
            np.square(rows).sum(axis=1)[:, None] + np.square(centres).sum(axis=1) - 2 * rows @ centres.T
        )
        previous, members = members, np.argsort(balanced(distances), kind="stable").reshape(groups, each)
        if previous is not None and np.array_equal(previous, members):
            break
        centres = rows[members].mean(axis=1)
    assert members is not None
    return members


def balanced(costs: Floats) -> Indices:
    """A group for each row of `costs` [rows, groups], as many rows in each, at the least total cost.

    Successive shortest paths (Ahuja, Magnanti, Orlin 1993, "Network Flows", section 9.7), between the few groups
    instead of the many rows: all rows start in their cheapest group; as long as a group has too many, one row moves out
    of it, on a chain of groups each of which hands one on, to a group that has too few, at the least extra cost.
    """
    count, groups = costs.shape
    each, slack = count // groups, _ROUNDING * max(1.0, float(np.abs(costs).max(initial=0.0)))
    place: Indices = costs.argmin(axis=1)
    sizes = np.bincount(place, minlength=groups)
    extra = np.full((groups, groups), np.inf)  # what it costs to move the best row from one group to another,
    mover = np.zeros((groups, groups), np.intp)  # and which row that is
    stale = set(range(groups))
    while (sizes > each).any():
        for group in stale:
            rows = np.flatnonzero(place == group)
            if len(rows):
                moves = costs[rows] - costs[rows, group][:, None]
                best = moves.argmin(axis=0)
                extra[group], mover[group] = moves[best, np.arange(groups)], rows[best]
            else:
                extra[group] = np.inf
        path = _cheapest(extra, sizes > each, sizes < each, slack)
        for source, target in pairwise(path):
            place[mover[source, target]] = target
        sizes[path[0]] -= 1
        sizes[path[-1]] += 1
        stale = set(path)
    return place


def _cheapest(
    extra: Floats, sources: NDArray[np.bool_], targets: NDArray[np.bool_], slack: float
) -> list[int]:
    """The cheapest path from some source to some target, by Bellman and Ford."""
    cost = np.where(sources, 0.0, np.inf)
    before = np.full(len(cost), -1)
    for _ in range(len(cost) - 1):
        through = cost[:, None] + extra
        best = through.argmin(axis=0)
        better = through[best, np.arange(len(cost))] < cost - slack
        before[better], cost[better] = best[better], through[best, np.arange(len(cost))][better]
    path = [int(np.where(targets, cost, np.inf).argmin())]
    while before[path[0]] >= 0:
        path.insert(0, int(before[path[0]]))
    return path
