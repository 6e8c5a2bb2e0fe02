"""One instance's clauses on its folded network: what the searches and the leaves work on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd.profiler import record_function

from secateur.pipeline.verify.bounding.branching import Layout
from secateur.pipeline.verify.bounding.crown import Box, Linear, backward
from secateur.pipeline.verify.bounding.optimise import Specification
from secateur.pipeline.verify.bounding.relaxation import Multipliers, Relaxations, ReluRelaxation
from secateur.pipeline.verify.bounding.specification import NEVER
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, gamma
from secateur.pipeline.verify.region.fold import Folded
from secateur.pipeline.verify.search.conflicts import Conflicts
from secateur.pipeline.verify.store import Store


@dataclass
class Clauses:
    """P clauses of S rows each: rows (P, S, n_out), direct (P, S, inputs left) or None, constant (P, S); float64.

    What a row means: see `specification`.
    """

    rows: Tensor
    direct: Tensor | None
    constant: Tensor

    def specification(self, clause: Tensor, dtype: torch.dtype) -> Specification:
        """The rows of clauses (B,), S each; the constants of padding rows are 0, their weights must be."""
        direct = None if self.direct is None else self.direct[clause].to(dtype)
        constant = self.constant[clause]
        constant = torch.where(constant > NEVER / 2, constant, 0.0)
        return Specification(self.rows[clause].to(dtype), direct, constant.to(dtype))

    def equal_weights(self, dtype: torch.dtype) -> Tensor:
        """For every clause equal weights of its rows, (P, S), none for padding."""
        used = (self.constant > NEVER / 2).to(dtype)
        return used / used.sum(1, keepdim=True).clamp(min=1)

    def suspicious(
        self, x: Tensor, y: Tensor, clause: Tensor, suspect: Callable[[Tensor, int], bool]
    ) -> bool:
        """Whether one of the points x (B, inputs left), where the outputs are y (B, n_out), is a witness of its
        clause, in the eyes of `suspect`."""
        value = self.specification(clause, y.dtype).values(x.unsqueeze(1), y.unsqueeze(1))
        used = (self.constant[clause] > NEVER / 2).any(1)
        hits = self.hits(clause, (value <= 0).all(1) & used)
        return any(suspect(x[i].double(), int(clause[i])) for i in hits)

    def hits(self, clause: Tensor, satisfied: Tensor) -> list[int]:
        """Which of the points that satisfy their clauses (B,) to replay."""
        return torch.nonzero(satisfied).flatten()[:REPLAYED].tolist()


def certified(
    folded: Folded,
    relaxations: Relaxations,
    multipliers: Multipliers,
    rows: Specification,
    weights: Tensor,
) -> Tensor:
    """Rigorous lower bounds (B,) of rows (S each) combined with weights ≥ 0 (B, S). All in float64.

    Any valid `multipliers` (B, 1, …) will do. A positive bound refutes the clause whose rows these are.
    """
    bound = certified_linear(folded, relaxations, multipliers, rows, weights).minimum(folded.box)
    return (bound - gamma(16, bound) * bound.abs()).squeeze(1)


REPLAYED = 8
"""So many points of one batch are replayed at most."""

RECHECK = "re-check in float64"
"""What torch's profiler calls the time spent in `certified_linear`."""


@record_function(RECHECK)
def certified_linear(
    folded: Folded,
    relaxations: Relaxations,
    multipliers: Multipliers,
    rows: Specification,
    weights: Tensor,
) -> Linear:
    """Rigorous linear lower bounds (S = 1) of such combinations on the input; arguments as those of `certified`."""
    graph, magnitudes = folded.graph, folded.magnitudes
    combined = rows.combined(weights)
    linear = backward(
        graph,
        relaxations,
        graph.output,
        combined.rows,
        multipliers,
        direct=combined.direct,
        magnitudes=magnitudes,
    )
    # What rounding can have changed by combining the rows, in which terms may cancel.
    absolute = Specification(
        rows.rows.abs(),
        None if rows.direct is None else rows.direct.abs(),
        None if rows.constant is None else rows.constant.abs(),
    )
    scale = absolute.combined(weights).values(
        magnitudes[0].unsqueeze(1), magnitudes[graph.output].unsqueeze(1)
    )
    constant = linear.constant + (0.0 if combined.constant is None else combined.constant)
    lost = gamma(weights.shape[1] + 16, constant) * (linear.constant.abs() + constant.abs() + scale)
    return Linear(linear.coefficient, constant - lost)


