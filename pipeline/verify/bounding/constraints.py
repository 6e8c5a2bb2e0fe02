"""Split constraints on the arguments of nonlinear nodes, and their dual variables.

A split narrows an argument's bounds; that the narrower bound is a constraint, which the network's other parts do not
know, is said by a dual variable: β ≥ 0 takes β·(z - l) ≥ 0 off the bound, β < 0 takes |β|·(u - z). One signed β an
argument is enough: with both, lowering both by the same amount adds a multiple of u - l to the bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.relaxation import Schedule

Bounded = tuple[Tensor, Tensor]
"""Lower and upper bounds (B, *shape)."""


@dataclass(frozen=True)
class Constraints:
    """The split constraints of one argument: its bounds, and where β may be positive or negative; (B, 1, *shape)."""

    lower: Tensor
    upper: Tensor
    cut: Tensor | None

    @staticmethod
    def of(bounds: Bounded, cut: Tensor | None) -> Constraints:
        lower, upper = (side.unsqueeze(1) for side in bounds)
        return Constraints(lower, upper, None if cut is None else cut.unsqueeze(1))

    def edge(self, beta: Tensor) -> Tensor:
        """The bound that β's constraint speaks of."""
        return torch.where(beta >= 0, self.lower, self.upper)

    def shift(self, beta: Tensor) -> Tensor:
        """The constant (B, S) that comes with the coefficient -β of the argument."""
        return torch.where(beta == 0, 0.0, beta * self.edge(beta)).flatten(2).sum(2)

    def gradient(self, beta: Tensor, z: Tensor) -> Tensor:
        """-(z - edge); at β = 0 the edge that z violates, if any. Nothing where no split is."""
        if self.cut is None:
            return torch.zeros_like(beta)
        nearest = torch.maximum(torch.minimum(z, self.upper), self.lower)
        return torch.where(beta > 0, self.lower, torch.where(beta < 0, self.upper, nearest)) - z

    def rate(self, schedule: Schedule) -> Tensor:
        if self.cut is None:
            return torch.zeros_like(self.lower)
        return schedule.beta_rate * (self.cut > 0).to(self.lower.dtype)

    def project(self, beta: Tensor) -> Tensor:
        """Every β is valid, since both bounds hold; but only where a split made them are they of use."""
        if self.cut is None:
            return torch.zeros_like(beta)
        beta = torch.where((self.cut == 1) | (self.cut == 3), beta, beta.clamp(max=0))
        return torch.where(self.cut >= 2, beta, beta.clamp(min=0))

    @property
    def largest(self) -> Tensor:
        """(B, *shape): the largest absolute value within the bounds."""
        return torch.maximum(self.lower.abs(), self.upper.abs()).squeeze(1)
