"""Bounds optimised over α and β by projected gradient ascent (Adam), with the gradient written out by hand.

One iteration is one backward substitution and one forward propagation of its minimiser (see `crown`); nothing is
differentiated automatically. α: Xu et al. 2021, "Fast and complete"; β: Wang et al. 2021, "Beta-CROWN".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.crown import Box, Tape, backward, relaxed_values
from secateur.pipeline.verify.bounding.relaxation import Multipliers, Relaxations, Schedule
from secateur.pipeline.verify.graph.bound_graph import BoundGraph


@dataclass(frozen=True)
class Optimised:
    """The best bound (B, S) met, and the multipliers (and row weights) that gave it.

    For branching and attacks, of the last substitution: its tape and the bound's minimiser (B, S, *input shape). `last`
    are the multipliers there: the point to go on from, as the best ones may be where the ascent began.
    Where rows were combined, S is 1 but for `weights` (B, S).
    """

    bound: Tensor
    multipliers: Multipliers
    weights: Tensor | None
    tape: Tape
    minimiser: Tensor
    last: Multipliers


def initial_multipliers(relaxations: Relaxations, count: int) -> Multipliers:
    """CROWN's slopes for all nonlinear nodes and β = 0, as (B, count, …) that may be written to."""
    return {position: relaxation.initial_multiplier(count) for position, relaxation in relaxations.items()}


def optimise(
    graph: BoundGraph,
    relaxations: Relaxations,
    box: Box,
    start: int,
    rows: Tensor,
    schedule: Schedule,
    multipliers: Multipliers | None = None,
    *,
    direct: Tensor | None = None,
    constant: Tensor | None = None,
    weights: Tensor | None = None,
    stop_above: float | None = None,
    expired: Callable[[], bool] = lambda: False,
) -> Optimised:
    """The best lower bound of ⟨rows, value of `start`⟩ + ⟨direct, input⟩ + constant in `schedule.iterations` steps.

    `rows` is (B, S, *node shape). `multipliers` is the warm start (not changed). Every iterate is a valid bound. With
    `stop_above`, the ascent ends as soon as each sub-problem has a row whose bound is above that number; and it ends
    early once `expired()`.

    With `weights` (B, S; non-negative, summing to 1) the rows of a sub-problem, all of which its clause needs ≤ 0, are
    bounded as one: their combination with these weights, which are optimised too (exponentiated gradient). A positive
    bound of any combination refutes the clause; sometimes no single row's does.
    """
    separate = Specification(rows, direct, constant)
    combined = separate if weights is None else separate.combined(weights)
    current = (
        initial_multipliers(relaxations, combined.rows.shape[1]) if multipliers is None else dict(multipliers)
    )
    # Relaxations that all sub-problems share stand for one; what is chosen is each one's own.
    current = {p: m.expand(len(rows), *m.shape[1:]).clone() for p, m in current.items() if p <= start}
    best = current
    best_bound: Tensor | None = None
    first: dict[int, Tensor] = {}
    second: dict[int, Tensor] = {}
    rates = {p: relaxation.rate(schedule) for p, relaxation in relaxations.items() if p <= start}
    best_weights = weights
    for iteration in range(schedule.iterations + 1):
        tape = Tape()
        linear = backward(
            graph, relaxations, start, combined.rows, current, direct=combined.direct, tape=tape
        )
        bound = linear.minimum(box)
        if combined.constant is not None:
            bound = bound + combined.constant
        x = linear.minimiser(box)
        if best_bound is None:
            best_bound, best = bound, {p: m.clone() for p, m in current.items()}
        else:
            better = bound > best_bound
            best_bound = torch.maximum(bound, best_bound)
            for p, m in current.items():
                shaped = better.view(*better.shape, *([1] * (m.dim() - 2)))
                torch.where(shaped, m, best[p], out=best[p])
            if weights is not None and best_weights is not None:
                best_weights = torch.where(better, weights, best_weights)
        if stop_above is not None and bool((best_bound.amax(1) > stop_above).all()):
            break
        if iteration == schedule.iterations or expired():
            break
        step = schedule.decay**iteration
        for p, z in relaxed_values(graph, relaxations, current, tape, x, start):
            gradient = relaxations[p].gradient(tape.traces[p], current[p], *z)
            if iteration == 0:
                first[p], second[p] = gradient * 0.1, gradient * gradient * 0.001
            else:
                first[p].mul_(0.9).add_(gradient, alpha=0.1)
                second[p].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            scale = second[p].div(1 - 0.999 ** (iteration + 1)).add_(1e-24).sqrt_()
            move = (first[p] / scale).mul_(rates[p]).mul_(step / (1 - 0.9 ** (iteration + 1)))
            current[p] = relaxations[p].project(current[p] + move)
        if weights is not None and tape.value is not None:
            weights = _ascended(weights, separate.values(x, tape.value), schedule.weight_rate * step)
            combined = separate.combined(weights)
    assert best_bound is not None
    return Optimised(best_bound, best, best_weights, tape, x, current)


@dataclass(frozen=True)
class Specification:
    """Specification rows (B, S, *node shape), what they take of the input directly (B, S, *input shape), and their
    constants (B, S)."""

    rows: Tensor
    direct: Tensor | None
    constant: Tensor | None

    def combined(self, weights: Tensor) -> Specification:
        """One row for each sub-problem: the sum with weights (B, S)."""
        return Specification(
            torch.einsum("bs,bs...->b...", weights, self.rows).unsqueeze(1),
            None
            if self.direct is None
            else torch.einsum("bs,bs...->b...", weights, self.direct).unsqueeze(1),
            None if self.constant is None else (weights * self.constant).sum(1, keepdim=True),
        )

    def values(self, x: Tensor, y: Tensor) -> Tensor:
        """The rows' values (B, S) at one input (B, 1, *input shape) and node value (B, 1, *node shape) each."""
        value = (self.rows * y).flatten(2).sum(2)
        if self.direct is not None:
            value = value + (self.direct * x).flatten(2).sum(2)
        return value if self.constant is None else value + self.constant


def _ascended(weights: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """One step of exponentiated gradient ascent on the simplex; weights that are zero stay zero."""
    used = weights > 0
    gradient = torch.where(used, gradient, 0.0)
    scale = gradient.abs().amax(1, keepdim=True).clamp(min=1e-12)
    grown = weights * torch.exp(rate * gradient / scale)
    return grown / grown.sum(1, keepdim=True)