@dataclass
class Problem(Clauses):
    """One instance's clauses on a network folded to ReLUs, and its two number types. `filtered`: the costliest neurons
    of a domain are tried before one of them is split.

    `tightened`: whether its neurons' bounds may be tightened domain by domain (see `relu_split`).

    What ends in `_of` is for a batch of domains of the given clauses (B,): of several instances, see `joined`.
    """

    tightened: ClassVar[bool] = True

    folded: Folded
    dtype: torch.dtype = torch.float32
    filtered: bool = False
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.layout = Layout({p: len(kept) for p, (_, kept) in self.folded.neurons.items()})

    @cached_property
    def fast(self) -> BoundGraph:
        """The folded graph in the fast number type, made when it is needed."""
        return self.folded.graph.to(self.dtype, self.rows.device)

    def folded_of(self, clause: Tensor) -> Folded:
        """The folded network."""
        return self.folded

    def fast_of(self, clause: Tensor) -> BoundGraph:
        """Its graph in the fast number type."""
        return self.fast

    def bounds_of(self, clause: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """The bounds (1 or B, n) of the arguments of each layer of neurons on the whole box."""
        return self.folded.bounds

    def box_of(self, clause: Tensor, dtype: torch.dtype) -> Box:
        """The input box of each domain."""
        box = self.folded.box
        return Box(*(side.to(dtype).expand(len(clause), -1) for side in (box.lower, box.upper)))

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Bounds (1, U) of all neurons' arguments on the whole box."""
        low, high = zip(*(self.folded.bounds[p] for p in self.layout.sizes), strict=True)
        return torch.cat(low, 1), torch.cat(high, 1)

    def relaxations(
        self,
        clause: Tensor,
        signs: Tensor,
        dtype: torch.dtype,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> Relaxations:
        """Relaxations of B domains of clauses (B,) with signs (B, U), and with bounds (B, U) where they are tighter
        than the box's."""
        parts = self.layout.split(signs.to(dtype))
        if bounds is None:
            pairs = self.bounds_of(clause)
        else:
            low, high = (self.layout.split(side) for side in bounds)
            pairs = {p: (low[p], high[p]) for p in self.layout.sizes}
        return {
            p: ReluRelaxation.of(low.to(dtype), high.to(dtype), parts[p]) for p, (low, high) in pairs.items()
        }

    def certified(
        self,
        clause: Tensor,
        weights: Tensor,
        signs: Tensor,
        multipliers: Tensor,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Rigorous lower bounds (B,), in float64, of combinations of clauses' rows on domains.

        Any `weights` ≥ 0 (B, S), `multipliers` ≥ 0 (B, U; α at most 1) will do; `signs` is (B, U), `bounds` as in
        `relaxations`. A positive bound refutes the clause on the domain.
        """
        linear = self.certified_linear(clause, weights, signs, multipliers, bounds)
        bound = linear.minimum(self.box_of(clause, torch.float64))
        return (bound - gamma(16, bound) * bound.abs()).squeeze(1)

    def refuted(
        self,
        clause: Tensor,
        weights: Tensor,
        signs: Tensor,
        multipliers: Tensor,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Whether these numbers refute the clauses on the domains, (B,); arguments as those of `certified`."""
        return self.certified(clause, weights, signs, multipliers, bounds) > 0

    def certified_linear(
        self,
        clause: Tensor,
        weights: Tensor,
        signs: Tensor,
        multipliers: Tensor,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> Linear:
        """The linear functions (S = 1) of the input behind `certified`."""
        return certified_linear(
            self.folded_of(clause),
            self.relaxations(clause, signs, torch.float64, bounds),
            self.layout.split(multipliers.double().unsqueeze(1)),
            self.specification(clause, torch.float64),
            weights.double(),
        )

    def weights(self) -> Tensor:
        """`equal_weights` in the fast number type."""
        return self.equal_weights(self.dtype)


@dataclass
class Progress:
    """What a search has done so far and what it has left open: for results, for people, and to go on from.

    A search goes on from what is open here (by a search of the same kind, on the same problem and bounds), and begins
    at the root where nothing is. `store`: its open domains; `parts`: boxes that `input_split` has not begun, the last
    of which `store` belongs to; `conflicts`: what `conflict_split` has learnt about each clause; `undecided`: some
    leaf could be decided neither way; `neurons`: how far the search over neurons is that takes turns with this one.
    """

    domains: int = 0
    bound: float = float("-inf")
    undecided: bool = False
    store: Store = field(default_factory=Store)
    parts: list[Box] = field(default_factory=list)
    conflicts: dict[int, Conflicts] = field(default_factory=dict)
    neurons: Progress | None = None

    @property
    def open(self) -> bool:
        """Whether anything is left open."""
        return bool(len(self.store) or self.parts or (self.neurons is not None and self.neurons.open))
