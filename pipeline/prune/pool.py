"""Pools: units that are ranked together, with what makes their scores and what their going means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.pipeline.prune.layers import Layer

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Masks = dict[str, Bools]
Scores = NDArray[np.floating[Any]]
Saliency = Mapping[str, Scores]
Reduction = Callable[[Floats], Floats]
Protect = Callable[[Mapping[str, Bools], Mapping[str, Floats]], Mapping[str, Bools]]


@dataclass(frozen=True)
class Pool:
    """Units among which scores are compared: those of a layer, of a group of layers whose channels go together, …

    They lie in `rows`, each of which loses as many: one row, but for N:M and grouped kernels.
    """

    name: str
    layers: tuple[Layer, ...]
    """Those whose saliencies make the scores."""
    shapes: tuple[tuple[int, ...], ...]
    """Of their weights."""
    rows: int
    columns: int
    score: Callable[[Saliency, Reduction], Scores]
    """Saliencies -> scores [rows, columns], which may be the saliencies themselves."""
    masks: Callable[[Bools], Masks]
    """Dropped units [rows, columns] -> what stays of each initializer."""
    least: int = 1
    """Units of each row that stay whatever is asked."""
    beyond: int = 0
    """How many places lie beyond the end of an axis (N:M); their scores are −inf."""
    padding: int = 0
    """How many of those are among the units that go."""
    branches: tuple[str, ...] = ()
    """The names of its units, where they are residual branches."""

    @property
    def size(self) -> int:
        return self.rows * self.columns - self.beyond

    def scored(self, saliency: Saliency) -> bool:
        """Whether a criterion has scored it (some score only what they find a normalisation behind, say)."""
        return any(name in saliency for name in (*self.branches, *(layer.weight for layer in self.layers)))
