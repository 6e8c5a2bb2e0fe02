"""How many units of each layer go, and which: the lowest scores, ties in order of position, exactly as many as asked.

A *pool* here is an array of scores [units] (or [rows, units a row], where every row loses as many). The scopes:

* global: all pools are ranked together;
* layer: of each pool of n units, round(s·n) go;
* ratios: each pool has its own s, given by patterns of names, or drawn by a *family* of ratios: the Erdős–Rényi
  kernel rule, or what a sensitivity sweep measured. A family has one parameter in which every pool's ratio grows;
  it is set so that all pools together lose exactly round(s·n).

All of them are monotone: what goes at one sparsity goes at every higher one, as long as the scores stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scores = NDArray[np.floating[Any]]
Dropped = NDArray[np.bool_]
Family = Callable[[float], list[float]]
"""t in [0, 1] -> each pool's sparsity, from all 0 at t = 0 to all 1 at t = 1, none ever shrinking."""

_FEW = 1 << 18  # scores that are sorted in one piece: a copy of all of a large network's would not be small


def lowest(pools: Sequence[Scores], count: int) -> list[Dropped]:
    """The `count` lowest of all scores together, ties in order of position. Scores +inf never go."""
    count = min(count, sum(int(np.count_nonzero(scores < np.inf)) for scores in pools))
    if count <= 0:
        return [np.zeros(scores.shape, bool) for scores in pools]
    threshold = kth_lowest(pools, count)
    dropped = [np.asarray(scores < threshold) for scores in pools]
    left = count - sum(int(np.count_nonzero(drop)) for drop in dropped)
    for scores, drop in zip(pools, dropped, strict=True):
        ties = np.flatnonzero(scores == threshold)[:left]
        drop.reshape(-1)[ties] = True
        left -= len(ties)
    return dropped


def kth_lowest(pools: Sequence[Scores], k: int, few: int = _FEW) -> float:
    """The k-th lowest (from 1) of all scores together, found by pivots until about `few` are left to sort."""
    total = sum(scores.size for scores in pools)
    low, high = -np.inf, np.inf  # the answer is −inf, or it lies strictly between, or it is a pivot
    below = sum(int(np.count_nonzero(scores == low)) for scores in pools)
    above = sum(int(np.count_nonzero(scores == high)) for scores in pools)
    if k <= below:
        return low
    while True:
        step = max(1, (total - below - above) // few)
        # copies, since a view would hold all that it is taken from
        inside = np.concatenate([scores[(scores > low) & (scores < high)][::step].copy() for scores in pools])
        if step == 1:
            return float(np.partition(inside, k - below - 1)[k - below - 1])
        rank = min(len(inside), 1 + len(inside) * (k - below) // (total - below - above))
        pivot = float(np.partition(inside, rank - 1)[rank - 1])
        less = sum(int(np.count_nonzero(scores < pivot)) for scores in pools)
        equal = sum(int(np.count_nonzero(scores == pivot)) for scores in pools)
        if less < k <= less + equal:
            return pivot
        if k <= less:
            high, above = pivot, total - less
        else:
            low, below = pivot, less + equal


def lowest_of_rows(scores: Scores, count: int) -> Dropped:
    """Of each row [rows, units], the `count` lowest, ties in order of position. Scores +inf never go."""
    order = np.argsort(scores, axis=1, kind="stable")
    dropped = np.zeros(scores.shape, bool)
    np.put_along_axis(dropped, order[:, :count], True, axis=1)
    return dropped & (scores < np.inf)


def protect(scores: Scores, least: int) -> None:
    """Put the best `least` of each row out of reach (+inf), in place: of equals the last, as ties go in order."""
    for row in scores.reshape(-1, scores.shape[-1]) if least else ():
        if least == 1:
            row[len(row) - 1 - int(np.argmax(row[::-1]))] = np.inf
        else:
            row[np.argsort(row, kind="stable")[-least:]] = np.inf


def exactly(family: Family, sizes: Sequence[int], total: int) -> list[int]:
    """How many of each pool's units go, so that `total` go of all: the counts round(ratio · size) at one parameter of
    the family; where several pools change at that very parameter, the first ones do.

    The counts grow with `total`, each of them.
    """

    def counts(t: float) -> NDArray[np.int64]:
        return np.array([round(r * size) for r, size in zip(family(t), sizes, strict=True)], np.int64)

    low, high = 0.0, 1.0
    for _ in range(100):  # to neighbouring floats, except beside 0
        middle = (low + high) / 2
        if counts(middle).sum() <= total:
            low = middle
        else:
            high = middle
    found, more = counts(low), counts(high)
    for index in range(len(found)):
        found[index] += min(more[index] - found[index], total - int(found.sum()))
    return [int(count) for count in found]


def erk(layers: Sequence[Sequence[Sequence[int]]]) -> Family:
    """The Erdős–Rényi kernel rule (Evci et al. 2020, 1911.11134, section 3): a layer's density is proportional to
    (outputs + inputs + kernel sizes) / (outputs · inputs · kernel sizes), and at most 1.

    `layers`: each pool's weight shapes (several where layers go together: their mean counts).
    """
    raw = np.array([np.mean([sum(shape) / prod(shape) for shape in shapes]) for shapes in layers])
    scale = raw / raw.max()

    def family(t: float) -> list[float]:
        """The densest layer is whole until the factor falls below 1; t maps (0, 1) to factors from ∞ to 0."""
        factor = (1 - t) / t if t else np.inf
        return [float(1 - min(1.0, factor * share / scale.min())) for share in scale]

    return family


def measured(curves: Sequence[Sequence[tuple[float, float]]]) -> Family:
    """Ratios at which all pools cost the same accuracy, as a sensitivity sweep measured it.

    `curves`: for each pool (sparsity, loss of accuracy) in order of sparsity. Losses are made to grow with sparsity
    and joined by lines, from (0, 0) to (1, 1): beyond the last point measured, a pool is taken to lose all.
    """

    def curve(points: Sequence[tuple[float, float]]) -> tuple[Floats, Floats]:
        inner = [(s, min(max(loss, 0.0), 1.0)) for s, loss in points if 0 < s < 1]
        x, y = np.array([(0.0, 0.0), *inner, (1.0, 1.0)]).T
        y = np.maximum.accumulate(y)
        # where losing nothing more costs, go as far as it is free: a slope far below any that is measured
        return x, y * (1 - 1e-6) + x * 1e-6

    drawn = [curve(points) for points in curves]
    return lambda t: [float(np.interp(t, y, x)) for x, y in drawn]
