"""From the scores of a unit's elements to one score a unit, and from one layer's scale to another's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REDUCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "sum": lambda rows: np.asarray(rows.sum(axis=1)),
    "mean": lambda rows: np.asarray(rows.mean(axis=1)),
    "max": lambda rows: np.asarray(rows.max(axis=1)),
    "l1": lambda rows: np.asarray(np.abs(rows).sum(axis=1)),
    "l2": lambda rows: np.asarray(np.sqrt(np.square(rows).sum(axis=1))),
    "first": lambda rows: rows[:, 0].copy(),
}
"""[units, elements] -> [units]. `first` is for scores that are noise: the mean of more noise would be less of it."""


def _divided(scores: Floats, scale: float) -> Floats:
    return scores / scale if scale > 0 else scores


def lamp(scores: Floats) -> Floats:
    """s² / Σ s² over all units that score no less than this one (of equals: those behind it count).

    The layer's best unit scores exactly 1, so that a global threshold never empties a layer: Lee et al. 2021
    (2010.07611), eq. 5, where s = |w|. Negative scores count as the least of all, in their order.
    """
    order = np.argsort(scores, kind="stable")
    square = np.square(np.maximum(scores, 0.0)[order])
    behind = np.cumsum(square[::-1])[::-1]
    result = np.empty_like(scores)
    result[order] = np.divide(square, behind, out=np.zeros_like(square), where=behind > 0)
    result[scores < 0] = scores[scores < 0]
    return result


NORMALISERS: dict[str, Callable[[Floats], Floats]] = {
    "none": lambda scores: scores,
    "mean": lambda scores: _divided(scores, float(np.abs(scores).mean())),
    "layer": lambda scores: _divided(scores, float(np.sqrt(np.square(scores).sum()))),
    "lamp": lamp,
}
"""[units] of one layer (or group) -> [units], in the same order: divided by the mean of |score| (`mean`), by the ℓ2
norm of the layer's scores (`layer`), or LAMP."""
