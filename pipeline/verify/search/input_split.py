"""Branch and bound over the input box, for networks with few inputs.

A domain is a part of a region's box with those clauses that are not yet refuted there. Its intermediate bounds are
computed anew by CROWN; then, for each open clause, the slopes of the lines and the weights by which the clause's rows
are combined are optimised together. A clause is closed only by the bound that these multipliers give in float64 with
rounding errors taken off (`problem.certified`). Which input to split: see `sensitivity`.

Most neurons of a wide network are stable on a small part of the box: such a network is cut into parts first, one by
one, and folded anew for each, until what is left is narrow enough for large batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.branching import Layout
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.optimise import optimise
from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.bounding.root import NodeBounds, bound_nodes
from secateur.pipeline.verify.bounding.sensitivity import input_scores
from secateur.pipeline.verify.memory import scaled
from secateur.pipeline.verify.region.fold import Folded, refold
from secateur.pipeline.verify.search.problem import Clauses, Progress, certified

Rows = dict[str, Tensor]

SMALLEST_WIDTH = 1e-9
"""A box whose sides are all below this share of the root's is not split further: it is undecided."""

WIDE = 800
"""A network with more neurons than this is folded anew for parts of its box."""

SCHEDULE = Schedule(8, weight_rate=1.0, decay=0.9)
"""The ascent of slopes and row weights on every domain."""

PAIRS = 2048
"""How many domains × clauses are bounded at a time at most."""


@dataclass(frozen=True)
class Bounded:
    """Clauses `clause` (P,) on the domains `domain` (P,) of a batch: rigorous bounds (P,), the rows' weights (P, S) and
    inputs (P, inputs left) that minimise the bounds."""

    domain: Tensor
    clause: Tensor
    bound: Tensor
    weights: Tensor
    minimiser: Tensor

    @staticmethod
    def of(
        folded: Folded,
        clauses: Clauses,
        nodes: NodeBounds,
        open_: Tensor,
        weights: Tensor,
        schedule: Schedule = SCHEDULE,
    ) -> Bounded:
        """Bound the clauses that are open (B, K) on the boxes of `nodes`, from weights (B, K, S) on."""
        domain, clause = torch.nonzero(open_, as_tuple=True)
        mine = nodes[domain]
        relaxations = mine.relaxations(folded.graph)
        rows = clauses.specification(clause, torch.float64)
        best = optimise(
            folded.graph,
            relaxations,
            mine.box,
            folded.graph.output,
            rows.rows,
            schedule,
            direct=rows.direct,
            constant=rows.constant,
            weights=weights[domain, clause],
            stop_above=0.0,
        )
        assert best.weights is not None
        bound = certified(replace(folded, box=mine.box), relaxations, best.multipliers, rows, best.weights)
        return Bounded(domain, clause, bound, best.weights, best.minimiser.squeeze(1))


