"""What numbers that sum to 1 are good for: the output of a Softmax, of which bounds see every number alone.

Σ_j a_j·p_j = λ + Σ_j (a_j - λ)·p_j for every λ where Σ_j p_j = 1. What p's bounds lose is weighted with |a_j - λ| then
instead of |a_j|: a mean of values no longer depends on where zero is. λ is the mean of a with weights w, the middles of
p's bounds, so that it is p + w·(1 - Σ_j p_j) that takes p's place: the same number, but for what relaxations lose.
(The constraint's multiplier in a Lagrangian, set to a good value rather than optimised.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.constraints import Bounded
from secateur.pipeline.verify.bounding.relaxation import Relaxation, Schedule, Substitution


@dataclass(frozen=True)
class NormalisedRelaxation(Relaxation):
    """p itself, less a multiple of what its numbers are known to sum to; `weights` (B, 1, *shape) sum to 1 or so along
    the last axis. There is nothing to choose: multipliers are empty, (B, S, 0)."""

    weights: Tensor

    @staticmethod
    def of(bounds: Bounded) -> NormalisedRelaxation:
        middle = (bounds[0] + bounds[1]).unsqueeze(1)
        weights = middle / middle.sum(-1, keepdim=True)
        equal = torch.full_like(weights, 1 / weights.shape[-1])
        return NormalisedRelaxation(torch.where(weights.isfinite(), weights, equal))

    def initial_multiplier(self, count: int) -> Tensor:
        return self.weights.new_zeros(len(self.weights), count, 0)

    def substitute(self, a: Tensor, multiplier: Tensor | None, traced: bool) -> Substitution:
        mean = (a * self.weights).sum(-1, keepdim=True)
        return Substitution((a - mean,), mean.flatten(2).sum(2))

    def line(self, trace: None, multiplier: Tensor, *z: Tensor) -> Tensor:
        return z[0] + self.weights * (1 - z[0].sum(-1, keepdim=True))

    def gradient(self, trace: None, multiplier: Tensor, *z: Tensor) -> Tensor:
        return torch.zeros_like(multiplier)

    def lines(self) -> tuple[tuple[tuple[Tensor, ...], Tensor], tuple[tuple[Tensor, ...], Tensor]]:
        zero = torch.zeros_like(self.weights.squeeze(1))
        return ((zero + 1,), zero), ((zero + 1,), zero)

    def cost(self, a: Tensor) -> tuple[Tensor, ...]:
        return (torch.zeros_like(a.squeeze(1)),)

    def rate(self, schedule: Schedule) -> Tensor:
        return self.initial_multiplier(1)

    def project(self, multiplier: Tensor) -> Tensor:
        return multiplier

    def error(self, a: Tensor, multiplier: Tensor | None, gamma: float) -> Tensor | None:
        """Whatever λ is, it is one number, so that only a - λ, of numbers p of at most 1, and the sum of the λ are
        rounded; |λ| is at most the largest |a|, once for each of the n numbers."""
        return gamma * (self.weights.shape[-1] + 4) * a.abs().flatten(2).sum(2)
