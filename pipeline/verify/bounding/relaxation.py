"""Lines that bound nonlinear operations, and the multipliers (α, β) that choose among them.

A relaxation stands for one nonlinear node on a batch of B bounds of its arguments. Backward substitution hands it the
coefficients A (B, S, *shape) of the node's value and gets back those of its arguments, and a constant:

    ⟨A, f(z)⟩ ≥ ⟨coefficients, z⟩ + shift   wherever z is within the bounds (and satisfies its split constraints).

`multiplier` (B, S, …) holds what may be chosen: slopes α within [0, 1], dual variables β. Every value that `project`
returns is valid. `gradient` is the derivative of the bound with respect to the multiplier at the bound's minimiser,
propagated forwards through the chosen lines (envelope theorem).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from secateur.pipeline.verify.graph.bound_graph import FLOOR, unit


def products(a: Tensor, values: Tensor) -> Tensor:
    """The sums ⟨a, values⟩ over a node's shape, (B, S), of coefficients (B, S, *shape) and values (B or 1, *shape)."""
    return (a.flatten(2) @ values.flatten(1).unsqueeze(2)).squeeze(2)


@dataclass(frozen=True)
class Substitution:
    """The coefficients of each argument (B, S, *shape), the constant (B, S), and what `gradient` needs (or None)."""

    coefficients: tuple[Tensor, ...]
    shift: Tensor
    trace: Any = None


@dataclass(frozen=True)
class Schedule:
    """Iterations and step sizes of the ascent (of α, β and the rows' weights); each step shrinks by `decay`."""

    iterations: int
    alpha_rate: float = 0.25
    beta_rate: float = 0.1
    weight_rate: float = 0.5
    decay: float = 0.95

    def longer(self, iterations: int) -> Schedule:
        """The same step sizes over another number of iterations."""
        return replace(self, iterations=iterations)


class Relaxation(ABC):
    """One nonlinear node's lines on a batch of bounds; see the module's docstring."""

    @abstractmethod
    def initial_multiplier(self, count: int) -> Tensor:
        """CROWN's choice, for `count` rows: (B, count, …), which may be written to."""

    @abstractmethod
    def substitute(self, a: Tensor, multiplier: Tensor | None, traced: bool) -> Substitution:
        """Bound ⟨a, f(z)⟩ from below; without a multiplier by CROWN's choice."""

    @abstractmethod
    def line(self, trace: Any, multiplier: Tensor, *z: Tensor) -> Tensor:
        """The value (B, S, *shape) at z of the lines that the substitution chose."""

    @abstractmethod
    def gradient(self, trace: Any, multiplier: Tensor, *z: Tensor) -> Tensor:
        """The derivative of the bound by the multiplier, in its shape, at the minimiser's arguments z."""

    @abstractmethod
    def rate(self, schedule: Schedule) -> Tensor:
        """Step sizes, broadcastable to the multiplier; 0 where nothing is to be chosen."""

    @abstractmethod
    def project(self, multiplier: Tensor) -> Tensor:
        """The nearest valid multiplier; `multiplier` may be overwritten."""

    @abstractmethod
    def lines(self) -> tuple[tuple[tuple[Tensor, ...], Tensor], tuple[tuple[Tensor, ...], Tensor]]:
        """CROWN's lines below and above: coefficients of each argument and a constant, all (B, *shape)."""

    @abstractmethod
    def cost(self, a: Tensor) -> tuple[Tensor, ...]:
        """How much the lines cost the bound at most, through coefficients a (B, 1, *shape) of the value: what there is
        to gain by splitting each argument, (B, *shape)."""

    def error(self, a: Tensor, multiplier: Tensor | None, gamma: float) -> Tensor | None:
        """A bound (B, S) of what rounding can have changed in `substitute` by; None where γ⟨|a|, |value|⟩ is one."""
        return None


@dataclass(frozen=True)
class ReluTrace:
    """G of `ReluRelaxation`, and where A is not negative; both (B, S, *shape)."""

    gain: Tensor
    positive: Tensor


