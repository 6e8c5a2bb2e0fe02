"""Branch and bound over the input box with a proof: as `search.input_split`, on the bounds that the checker finds.

Every box of the tree is bounded by `certificate.boxes.narrowed` from its parent's bounds, as the checker does from the
whole box down; slopes and weights come from an ascent on the network with these bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from secateur.formats.query import Floats
from secateur.pipeline.certificate.boxes import narrowed
from secateur.pipeline.certificate.maps import Ints
from secateur.pipeline.verify.bounding.branching import Layout
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.optimise import Optimised, optimise
from secateur.pipeline.verify.bounding.root import NodeBounds
from secateur.pipeline.verify.bounding.sensitivity import input_scores
from secateur.pipeline.verify.proving.recorded import Recorded
from secateur.pipeline.verify.search.input_split import PAIRS, SCHEDULE, SMALLEST_WIDTH, cuts
from secateur.pipeline.verify.search.problem import Progress

BATCH = 256
"""Boxes bounded at a time."""


@dataclass
class Tree:
    """The boxes so far, as a certificate has them."""

    parent: list[int] = field(default_factory=lambda: [-1])
    axis: list[int] = field(default_factory=lambda: [-1])
    cut: list[float] = field(default_factory=lambda: [0.0])

    def split(self, boxes: Ints, axis: Ints, cut: Floats) -> tuple[Ints, Ints]:
        """Cut boxes (B,): the numbers of their lower and of their upper parts."""
        first = len(self.parent)
        for box, across, at in zip(boxes.tolist(), axis.tolist(), cut.tolist(), strict=True):
            self.axis[box], self.cut[box] = across, at
            self.parent += [box, box]
            self.axis += [-1, -1]
            self.cut += [0.0, 0.0]
        lower = first + 2 * np.arange(len(boxes))
        return lower, lower + 1


def solve(
    problem: Recorded,
    tree: Tree,
    *,
    expired: Callable[[], bool],
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> str:
    """Search all clauses of `problem` over its box, whose leaves its recorder keeps; arguments and result as those of
    `relu_split.solve`."""
    search, layout = _Search(problem, suspect), problem.layout
    root, store, count = problem.folded.box, progress.store, len(problem.constant)
    low, high = problem.bounds()
    store.put(
        bound=root.lower.new_full((1,), -float("inf")),
        box=torch.zeros(1, dtype=torch.long, device=root.lower.device),
        lower=root.lower,
        upper=root.upper,
        least=low,
        most=high,
        open=torch.ones(1, count, dtype=torch.bool, device=root.lower.device),
        weights=problem.equal_weights(torch.float64).unsqueeze(0),
    )
    least_width = (root.upper - root.lower) * SMALLEST_WIDTH
    while len(store):
        if expired():
            progress.bound = -float("inf") if progress.undecided else store.least()
            return "unknown"
        picked = store.take(max(1, min(BATCH, PAIRS // count)))
        progress.domains += len(picked["box"])
        score = search.bounded(picked, layout)
        if score is None:
            return "sat"
        middle, axis = cuts(Box(picked["lower"], picked["upper"]), score, least_width)
        left = picked["open"].any(1)
        progress.undecided = progress.undecided or bool((left & (axis < 0)).any())
        keep = torch.nonzero(left & (axis >= 0)).flatten()
        kept = {name: rows[keep] for name, rows in picked.items()}
        middle, axis = middle[keep], axis[keep]
        numbers = tree.split(*(each.cpu().numpy() for each in (kept["box"], axis, middle)))
        for name, part in zip(("upper", "lower"), numbers, strict=True):
            side = kept[name].scatter(1, axis.unsqueeze(1), middle.unsqueeze(1))
            store.put(**{**kept, name: side, "box": torch.from_numpy(part).to(side.device)})
    progress.bound = -float("inf") if progress.undecided else 0.0
    return "unknown" if progress.undecided else "unsat"


@dataclass
class _Search:
    problem: Recorded
    suspect: Callable[[Tensor, int], bool]

    def bounded(self, picked: dict[str, Tensor], layout: Layout) -> Tensor | None:
        """Bound the open clauses of boxes; what is open, the bounds and the weights in `picked` are brought up to date.
        What cutting each input promises, (B, inputs); None where one has a witness."""
        problem, graph, recorder = self.problem, self.problem.folded.graph, self.problem.recorder
        lower, upper = (picked[name].cpu().numpy() for name in ("lower", "upper"))
        known = self._layers(layout, picked)
        narrow = narrowed(recorder.folded, lower, upper, known)
        sides = [_numbers([pair[side] for pair in narrow], picked["lower"]) for side in (0, 1)]
        picked["least"], picked["most"] = sides
        values = {
            graph.preactivation(p): (low, high)
            for (p, low), high in zip(
                layout.split(sides[0]).items(), layout.split(sides[1]).values(), strict=True
            )
        }
        nodes = NodeBounds(Box(picked["lower"], picked["upper"]), values)
        domain, clause = torch.nonzero(picked["open"], as_tuple=True)
        best = self._ascended(nodes[domain], clause, picked["weights"][domain, clause])
        assert best.weights is not None
        # What is stable here gets the slope of what it is, should another summation find it not quite stable.
        low, high = (side[domain] for side in sides)
        joined = layout.join(best.multipliers, low.unsqueeze(1)[:, :, :0]).squeeze(1)
        slopes = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, joined))
        bounds = self._accepted(picked, narrow, domain, clause, best.weights, slopes)
        x = best.minimiser.squeeze(1)
        still = torch.nonzero(~(bounds > 0)).flatten()
        if problem.constant.shape[1] > 1 and len(still):
            alone = self._alone(x[still], clause[still])
            again = self._accepted(picked, narrow, domain[still], clause[still], alone, slopes[still])
            bounds[still] = torch.fmax(bounds[still], again)
            still = torch.nonzero(~(bounds > 0)).flatten()
        picked["open"].zero_()
        domain, clause = domain[still], clause[still]
        picked["open"][domain, clause] = True
        picked["weights"][domain, clause] = best.weights[still]
        least = bounds[still].nan_to_num(nan=-float("inf"))
        picked["bound"].zero_().scatter_reduce_(0, domain, least, "amin")
        score = torch.zeros_like(picked["lower"])
        if not len(still):
            return score
        middle = (picked["lower"][domain] + picked["upper"][domain]) / 2
        for point in (middle, x[still]):
            if problem.suspicious(point, graph.forward(point), clause, self.suspect):
                return None
        scores = input_scores(graph, nodes[domain], problem.specification(clause, torch.float64))
        return score.index_add_(0, domain, scores)

    def _accepted(
        self,
        picked: dict[str, Tensor],
        narrow: list[tuple[Floats, Floats]],
        domain: Tensor,
        clause: Tensor,
        weights: Tensor,
        slopes: Tensor,
    ) -> Tensor:
        """The checker's bounds (P,) of clauses (P,) on boxes (P,) of a batch; what it accepts is kept."""
        problem, where = self.problem, domain.cpu().numpy()
        box, lower, upper = (picked[name].cpu().numpy()[where] for name in ("box", "lower", "upper"))
        bound = problem.recorder.bounds(
            clause.cpu().numpy(),
            weights.cpu().numpy(),
            np.zeros((len(where), len(problem.columns)), np.int8),
            slopes[:, problem.columns].cpu().numpy(),
            box,
            lower,
            upper,
            [(low[where], high[where]) for low, high in narrow],
            keep=True,
        )
        return torch.from_numpy(bound).to(domain.device)

    def _alone(self, x: Tensor, clause: Tensor) -> Tensor:
        """Weights (P, S) of one row each, the largest at x (P, inputs). On a box of a point that decides."""
        y = self.problem.folded.graph.forward(x)
        values = self.problem.specification(clause, x.dtype).values(x.unsqueeze(1), y.unsqueeze(1))
        unused = self.problem.equal_weights(x.dtype)[clause] == 0
        row = values.masked_fill(unused, -float("inf")).argmax(1)
        return torch.nn.functional.one_hot(row, values.shape[1]).to(x.dtype)

    def _layers(self, layout: Layout, picked: dict[str, Tensor]) -> list[tuple[Floats, Floats]]:
        """The bounds that boxes have from their parents, layer by layer of the checker's."""
        low, high = (layout.split(picked[name]) for name in ("least", "most"))
        numbers = {number: p for p, (number, _) in self.problem.folded.neurons.items()}
        nothing = np.zeros((len(picked["box"]), 0))
        return [
            (low[numbers[k]].cpu().numpy(), high[numbers[k]].cpu().numpy())
            if k in numbers
            else (nothing, nothing)
            for k in range(len(self.problem.recorder.columns))
        ]

    def _ascended(self, nodes: NodeBounds, clause: Tensor, weights: Tensor) -> Optimised:
        """Slopes and weights for clauses (P,) on boxes (P,)."""
        graph = self.problem.folded.graph
        rows = self.problem.specification(clause, torch.float64)
        return optimise(
            graph,
            nodes.relaxations(graph),
            nodes.box,
            graph.output,
            rows.rows,
            SCHEDULE,
            direct=rows.direct,
            constant=rows.constant,
            weights=weights,
            stop_above=0.0,
        )


def _numbers(layers: list[Floats], like: Tensor) -> Tensor:
    """Bounds (B, n) of all layers side by side."""
    return torch.from_numpy(np.concatenate([*layers, np.zeros((len(like), 0))], 1)).to(like.device)
