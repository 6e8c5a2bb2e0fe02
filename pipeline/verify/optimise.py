"""Bounds optimised over α and β by projected gradient ascent (Adam), with the gradient written out by hand.

One iteration is one backward substitution and one forward propagation of its minimiser (see `crown`); nothing is
differentiated automatically. α: Xu et al. 2021, "Fast and complete"; β: Wang et al. 2021, "Beta-CROWN".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.pipeline.verify.crown import Box, Multipliers, Relaxations, Tape, backward, relaxed_values
from secateur.pipeline.verify.graph import BoundGraph


@dataclass(frozen=True)
class Schedule:
    """Iterations and step sizes of the ascent; each step shrinks by `decay`."""

    iterations: int
    alpha_rate: float = 0.25
    beta_rate: float = 0.1
    decay: float = 0.95

    def longer(self, iterations: int) -> Schedule:
        """The same step sizes over another number of iterations."""
        return replace(self, iterations=iterations)


@dataclass(frozen=True)
class Optimised:
    """The best bound (B, S) met and the multipliers that gave it.

    For branching and attacks, of the last substitution: its tape, the bound's minimiser (B, S, *input shape), and the
    pre-activations of the last forward propagation (none after a single step).
    """

    bound: Tensor
    multipliers: Multipliers
    tape: Tape
    minimiser: Tensor
    values: dict[int, Tensor]


def initial_multipliers(relaxations: Relaxations, count: int) -> Multipliers:
    """CROWN's slopes for all unstable neurons and β = 0, as (B, count, *shape) that may be written to."""
    return {
        position: relaxation.initial.expand(-1, count, *relaxation.initial.shape[2:]).contiguous()
        for position, relaxation in relaxations.items()
    }


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
    stop_above: float | None = None,
) -> Optimised:
    """The best lower bound of ⟨rows, value of `start`⟩ + ⟨direct, input⟩ + constant in `schedule.iterations` steps.

    `rows` is (B, S, *node shape). `multipliers` is the warm start (not changed). Every iterate is a valid bound. With
    `stop_above`, the ascent ends as soon as each sub-problem has a row whose bound is above that number.
    """
    current = initial_multipliers(relaxations, rows.shape[1]) if multipliers is None else dict(multipliers)
    current = {p: m.clone() for p, m in current.items() if p <= start}
    best = current
    best_bound: Tensor | None = None
    first: dict[int, Tensor] = {}
    second: dict[int, Tensor] = {}
    rates = {
        p: schedule.alpha_rate * r.unstable + (0 if r.sign is None else schedule.beta_rate * r.sign.abs())
        for p, r in relaxations.items()
        if p <= start
    }
    values: dict[int, Tensor] = {}
    for iteration in range(schedule.iterations + 1):
        tape = Tape()
        linear = backward(graph, relaxations, start, rows, current, direct=direct, tape=tape)
        bound = linear.minimum(box) if constant is None else linear.minimum(box) + constant
        x = linear.minimiser(box)
        if best_bound is None:
            best_bound, best = bound, {p: m.clone() for p, m in current.items()}
        else:
            better = bound > best_bound
            best_bound = torch.maximum(bound, best_bound)
            for p, m in current.items():
                shaped = better.view(*better.shape, *([1] * (m.dim() - 2)))
                torch.where(shaped, m, best[p], out=best[p])
        if stop_above is not None and bool((best_bound.amax(1) > stop_above).all()):
            break
        if iteration == schedule.iterations:
            break
        step = schedule.decay**iteration
        for p, z in relaxed_values(graph, relaxations, current, tape, x, start):
            gradient = tape.gain[p] * z
            if iteration == 0:
                first[p], second[p] = gradient * 0.1, gradient * gradient * 0.001
            else:
                first[p].mul_(0.9).add_(gradient, alpha=0.1)
                second[p].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            scale = second[p].div(1 - 0.999 ** (iteration + 1)).sqrt_().add_(1e-12)
            move = (first[p] / scale).mul_(rates[p]).mul_(step / (1 - 0.9 ** (iteration + 1)))
            moved = (current[p] + move).clamp_(min=0)
            sign = relaxations[p].sign
            # α must not exceed 1; β has no upper limit.
            current[p] = (
                moved.clamp_(max=1) if sign is None else torch.where(sign == 0, moved.clamp(max=1), moved)
            )
            values[p] = z
    assert best_bound is not None
    return Optimised(best_bound, best, tape, x, values)
