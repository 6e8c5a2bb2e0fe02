"""Bounds of deep neurons by branch and bound of their own.

What makes a deep network hard is not its last step: loose bounds of early neurons give looser ones of the later, layer
by layer. On a box, a neuron of the second layer depends on few unstable ones of the first, and its least and greatest
value are found almost exactly by splitting these; then the third layer is bounded on the tighter second, and so on.
(MNIST's six layers of 256, ε = 0.05: after seconds of this the clauses hold at the root, where they lacked 1,000.)
Refining bounds by exact methods before the search: Tjeng et al. 2019, "Evaluating robustness of neural networks with
mixed integer programming"; here it is β-CROWN's branch and bound, with all neurons of a layer in one batch.

A domain is one row (a neuron, from below or from above) with signs of neurons before it. The row's bound is the least
over its domains. The domain split next is the one that lacks most of what its row is known to reach somewhere, as a
share of what the row lacked at first: so all rows of a layer close at the same pace. The search is in the fast number
type; in the end, or when it has no more to gain, every domain's bound is evaluated rigorously in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.branching import Layout, split_costs
from secateur.pipeline.verify.bounding.crown import Box, backward
from secateur.pipeline.verify.bounding.optimise import Specification, optimise
from secateur.pipeline.verify.bounding.relaxation import Relaxations, ReluRelaxation, Schedule
from secateur.pipeline.verify.bounding.root import Rows, signed_rows
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.graph.operations import Dense, Sparse
from secateur.pipeline.verify.memory import for_domains, scaled
from secateur.pipeline.verify.region.unit_box import UnitBox, on_unit_box
from secateur.pipeline.verify.store import Store

FIRST, AFTER_SPLIT = Schedule(30), Schedule(1, alpha_rate=0.2, beta_rate=0.1)
"""How rows are bounded at first, and how their domains are."""

BATCH = 512
"""Domains bounded at once: what they hold stays in the cache."""

ENOUGH = 0.01
"""A domain that lacks less than this share of what its row lacked at first is not split."""


@dataclass
class Allowance:
    """How many multiplications a refinement may take, for so many layers: what one leaves goes to the others."""

    multiplications: float
    layers: int

    def share(self) -> float:
        """The next layer's part."""
        return self.multiplications / max(1, self.layers)

    def spend(self, multiplications: float) -> None:
        """Count one layer as done."""
        self.multiplications -= multiplications
        self.layers -= 1


def multiplications(graph: BoundGraph, until: int | None = None) -> int:
    """How many it takes to bring one value through the maps of a folded graph, up to node `until`."""
    maps = [node.operation for node in graph.nodes[: until if until is None else until + 1]]
    return sum(m.weight.numel() for m in maps if isinstance(m, Dense | Sparse))