@dataclass(frozen=True)
class ReluRelaxation(Relaxation):
    """The lines that replace one ReLU on [lower, upper] (B, *shape); all fields (B, 1, *shape).

    `active`: 1 where the neuron is active; `unstable`: 1 where it is unstable; `sign`: σ of its split, or 0;
    `slope`, `intercept`: the upper line (s, t); `initial`: the slope α of CROWN's adaptive rule.

    A neuron is unstable (its bounds straddle zero, and it is not split) and then has a lower slope α ∈ [0, 1], or it
    is split (sign σ = ±1: the constraint σz ≥ 0) and then has a dual variable β ≥ 0, or it is stable and has neither.
    So one tensor holds α and β. With A the coefficient of the ReLU's output, A⁺ and A⁻ its positive and negative parts:

        coefficient of z = A⁺·active + A⁻·s + multiplier·G,   G = A⁺·unstable - σ,   shift = ⟨A⁻, t⟩

    and the derivative by the multiplier is G·z.
    """

    active: Tensor
    unstable: Tensor
    slope: Tensor
    intercept: Tensor
    initial: Tensor
    sign: Tensor | None

    @cached_property
    def adaptive(self) -> Tensor:
        """The lower line's slope where α is CROWN's own."""
        return self.active + self.unstable * self.initial

    @staticmethod
    def of(lower: Tensor, upper: Tensor, sign: Tensor | None = None) -> ReluRelaxation:
        """The relaxation for bounds (B, *shape) and split signs σ (B, *shape, in {-1, 0, 1}, or None).

        A split neuron counts as active (σ = 1) or inactive (σ = -1) whatever its bounds: the constraint is kept by
        its β. The intercept is rounded up far enough that the line lies above the ReLU at both ends in exact
        arithmetic: 8u(u - l) covers the rounding of the slope and of the product.
        """
        low, high = lower.clamp(max=0), upper.clamp(min=0)
        width = high - low
        tiny = torch.finfo(lower.dtype).tiny
        slope = high / width.clamp(min=tiny)
        intercept = -slope * low + 8 * unit(lower) * width + FLOOR
        unstable = (lower < 0) & (upper > 0)
        active = lower >= 0
        if sign is not None:
            unstable = unstable & (sign == 0)
            active = (active & (sign == 0)) | (sign > 0)
        slope = torch.where(unstable, slope, active.to(lower.dtype))
        intercept = torch.where(unstable, intercept, intercept.new_zeros(()))
        initial = ((high > -low) & unstable).to(lower.dtype)
        split = None if sign is None else sign.unsqueeze(1).to(lower.dtype)
        parts = (active.to(lower.dtype), unstable.to(lower.dtype), slope, intercept, initial)
        a, n, s, t, i = (part.unsqueeze(1) for part in parts)
        return ReluRelaxation(a, n, s, t, i, split)

    def initial_multiplier(self, count: int) -> Tensor:
        return self.initial.expand(-1, count, *self.initial.shape[2:]).contiguous()

    def substitute(self, a: Tensor, multiplier: Tensor | None, traced: bool) -> Substitution:
        negative = a.clamp(max=0)
        positive = a - negative
        shift = products(negative, self.intercept.squeeze(1))
        if multiplier is None and self.sign is None and not traced:
            result = torch.addcmul(positive * self.adaptive, negative, self.slope)
            return Substitution((result,), shift)
        gain = positive * self.unstable
        if self.sign is not None:
            gain = gain - self.sign
        result = torch.addcmul(positive * self.active, negative, self.slope)
        if multiplier is not None:
            result = torch.addcmul(result, gain, multiplier)
        else:
            result = torch.addcmul(result, positive * self.unstable, self.initial)
        return Substitution((result,), shift, ReluTrace(gain, a >= 0) if traced else None)

    def line(self, trace: ReluTrace, multiplier: Tensor, *z: Tensor) -> Tensor:
        lower = self.active + self.unstable * multiplier
        return torch.where(trace.positive, lower * z[0], self.slope * z[0] + self.intercept)

    def gradient(self, trace: ReluTrace, multiplier: Tensor, *z: Tensor) -> Tensor:
        return trace.gain * z[0]

    def lines(self) -> tuple[tuple[tuple[Tensor, ...], Tensor], tuple[tuple[Tensor, ...], Tensor]]:
        slope, intercept = self.slope.squeeze(1), self.intercept.squeeze(1)
        return ((self.adaptive.squeeze(1),), torch.zeros_like(slope)), ((slope,), intercept)

    def cost(self, a: Tensor) -> tuple[Tensor, ...]:
        """Of a ReLU: what the upper line's intercept takes off."""
        return (-(a.clamp(max=0) * self.intercept).squeeze(1),)

    def rate(self, schedule: Schedule) -> Tensor:
        alpha = schedule.alpha_rate * self.unstable
        return alpha if self.sign is None else alpha + schedule.beta_rate * self.sign.abs()

    def project(self, multiplier: Tensor) -> Tensor:
        moved = multiplier.clamp_(min=0)
        if self.sign is None:
            return moved.clamp_(max=1)
        # α must not exceed 1; β has no upper limit.
        return torch.where(self.sign == 0, moved.clamp(max=1), moved)


Relaxations = dict[int, Relaxation]
"""A relaxation per nonlinear node of the graph, by position."""

Multipliers = dict[int, Tensor]
"""α and β per nonlinear node, (B, S or 1, …)."""
