"""Branch and bound over the arguments of any nonlinear nodes, for networks that are not ReLUs alone.

A domain is a clause with narrower bounds on some arguments z of nonlinear nodes: every split cuts one argument's
interval [l, u] in two, at the function's kink or point of inflection where that lies inside, else in the middle. Both
parts are relaxed anew, and the cut is a constraint with a dual variable (see `smooth`). Which argument to cut: the one
whose lines leave the widest gap to the function, weighted with its coefficient (`Relaxation.cost`), as the intercept
does for ReLUs (Bunel et al. 2020); splitting other functions after Shi et al. 2025, "Neural network verification with
branch-and-bound for general nonlinearities".

As everywhere, the search is in float32 and a domain counts as closed only by a rigorous bound in float64. The search
is not complete: an argument whose interval has no number left inside leaves its domain undecided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.optimise import optimise
from secateur.pipeline.verify.bounding.relaxation import Multipliers, Relaxations, Schedule
from secateur.pipeline.verify.bounding.root import NodeBounds
from secateur.pipeline.verify.bounding.smooth import relax
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.graph.operations import Elementwise, Relu
from secateur.pipeline.verify.region.fold import Folded
from secateur.pipeline.verify.search.problem import Clauses, Progress, certified
from secateur.pipeline.verify.store import Store

Rows = dict[str, Tensor]

CERTIFIED_AT_END = 1_000
"""When time is over, the bounds of at most so many open domains are made rigorous, for the result's bound."""

NARROWEST = 1e-6
"""An interval of less than this share of its width at the root is not cut again."""


def argument_sizes(graph: BoundGraph) -> dict[int, int]:
    """The positions of the nodes that are arguments of nonlinear ones, in order, and their sizes."""
    sources = sorted({source for p in graph.nonlinear for source in graph.nodes[p].inputs})
    return {source: graph.nodes[source].size for source in sources}


@dataclass
class Arguments:
    """The arguments of all nonlinear nodes of a graph, V numbers in one flat vector, and their bounds at the root.

    `sizes`: position of the node that is an argument → its size; `lower`, `upper` (I, V): float64, of one instance or
    of several, whose numbers are `owner` below.
    """

    graph: BoundGraph
    sizes: dict[int, int]
    lower: Tensor
    upper: Tensor
    _known: dict[torch.dtype, Relaxations] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def of(graph: BoundGraph, nodes: NodeBounds) -> Arguments:
        sizes = argument_sizes(graph)
        sides = (torch.cat([nodes.values[s][i].flatten(1) for s in sizes], 1) for i in (0, 1))
        return Arguments(graph, sizes, *sides)

    def split(self, flat: Tensor) -> dict[int, Tensor]:
        """(B, V) → per argument (B, *shape)."""
        parts = torch.split(flat, list(self.sizes.values()), 1)
        return {
            s: part.unflatten(1, self.graph.nodes[s].shape) for s, part in zip(self.sizes, parts, strict=True)
        }

    def whole(self, owner: Tensor | None) -> tuple[Tensor, Tensor]:
        """The bounds at the root, (B, V) of the instances `owner` (B,); of the only one (1, V)."""
        return (self.lower, self.upper) if owner is None else (self.lower[owner], self.upper[owner])

    def relaxations(
        self, lower: Tensor, upper: Tensor, dtype: torch.dtype, owner: Tensor | None = None
    ) -> Relaxations:
        """Relaxations on bounds (B, V), with split constraints where they are narrower than at the root.

        Of a node none of whose arguments is cut in any domain it is the root's, (1, …), where there is one instance.
        Waits for the device once.
        """
        least, most = self.whole(owner)
        cuts = (lower > least).to(torch.int8) + 2 * (upper < most).to(torch.int8)
        cut = self.split(cuts)
        anywhere = torch.stack([part.any() for part in cut.values()]).tolist()
        narrowed = {s for s, some in zip(cut, anywhere, strict=True) if some}
        low, high = self.split(lower.to(dtype)), self.split(upper.to(dtype))
        root = self._root(dtype) if owner is None else {}
        result = {}
        for p in self.graph.nonlinear:
            node = self.graph.nodes[p]
            if p in root and narrowed.isdisjoint(node.inputs):
                result[p] = root[p]
            else:
                mine = [cut[s] if s in narrowed else None for s in node.inputs]
                result[p] = relax(node.operation, [(low[s], high[s]) for s in node.inputs], mine)
        return result

    def _root(self, dtype: torch.dtype) -> Relaxations:
        if dtype not in self._known:
            sides = (self.split(side.to(dtype)) for side in (self.lower, self.upper))
            low, high = sides
            self._known[dtype] = {
                p: relax(node.operation, [(low[s], high[s]) for s in node.inputs])
                for p in self.graph.nonlinear
                for node in (self.graph.nodes[p],)
            }
        return self._known[dtype]

    def points(self, lower: Tensor, upper: Tensor, index: Tensor) -> Tensor:
        """Where to cut the arguments `index` (B,) of domains with bounds (B, V): (B,)."""
        low, high = (side.gather(1, index.unsqueeze(1)).squeeze(1) for side in (lower, upper))
        kinks = self.kinks[index]
        middle = low + (high - low) / 2
        return torch.where((kinks > low) & (kinks < high), kinks, middle)

    @cached_property
    def kinks(self) -> Tensor:
        """Where the function behind each argument likes to be cut, (V,); NaN: nowhere in particular."""
        known: dict[int, float] = {}
        for p in self.graph.nonlinear:
            operation = self.graph.nodes[p].operation
            if isinstance(operation, Relu):
                known[self.graph.nodes[p].inputs[0]] = 0.0
            elif isinstance(operation, Elementwise) and operation.function.split_at is not None:
                known.setdefault(self.graph.nodes[p].inputs[0], operation.function.split_at)
        return torch.cat(
            [self.lower.new_full((size,), known.get(s, float("nan"))) for s, size in self.sizes.items()]
        )