def solve(
    folded: Folded,
    clauses: Clauses,
    *,
    batch: int,
    expired: Callable[[], bool],
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> str:
    """Search the box of `folded`. Arguments and result as in `relu_split.solve`; `suspect` gets inputs left.

    When time is over, the boxes of the parts not yet searched are left in `progress.parts`, the last of them the one
    that `progress.store` (rows of bound, lower, upper, open clauses and weights) belongs to when it holds any row.
    """
    parts = [replace(folded, box=box) for box in progress.parts] or [folded]
    progress.parts = []
    least_width = (folded.box.upper - folded.box.lower) * SMALLEST_WIDTH
    while parts:
        if expired():
            progress.parts = [part.box for part in parts]
            progress.bound = -float("inf")
            return "unknown"
        part = parts.pop()
        if sum(len(kept) for _, kept in part.neurons.values()) > WIDE:
            nodes = bound_nodes(
                part.graph, part.box, magnitudes=part.magnitudes, known=known_arguments(part), expired=expired
            )
            every = torch.ones(1, len(clauses.constant), dtype=torch.bool, device=part.box.lower.device)
            weights = clauses.equal_weights(torch.float64).unsqueeze(0)
            bounded = Bounded.of(part, clauses, nodes, every, weights, SCHEDULE.longer(0))
            progress.domains += 1
            if bool((bounded.bound > 0).all()):
                progress.store.drain()
                continue
            part = refold(part, nodes)
            halves = _halves(part.box, least_width)
            if len(progress.store):
                # An earlier search of this part may have folded it otherwise: bounds of neurons begin anew.
                rows = progress.store.drain()
                progress.store.put(
                    **{name: rows[name] for name in ("bound", "lower", "upper", "open", "weights")}
                )
                halves = None
            if halves is not None and sum(len(kept) for _, kept in part.neurons.values()) > WIDE:
                parts += [replace(part, box=half) for half in halves]
                continue
        outcome = _search(part, clauses, least_width, batch, expired, suspect, progress)
        if outcome == "sat":
            return "sat"
        if outcome == "expired":
            progress.bound = -float("inf") if progress.undecided or parts else progress.store.least()
            progress.parts = [each.box for each in (*parts, part)]
            return "unknown"
    progress.bound = -float("inf") if progress.undecided else 0.0
    return "unknown" if progress.undecided else "unsat"


def known_arguments(folded: Folded) -> dict[int, tuple[Tensor, Tensor]]:
    """The bounds of the folded ReLUs' arguments, by the arguments' positions."""
    return {folded.graph.preactivation(p): bounds for p, bounds in folded.bounds.items()}


def _halves(box: Box, least_width: Tensor) -> tuple[Box, Box] | None:
    """The box (B = 1) cut across its widest side; None where that is too narrow."""
    width = (box.upper - box.lower) / least_width.clamp(min=torch.finfo(least_width.dtype).tiny)
    middle, axis = cuts(box, width, least_width)
    if axis < 0:
        return None
    low, high = box.lower.clone(), box.upper.clone()
    high[0, axis] = low[0, axis] = middle
    return Box(box.lower, high), Box(low, box.upper)


def _search(
    folded: Folded,
    clauses: Clauses,
    least_width: Tensor,
    batch: int,
    expired: Callable[[], bool],
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> str:
    """Branch and bound on one folded part, from what is open in the store: "done", "sat" or "expired"."""
    region = Region(folded, clauses)
    store = progress.store
    count = len(clauses.constant)
    rows = store.drain() or {
        "bound": folded.box.lower.new_full((1,), -float("inf")),
        "lower": folded.box.lower,
        "upper": folded.box.upper,
        "open": torch.ones(1, count, dtype=torch.bool, device=folded.box.lower.device),
        "weights": clauses.equal_weights(torch.float64).unsqueeze(0),
    }
    for name, side in region.inherited(NodeBounds(folded.box, known_arguments(folded))).items():
        rows.setdefault(name, side.expand(len(rows["bound"]), -1))
    store.put(**rows)
    while len(store):
        if expired():
            return "expired"
        picked = store.take(most_boxes(batch, count))
        progress.domains += len(picked["bound"])
        halved = region.halved(picked, least_width, suspect)
        if halved is None:
            return "sat"
        progress.undecided = progress.undecided or bool(halved.stuck.any())
        for half in halved.halves:
            store.put(**half)
    return "done"


def most_boxes(batch: int, clauses: int) -> int:
    """How many domains a batch takes, each of which has so many clauses open at most."""
    return max(1, min(batch, scaled(PAIRS) // clauses))


@dataclass(frozen=True)
class Halved:
    """What comes of the domains of a batch: rows of their parts (the lower ones and the upper ones), and which domains
    (B,) could neither be closed nor cut."""

    halves: tuple[Rows, ...]
    stuck: Tensor


@dataclass(frozen=True)
class Region:
    """A folded network with clauses, on whose box all domains lie.

    A domain's row has its box ("lower" and "upper"), its "open" clauses (K,), the "weights" (K, S) of their rows, a
    "bound", and what the domain that it is part of has found of the neurons' arguments ("least" and "most"): bounds on
    a box hold on its parts. Other columns are handed down as they are.
    """

    folded: Folded
    clauses: Clauses

    @cached_property
    def layout(self) -> Layout:
        """The arguments in a flat vector."""
        graph = self.folded.graph
        return Layout({p: graph.nodes[p].size for p in graph.bounded})

    def inherited(self, nodes: NodeBounds) -> Rows:
        """The columns "least" and "most" (B, arguments) of those bounds that are among `nodes`."""
        box, known = nodes.box.lower, nodes.values
        columns = {}
        for side, (name, infinity) in enumerate((("least", -float("inf")), ("most", float("inf")))):
            parts = {
                p: known[p][side].flatten(1) if p in known else box.new_full((len(box), size), infinity)
                for p, size in self.layout.sizes.items()
            }
            columns[name] = self.layout.join(parts, box[:, :0])
        return columns

    def halved(
        self, rows: Rows, least_width: Tensor, suspect: Callable[[Tensor, int], bool]
    ) -> Halved | None:
        """Bound the open clauses of domains, and cut those in two where some stay open. None: there is a witness.

        `rows` are changed. No side of at most `least_width` (B or 1, inputs left) is cut.
        """
        folded, clauses, layout = self.folded, self.clauses, self.layout
        graph = folded.graph
        box = Box(rows["lower"], rows["upper"])
        least, most = layout.split(rows["least"]), layout.split(rows["most"])
        inherited = {
            p: (least[p].unflatten(1, graph.nodes[p].shape), most[p].unflatten(1, graph.nodes[p].shape))
            for p in layout.sizes
        }
        nodes = bound_nodes(graph, box, magnitudes=folded.magnitudes, known=inherited)
        bounded = Bounded.of(folded, clauses, nodes, rows["open"], rows["weights"])
        still = torch.nonzero(~(bounded.bound > 0)).flatten()
        if not len(still):
            return Halved((), torch.zeros_like(rows["bound"], dtype=torch.bool))
        domain, clause = bounded.domain[still], bounded.clause[still]
        for x in ((box.lower[domain] + box.upper[domain]) / 2, bounded.minimiser[still]):
            if clauses.suspicious(x, graph.forward(x), clause, suspect):
                return None
        rows["open"].zero_()
        rows["open"][domain, clause] = True
        rows["weights"][domain, clause] = bounded.weights[still]
        rows["bound"].zero_().scatter_reduce_(
            0, domain, bounded.bound[still].nan_to_num(nan=-float("inf")), "amin"
        )
        scores = input_scores(graph, nodes[domain], clauses.specification(clause, torch.float64))
        score = torch.zeros_like(box.lower).index_add_(0, domain, scores)
        rows |= self.inherited(nodes)
        left = rows["open"].any(1)
        middle, axis = cuts(box, score, least_width)
        keep = torch.nonzero(left & (axis >= 0)).flatten()
        kept = {name: values[keep] for name, values in rows.items()}
        stuck = left & (axis < 0)
        middle, axis = middle[keep].unsqueeze(1), axis[keep].unsqueeze(1)
        lower_half = {**kept, "upper": kept["upper"].scatter(1, axis, middle)}
        upper_half = {**kept, "lower": kept["lower"].scatter(1, axis, middle)}
        return Halved((lower_half, upper_half), stuck)


def cuts(box: Box, score: Tensor, least_width: Tensor) -> tuple[Tensor, Tensor]:
    """Where, and across which input, to cut boxes by their scores (B, inputs left): (B,) each; -1: it cannot be cut."""
    width, middles = box.upper - box.lower, (box.lower + box.upper) / 2
    # A side of a few ulps may have no number between its ends: halved, it would come back for ever.
    narrow = (width <= least_width) | (middles <= box.lower) | (middles >= box.upper)
    best, axis = (score + 1e-12 * width).masked_fill(narrow, -1.0).max(1)
    return middles.gather(1, axis.unsqueeze(1)).squeeze(1), torch.where(best < 0, -1, axis)