class Refinement:
    """Branch and bound of the unstable neurons of one node; call `run`."""

    def __init__(
        self,
        graph: BoundGraph,
        box: Box,
        bounds: dict[int, tuple[Tensor, Tensor]],
        magnitudes: dict[int, Tensor],
        low: Tensor,
        high: Tensor,
    ) -> None:
        """`graph` (float64) ends in the node, `box` (B = 1) are its inputs, `bounds` those of its ReLUs' arguments
        (1, n), `magnitudes` as in `crown.backward`; `low`, `high` (1, n) are bounds of the node, to be improved."""
        self.graph, self.box, self.magnitudes = graph, box, magnitudes
        self.low, self.high = low, high
        self.dtype, self.device = torch.float32, low.device
        self.fast = on_unit_box(graph, box).to(self.dtype, self.device)
        self.unit_box = UnitBox.like(box.to(self.dtype))
        self.neurons = torch.nonzero((low[0] < 0) & (high[0] > 0)).flatten()
        self.rows = signed_rows(graph, graph.output, self.neurons.unsqueeze(0), magnitudes)
        self.bounds = {p: bound for p, bound in bounds.items() if p <= self.rows.start}
        self.layout = Layout({p: bound.shape[1] for p, (bound, _) in self.bounds.items()})
        count = 2 * len(self.neurons)
        # The least rigorous bound of domains that are done; the least value known that a row has somewhere; what its
        # first bound lacked to that.
        self.least = low.new_full((count,), float("inf"))
        self.reached = torch.full((count,), float("inf"), dtype=self.dtype, device=self.device)
        self.lacked = torch.ones_like(self.reached)
        self.store = Store(for_domains())
        self.spent = 0.0

    def run(self, allowed: float, expired: Callable[[], bool]) -> tuple[Tensor, Tensor]:
        """Better bounds (1, n), for about `allowed` multiplications; those given, where time was over before."""
        count = len(self.reached)
        if not count or not self.layout.total:
            return self.low, self.high
        row = torch.arange(count, device=self.device)
        signs = torch.zeros(count, self.layout.total, dtype=torch.int8, device=self.device)
        for part in row.split(scaled(BATCH)):
            self._bound(part, signs[part], None, FIRST)
        while len(self.store) and self.spent < allowed and not expired():
            picked = self.store.take(max(1, scaled(BATCH) // 2))
            children = {name: values.repeat_interleave(2, 0) for name, values in picked.items()}
            neuron = children["neuron"].unsqueeze(1)
            side = torch.tensor([[1], [-1]], dtype=torch.int8, device=self.device).repeat(len(neuron) // 2, 1)
            signs = children["signs"].scatter_(1, neuron, side)
            self._bound(children["row"], signs, children["multipliers"].scatter_(1, neuron, 0.0), AFTER_SPLIT)
        if expired():
            return self.low, self.high
        for rest in self.store.batches(scaled(BATCH)):
            self._certify(rest["row"], rest["signs"], rest["multipliers"])
        lower, upper = self.least.split(count // 2)
        low, high = self.low.clone(), self.high.clone()
        low[0, self.neurons] = torch.fmax(low[0, self.neurons], lower)
        high[0, self.neurons] = torch.fmin(high[0, self.neurons], -upper)
        return low, high

    def _bound(self, row: Tensor, signs: Tensor, warm: Tensor | None, schedule: Schedule) -> None:
        """Bound domains: rows (B,) with signs (B, U), and multipliers (B, U) to begin with. Those that are worth
        splitting are stored; those that lack something which no split would give them are bounded once more."""
        start, layout = self.rows.start, self.layout
        relaxations = self._relaxations(signs, self.dtype)
        rows, constant = self._picked(row, self.dtype)
        result = optimise(
            self.fast,
            relaxations,
            self.unit_box,
            start,
            rows,
            schedule,
            None if warm is None else layout.split(warm.unsqueeze(1)),
            constant=constant,
        )
        self.spent += 2 * (schedule.iterations + 1) * multiplications(self.graph, start) * len(row)
        self._reach(row, Specification(rows, None, constant), result.minimiser.squeeze(1))
        bound = result.bound.squeeze(1)
        if warm is None:
            self.lacked[row] = (self.reached[row] - bound).clamp(min=1e-6)
        lack = (bound - self.reached[row]) / self.lacked[row]
        costs = split_costs(layout, relaxations, result.tape.coefficient)
        multipliers = layout.join(result.multipliers).squeeze(1)
        lacking, helps = lack < -ENOUGH, costs.amax(1) > 0
        stuck = lacking & ~helps & (schedule is AFTER_SPLIT)
        if stuck.any():
            self._bound(row[stuck], signs[stuck], multipliers[stuck], FIRST)
        open_ = lacking & helps
        done = ~(open_ | stuck)
        if done.any():
            self._certify(row[done], signs[done], multipliers[done])
        self.store.put(
            bound=lack[open_],
            row=row[open_],
            signs=signs[open_],
            multipliers=multipliers[open_],
            neuron=costs[open_].argmax(1),
        )

    def _reach(self, row: Tensor, rows: Specification, u: Tensor) -> None:
        """Take the values of rows at inputs u (B, inputs) into what they are known to reach."""
        *_, (_, value) = self.fast.values(u, self.rows.start)
        reached = rows.values(u.unsqueeze(1), value.unsqueeze(1)).squeeze(1)
        self.reached.scatter_reduce_(0, row, reached, "amin")

    def _certify(self, row: Tensor, signs: Tensor, multipliers: Tensor) -> None:
        """Take rigorous bounds of domains into those of their rows."""
        rows, constant = self._picked(row, torch.float64)
        linear = backward(
            self.graph,
            self._relaxations(signs, torch.float64),
            self.rows.start,
            rows,
            self.layout.split(multipliers.double().unsqueeze(1)),
            magnitudes=self.magnitudes,
        )
        error = None if self.rows.error is None else self.rows.error[0, row].unsqueeze(1)
        bound = Rows(self.rows.start, rows, constant, error).added(linear.minimum(self.box)).squeeze(1)
        self.least.scatter_reduce_(0, row, bound.nan_to_num(nan=-float("inf")), "amin")

    def _picked(self, row: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Rows (B, 1, *shape) and constants (B, 1) by their numbers (B,)."""
        constant = None if self.rows.constant is None else self.rows.constant[0, row].unsqueeze(1).to(dtype)
        return self.rows.rows[0, row].unsqueeze(1).to(dtype), constant

    def _relaxations(self, signs: Tensor, dtype: torch.dtype) -> Relaxations:
        parts = self.layout.split(signs.to(dtype))
        return {
            p: ReluRelaxation.of(low.to(dtype), high.to(dtype), parts[p])
            for p, (low, high) in self.bounds.items()
        }