@dataclass(frozen=True)
class Bounded:
    """What comes of the domains of a batch: rows of those that are cut next, and which domains (B,) could neither be
    closed nor cut."""

    rows: Rows
    stuck: Tensor


@dataclass
class Search:
    """Branch and bound over the arguments of one region; call `run`.

    `nodes` are the bounds of the nodes of `folded.graph` (from `embed`, B = 1). Of several instances (see
    `joined_cuts`) they are those on each one's box, and `owner` (P,) says whose each clause is.
    """

    folded: Folded
    nodes: NodeBounds
    clauses: Clauses
    dtype: torch.dtype = torch.float32
    owner: Tensor | None = None
    arguments: Arguments = field(init=False)
    fast: BoundGraph = field(init=False)
    shapes: dict[int, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.arguments = Arguments.of(self.folded.graph, self.nodes)
        lower, upper = self.arguments.lower[:1], self.arguments.upper[:1]
        relaxations = Arguments(self.folded.graph, self.arguments.sizes, lower, upper).relaxations(
            lower, upper, torch.float64
        )
        self.shapes = {p: tuple(r.initial_multiplier(1).shape[2:]) for p, r in relaxations.items()}
        self.fast = self.folded.graph.to(self.dtype, self.folded.box.lower.device)

    @cached_property
    def slots(self) -> Tensor:
        """Where among packed multipliers that of the ReLU of each argument stands, (V,); for no ReLU, past the end."""
        ends = dict(zip(self.shapes, accumulate(prod(shape) for shape in self.shapes.values()), strict=True))
        readers = {self.fast.preactivation(p): ends[p] - self.fast.nodes[p].size for p in self.fast.relus}
        total = max(ends.values(), default=0)
        return torch.cat(
            [
                torch.arange(size) + readers[s] if s in readers else torch.full((size,), total)
                for s, size in self.arguments.sizes.items()
            ]
        ).to(self.arguments.lower.device)

    def owner_of(self, clause: Tensor) -> Tensor | None:
        """Whose the clauses (B,) are; None: there is one instance."""
        return None if self.owner is None else self.owner[clause]

    def box_of(self, clause: Tensor, dtype: torch.dtype) -> Box:
        """The input boxes of domains of clauses (B,)."""
        owner, box = self.owner_of(clause), self.nodes.box.to(dtype)
        return (
            box[owner]
            if owner is not None
            else Box(*(s.expand(len(clause), -1) for s in (box.lower, box.upper)))
        )

    def run(
        self,
        *,
        first: Schedule,
        schedule: Schedule,
        batch: int,
        expired: Callable[[], bool],
        suspect: Callable[[Tensor, int], bool],
        progress: Progress,
    ) -> str:
        """Search all clauses. Arguments and result as those of `relu_split.solve`."""
        store = progress.store

        def bounded(new: Rows, schedule: Schedule) -> bool:
            found = self.bounded(new, schedule, expired, suspect)
            progress.domains += len(new["clause"])
            if found is None:
                return True
            progress.undecided = progress.undecided or bool(found.stuck.any())
            store.put(**found.rows)
            return False

        if not len(store) and bounded(self.roots(), first):
            return "sat"
        while len(store):
            if expired():
                progress.bound = -float("inf") if progress.undecided else self._certified_least(store, batch)
                return "unknown"
            if bounded(self.halves(store.take(max(1, batch // 2))), schedule):
                return "sat"
        progress.bound = -float("inf") if progress.undecided else 0.0
        return "unknown" if progress.undecided else "unsat"

    def roots(self) -> Rows:
        """The domains to begin with, one a clause, still without multipliers."""
        clause = torch.arange(len(self.clauses.constant), device=self.arguments.lower.device)
        lower, upper = self.arguments.whole(self.owner)
        return {
            "clause": clause,
            "lower": lower.expand(len(clause), -1).clone(),
            "upper": upper.expand(len(clause), -1).clone(),
            "weights": self.clauses.equal_weights(self.dtype),
        }

    def halves(self, picked: Rows) -> Rows:
        """The parts of domains, two each, cut across the arguments chosen for them."""
        index = picked["argument"]
        new = {
            name: picked[name].repeat(2, *[1] * (picked[name].dim() - 1))
            for name in ("clause", "lower", "upper", "weights")
        }
        points = self.arguments.points(picked["lower"], picked["upper"], index)
        row = torch.arange(len(index), device=index.device)
        new["upper"][row, index] = points
        new["lower"][row + len(index), index] = points
        # What was the α of a ReLU would be its β now.
        old = functional.pad(picked["multipliers"], (0, 1))
        old[row, self.slots[index]] = 0.0
        new["multipliers"] = old[:, :-1].repeat(2, 1)
        return new

    def bounded(
        self,
        new: Rows,
        schedule: Schedule,
        expired: Callable[[], bool],
        suspect: Callable[[Tensor, int], bool],
    ) -> Bounded | None:
        """Bound new domains, and choose what is cut next of those that stay open. None: one has a witness."""
        arguments = self.arguments
        clause, lower, upper, warm = new["clause"], new["lower"], new["upper"], new.get("multipliers")
        owner = self.owner_of(clause)
        relaxations = arguments.relaxations(lower, upper, self.dtype, owner)
        rows = self.clauses.specification(clause, self.dtype)
        result = optimise(
            self.fast,
            relaxations,
            self.box_of(clause, self.dtype),
            self.fast.output,
            rows.rows,
            schedule,
            None if warm is None else self._unpacked(warm),
            direct=rows.direct,
            constant=rows.constant,
            weights=new["weights"],
            stop_above=0.0,
            expired=expired,
        )
        assert result.weights is not None
        bound, multipliers, weights = (
            result.bound.squeeze(1),
            self._packed(result.multipliers),
            result.weights,
        )
        closed = bound > 0
        which = torch.nonzero(closed).flatten()
        if len(which):
            closed[which] = (
                self._certified(clause[which], lower[which], upper[which], multipliers[which], weights[which])
                > 0
            )
        left = torch.nonzero(~closed).flatten()
        x = result.minimiser[left].squeeze(1)
        if len(left) and self.clauses.suspicious(x, self.fast.forward(x), clause[left], suspect):
            return None
        index, splittable = self._to_cut(relaxations, result.tape.coefficient, lower, upper, owner)
        open_ = left[splittable[left]]
        found = {
            "clause": clause[open_],
            "lower": lower[open_],
            "upper": upper[open_],
            "multipliers": multipliers[open_],
            "weights": weights[open_],
            "bound": bound[open_].nan_to_num(nan=-float("inf")).clamp(max=0),
            "argument": index[open_],
        }
        return Bounded(found, ~closed & ~splittable)

    def _certified_least(self, store: Store, batch: int) -> float:
        """The least rigorous bound of the open domains; -∞ where there are too many to look at."""
        if len(store) > CERTIFIED_AT_END:
            return -float("inf")
        names = ("clause", "lower", "upper", "multipliers", "weights")
        bounds = [self._certified(*(rows[name] for name in names)) for rows in store.batches(batch)]
        return float(torch.cat(bounds).nan_to_num(nan=-float("inf")).min().clamp(max=0))

    def _certified(
        self, clause: Tensor, lower: Tensor, upper: Tensor, multipliers: Tensor, weights: Tensor
    ) -> Tensor:
        double = torch.float64
        return certified(
            replace(self.folded, box=self.box_of(clause, double)),
            self.arguments.relaxations(lower, upper, double, self.owner_of(clause)),
            self._unpacked(multipliers.to(double)),
            self.clauses.specification(clause, double),
            weights.to(double),
        )

    def _to_cut(
        self,
        relaxations: Relaxations,
        coefficients: dict[int, Tensor],
        lower: Tensor,
        upper: Tensor,
        owner: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Which argument of each domain to cut, (B,), and whether there is one."""
        scores = {s: lower.new_zeros(len(lower), size) for s, size in self.arguments.sizes.items()}
        for p, relaxation in relaxations.items():
            a = coefficients.get(p)
            if a is None:
                continue
            costs = relaxation.cost(a)
            for source, cost in zip(self.fast.nodes[p].inputs, costs, strict=True):
                scores[source] += cost.flatten(1)
        flat = torch.cat(list(scores.values()), 1).nan_to_num(nan=0.0)
        width = upper - lower
        least, most = self.arguments.whole(owner)
        middle = lower + width / 2
        narrow = (width <= NARROWEST * (most - least)) | (middle <= lower) | (middle >= upper)
        best, index = flat.masked_fill(narrow, -1.0).max(1)
        return index, best > 0

    def _packed(self, multipliers: Multipliers) -> Tensor:
        """Multipliers (B, 1, …) a node as one (B, M)."""
        return torch.cat([multipliers[p].flatten(1) for p in self.shapes], 1)

    def _unpacked(self, flat: Tensor) -> Multipliers:
        parts = torch.split(flat, [prod(shape) for shape in self.shapes.values()], 1)
        return {
            p: part.reshape(len(part), 1, *shape)
            for (p, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
