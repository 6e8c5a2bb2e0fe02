"""The clauses of a region in a search by splitting neurons, where each leaf counts when the checker accepts it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.formats.certificate import ALPHA, RegionProof
from secateur.formats.query import Floats, Region
from secateur.pipeline.certificate.folding import Columns, Slopes
from secateur.pipeline.certificate.leaves import Bounds, Clauses, Leaves, bound_leaves, root_bounds
from secateur.pipeline.certificate.lines import Folded as Checkable
from secateur.pipeline.certificate.lines import Signs
from secateur.pipeline.certificate.maps import Ints
from secateur.pipeline.verify.search.problem import Problem

SAFELY = 100
"""A leaf counts when its bound is so many times what was taken off for rounding: on another machine, or in batches of
another size, sums are rounded otherwise, and the check must still hold."""


@dataclass
class Recorder:
    """Bounds leaves of a region as the checker will, and keeps those that it accepts: `kept` holds, batch by batch, the
    arrays of a certificate from `box` to `beta`, with the number of splits of each leaf in place of `first`; `bytes` is
    what they take."""

    region: Region
    folded: Checkable
    columns: Columns
    slopes: dict[int, Slopes]
    clauses: Clauses = field(init=False)
    kept: list[tuple[NDArray[Any], ...]] = field(default_factory=list)
    bytes: int = 0

    def __post_init__(self) -> None:
        self.clauses = Clauses.of(self.region)
        self.whole = root_bounds(self.folded)

    def bounds(
        self,
        clause: Ints,
        weights: Floats,
        signs: Signs,
        multipliers: Floats,
        box: Ints | None = None,
        lower: Floats | None = None,
        upper: Floats | None = None,
        within: Bounds | None = None,
        *,
        keep: bool,
    ) -> Floats:
        """The checker's bounds (L,) of leaves, of the numbers as a certificate has them, those too near 0 at
        most 0; `keep`: the others stay.

        Without boxes it is the whole one. Signs and multipliers are (L, U), of the columns.
        """
        slopes = np.rint(np.where(signs != 0, 0.0, multipliers).clip(0, 1) * ALPHA).astype(np.uint16)
        duals = np.where(signs != 0, multipliers, 0.0).clip(min=0).astype(np.float32)
        few = weights[:, : self.clauses.outputs.shape[1]].clip(min=0).astype(np.float32)
        leaves = Leaves(clause, signs, np.where(signs != 0, duals, slopes / ALPHA), few.astype(np.float64))
        bound, taken = bound_leaves(
            self.folded,
            self.columns,
            self.clauses,
            leaves,
            self.folded.lower[None] if lower is None else lower,
            self.folded.upper[None] if upper is None else upper,
            self.whole if within is None else within,
        )
        bound = np.where(bound > SAFELY * taken, bound, np.minimum(bound, 0.0))
        if keep and (accepted := bound > 0).any():
            own = np.zeros(len(clause), np.int64) if box is None else box
            leaf, neuron = np.nonzero(signs[accepted])
            splits = (signs[accepted] != 0).sum(1), neuron, signs[accepted][leaf, neuron]
            rows = (each[accepted] for each in (own, clause, slopes, few))
            self.kept.append((*rows, *splits, duals[accepted][leaf, neuron]))
            self.bytes += sum(each.nbytes for each in self.kept[-1])
        return bound

    def proof(self, parent: Ints, axis: Ints, cut: Floats) -> RegionProof:
        """What was kept, on these boxes."""
        box, clause, slopes, weights, counts, neuron, sign, beta = (
            np.concatenate(each) for each in zip(*self.kept, strict=True)
        )
        return RegionProof(
            columns=self.columns,
            slopes={k: (each.neurons, each.values) for k, each in self.slopes.items()},
            parent=parent,
            axis=axis,
            cut=cut,
            box=box,
            clause=clause,
            alpha=slopes,
            weights=weights,
            first=np.concatenate([[0], np.cumsum(counts)]),
            neuron=neuron,
            sign=sign,
            beta=beta,
        )


@dataclass
class Recorded(Problem):
    """A region's clauses on the network as the checker has folded it (see `region.searchable`)."""

    tightened: ClassVar[bool] = False

    recorder: Recorder = field(kw_only=True)

    def certified(
        self,
        clause: Tensor,
        weights: Tensor,
        signs: Tensor,
        multipliers: Tensor,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        return self._bounds(clause, weights, signs, multipliers, keep=False)

    def refuted(
        self,
        clause: Tensor,
        weights: Tensor,
        signs: Tensor,
        multipliers: Tensor,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        return self._bounds(clause, weights, signs, multipliers, keep=True) > 0

    def _bounds(
        self, clause: Tensor, weights: Tensor, signs: Tensor, multipliers: Tensor, *, keep: bool
    ) -> Tensor:
        columns = self.columns
        bound = self.recorder.bounds(
            clause.cpu().numpy(),
            weights.double().cpu().numpy(),
            signs[:, columns].to(torch.int8).cpu().numpy(),
            multipliers[:, columns].double().cpu().numpy(),
            keep=keep,
        )
        return torch.from_numpy(bound).to(clause.device)

    @cached_property
    def columns(self) -> Tensor:
        """Where the columns are among all neurons."""
        if not self.layout.sizes:
            return torch.zeros(0, dtype=torch.long, device=self.rows.device)
        low, high = self.bounds()
        return torch.nonzero((low[0] < 0) & (high[0] > 0)).flatten()
