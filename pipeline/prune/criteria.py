"""Criteria: what a weight or a channel is worth. One table; *a higher score means keep*, everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Score = Callable[[NDArray[np.generic], np.random.Generator], Scores]


@dataclass(frozen=True)
class Criterion:
    """A row of the table.

    `score` maps the units of one layer, an array [units, weights a unit] (one weight a unit when pruning single
    weights, a channel's whole row when pruning channels), to [units] scores.
    """

    score: Score
    summary: str
    source: str


def _random(units: NDArray[np.generic], generator: np.random.Generator) -> Scores:
    return generator.random(len(units))


def _magnitude(units: NDArray[np.generic], generator: np.random.Generator) -> Scores:
    # float64 holds every smaller float exactly, so single weights are ordered as they are written
    return np.asarray(np.abs(units.astype(np.float64)).mean(axis=1))


CRITERIA: dict[str, Criterion] = {
    "random": Criterion(_random, "uniform noise; the baseline of every comparison", "—"),
    "magnitude": Criterion(
        _magnitude,
        "|w|; the mean |w| of a channel",
        "Han et al. 2015 (1506.02626); Li et al. 2017 (1608.08710)",
    ),
}
