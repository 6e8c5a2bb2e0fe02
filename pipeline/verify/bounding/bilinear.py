"""The relaxation of a product of two matrices of variables, without its products of numbers ever being written out.

Z = X·Y is Z_ij = Σ_d X_id·Y_dj. Every product X_id·Y_dj lies between convex combinations of McCormick's planes (1976,
"Computability of global solutions to factorable nonconvex programs"), with p_id between the lower two and q_id between
the upper two, one of each for a number of X and all j. Then all sums over j are matrix products: with P and N the
positive and the negative part of Z's coefficients, and G = P·Y_lᵀ, H = P·Y_uᵀ, J = N·Y_lᵀ, K = N·Y_uᵀ,

    of X:  G + p∘(H - G) + K + q∘(J - K)
    of Y:  (X_l + p∘(X_u - X_l))ᵀ·P + (X_l + q∘(X_u - X_l))ᵀ·N
    shift: -Σ X_l∘(1 - p)∘G + X_u∘p∘H + X_l∘(1 - q)∘K + X_u∘q∘J

A p for every single product would be tighter by little and cost as many numbers as there are products: on attention of
17 tokens 17 times as many as X has, a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.constraints import Bounded, Constraints
from secateur.pipeline.verify.bounding.relaxation import Relaxation, Schedule, Substitution, products
from secateur.pipeline.verify.graph.bound_graph import FLOOR, gamma


@dataclass(frozen=True)
class BilinearTrace:
    """Where A is negative, and what the derivatives by p and by q are made of: their factors of X and their constants,
    (B, S, …, n, d)."""

    positive: Tensor
    negative: Tensor
    slopes: tuple[Tensor, Tensor]
    constants: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class BilinearRelaxation(Relaxation):
    """McCormick's planes of X·Y. The multiplier is (B, S, 3·|X| + |Y|): p, q, β of X, β of Y, each flat."""

    x: Constraints
    y: Constraints

    @staticmethod
    def of(x: Bounded, y: Bounded, *, cuts: Sequence[Tensor | None] = ()) -> BilinearRelaxation:
        first, second = cuts if cuts else (None, None)
        return BilinearRelaxation(Constraints.of(x, first), Constraints.of(y, second))

    @property
    def sizes(self) -> tuple[int, int]:
        return prod(self.x.lower.shape[2:]), prod(self.y.lower.shape[2:])

    @property
    def split(self) -> bool:
        """Whether either argument has split constraints."""
        return self.x.cut is not None or self.y.cut is not None

    def initial_multiplier(self, count: int) -> Tensor:
        n, m = self.sizes
        result = self.x.lower.new_zeros(len(self.x.lower), count, 3 * n + m)
        result[:, :, : 2 * n] = 0.5
        return result

    def _parts(self, multiplier: Tensor) -> tuple[Tensor, ...]:
        """p, q, β of X, β of Y, in their shapes."""
        n, m = self.sizes
        shapes = [self.x.lower.shape[2:]] * 3 + [self.y.lower.shape[2:]]
        pieces = multiplier.split([n, n, n, m], 2)
        return tuple(part.unflatten(2, shape) for part, shape in zip(pieces, shapes, strict=True))

    def substitute(self, a: Tensor, multiplier: Tensor | None, traced: bool) -> Substitution:
        x, y = self.x, self.y
        if multiplier is None and not traced:
            return self._middle(a)
        p, q, beta, other = self._parts(self.initial_multiplier(1) if multiplier is None else multiplier)
        negative = a.clamp(max=0)
        positive = a - negative
        wide = x.upper - x.lower
        low, high = y.lower.mT, y.upper.mT
        g, h, j, k = positive @ low, positive @ high, negative @ low, negative @ high
        slopes = h - g, j - k
        first = g + p * slopes[0] + k + q * slopes[1]
        second = (x.lower + p * wide).mT @ positive + (x.lower + q * wide).mT @ negative
        constants = x.upper * h - x.lower * g, x.upper * j - x.lower * k
        total = x.lower * (g + k) + p * constants[0] + q * constants[1]
        shift = -total.flatten(2).sum(2)
        if multiplier is not None and self.split:
            first, second = first - beta, second - other
            shift = shift + x.shift(beta) + y.shift(other)
        trace = BilinearTrace(positive, negative, slopes, constants) if traced else None
        return Substitution((first, second), shift, trace)

    def _middle(self, a: Tensor) -> Substitution:
        """With p = q = 1/2 the planes below and above are parallel: X_m∘Y + X∘Y_m - X_m∘Y_m less a quarter of the
        interval's area."""
        (x, wide), (y, tall) = (
            ((side.lower + side.upper) / 2, side.upper - side.lower) for side in (self.x, self.y)
        )
        shift = -products(a, (x @ y).squeeze(1)) - products(a.abs(), (wide @ tall).squeeze(1)) / 4
        return Substitution((a @ y.mT, x.mT @ a), shift)

    def line(self, trace: BilinearTrace, multiplier: Tensor, *z: Tensor) -> Tensor:
        p, q, *_ = self._parts(multiplier)
        x, y = self.x, self.y
        wide = x.upper - x.lower
        from_lower, from_upper = z[0] - x.lower, z[0] - x.upper

        def plane(share: Tensor, near: Tensor, far: Tensor) -> Tensor:
            return (
                ((1 - share) * from_lower) @ near
                + (share * from_upper) @ far
                + (x.lower + share * wide) @ z[1]
            )

        return torch.where(trace.negative < 0, plane(q, y.upper, y.lower), plane(p, y.lower, y.upper))

    def gradient(self, trace: BilinearTrace, multiplier: Tensor, *z: Tensor) -> Tensor:
        _, _, beta, other = self._parts(multiplier)
        wide, across = self.x.upper - self.x.lower, z[1].mT
        by_share = (
            slope * z[0] + wide * (part @ across) - constant
            for part, slope, constant in zip(
                (trace.positive, trace.negative), trace.slopes, trace.constants, strict=True
            )
        )
        betas = self.x.gradient(beta, z[0]), self.y.gradient(other, z[1])
        return torch.cat([each.flatten(2) for each in (*by_share, *betas)], 2)

    def lines(self) -> tuple[tuple[tuple[Tensor, ...], Tensor], tuple[tuple[Tensor, ...], Tensor]]:
        raise NotImplementedError("a product of matrices has no lines coordinate by coordinate")

    def cost(self, a: Tensor) -> tuple[Tensor, ...]:
        """McCormick's widest gaps, a quarter of the areas: cutting either argument in two halves them."""
        wide, tall = self.x.upper - self.x.lower, self.y.upper - self.y.lower
        size = a.abs()
        return (wide * (size @ tall.mT) / 4).squeeze(1), (tall * (wide.mT @ size) / 4).squeeze(1)

    def rate(self, schedule: Schedule) -> Tensor:
        share = torch.full_like(self.x.lower, schedule.alpha_rate)
        parts = share, share, self.x.rate(schedule), self.y.rate(schedule)
        return torch.cat([part.flatten(2) for part in parts], 2)

    def project(self, multiplier: Tensor) -> Tensor:
        n, _ = self.sizes
        multiplier[:, :, : 2 * n].clamp_(0, 1)
        if not self.split:
            multiplier[:, :, 2 * n :] = 0.0
            return multiplier
        _, _, beta, other = self._parts(multiplier)
        multiplier[:, :, 2 * n :] = torch.cat(
            [self.x.project(beta).flatten(2), self.y.project(other).flatten(2)], 2
        )
        return multiplier

    def error(self, a: Tensor, multiplier: Tensor | None, factor: float) -> Tensor | None:
        """Every coefficient and the shift are sums of fewer terms than X, Y and Z have numbers and a few more, each of
        them a coefficient of A times numbers no larger than the X and Y that it bounds; of such sums there are eight.
        """
        scale = 8 * (self.x.largest @ self.y.largest)
        terms = sum(self.sizes) + prod(a.shape[2:]) + 32
        total = max(factor, gamma(terms, a)) * products(a.abs(), scale) + FLOOR * (
            self.x.largest.flatten(1).sum(1, keepdim=True)
            + self.y.largest.flatten(1).sum(1, keepdim=True)
            + 1.0
        ) * sum(self.sizes)
        if multiplier is not None and self.split:
            _, _, beta, other = self._parts(multiplier)
            for part, argument in ((beta, self.x), (other, self.y)):
                total = total + 2 * factor * products(part.abs(), argument.largest)
        return total
