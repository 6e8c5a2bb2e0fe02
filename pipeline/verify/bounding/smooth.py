"""Relaxations of functions of one variable and of products of two, with optimisable lines and split constraints.

Of a function f on [l, u] the lower line has the slope s = s₀ + α(s₁ - s₀) between those of the convex envelope's
supports at both ends, and the best intercept g(s) for that slope (see `functions`); the upper line likewise, with an
α of its own. The derivative by α is A⁺·(s₁ - s₀)·(z - x*), x* the point where the line touches.

Of a product the lower plane is a convex combination of McCormick's two lower planes, the upper of his two upper planes
(McCormick 1976, "Computability of global solutions to factorable nonconvex programs"): the hull of xy on a box.

A split narrows an argument's bounds; that the narrower bound is a constraint, which the network's other parts do not
know, is said by a dual variable: β ≥ 0 takes β·(z - l) ≥ 0 off the bound, β < 0 takes |β|·(u - z). One signed β an
argument is enough: with both, lowering both by the same amount adds a multiple of u - l to the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.formats.errors import UnsupportedError
from secateur.pipeline.verify.bounding.relaxation import (
    Relaxation,
    ReluRelaxation,
    Schedule,
    Substitution,
    products,
)
from secateur.pipeline.verify.graph.bound_graph import FLOOR, unit
from secateur.pipeline.verify.graph.functions import Extreme, Function
from secateur.pipeline.verify.graph.operations import Elementwise, Operation, Product, Relu

Bounded = tuple[Tensor, Tensor]
"""Lower and upper bounds (B, *shape)."""


def relax(operation: Operation, arguments: Sequence[Bounded], cuts: Sequence[Tensor] = ()) -> Relaxation:
    """The relaxation of a nonlinear operation on bounds of its arguments.

    `cuts` (B, *shape), one an argument, are 1 where a split has raised its lower bound, 2 where one has lowered its
    upper bound, 3 for both, 0 elsewhere; without them there are no split constraints.
    """
    if isinstance(operation, Relu):
        ((lower, upper),) = arguments
        if not cuts:
            return ReluRelaxation.of(lower, upper)
        # A ReLU is cut at 0, which makes it stable: what is left is the sign. Elsewhere a cut says nothing of it.
        sign = (lower >= 0).to(lower.dtype) - ((upper <= 0) & (lower < 0)).to(lower.dtype)
        sign = torch.where(cuts[0] > 0, sign, 0.0)
        return ReluRelaxation.of(lower, upper, sign)
    if isinstance(operation, Elementwise):
        return FunctionRelaxation.of(operation.function, *arguments, cuts=cuts)
    if isinstance(operation, Product):
        return ProductRelaxation.of(*arguments, cuts=cuts)
    raise UnsupportedError(f"no relaxation of {type(operation).__name__} is known")


def interval(operation: Operation, arguments: Sequence[Bounded]) -> Bounded:
    """Bounds of a nonlinear operation's values, rounded outward, from bounds of its arguments."""
    if isinstance(operation, Relu):
        ((lower, upper),) = arguments
        return lower.clamp(min=0), upper.clamp(min=0)
    if isinstance(operation, Elementwise):
        return operation.function.range(*arguments[0])
    (a, b), (c, d) = arguments
    corners = torch.stack([a * c, a * d, b * c, b * d])
    unknown = ~corners.isfinite().all(0)  # 0·∞, too
    low, high = corners.amin(0), corners.amax(0)
    slack = 2 * unit(low) * torch.maximum(low.abs(), high.abs()) + FLOOR
    infinity = float("inf")
    return torch.where(unknown, -infinity, low - slack), torch.where(unknown, infinity, high + slack)


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
        """-(z - edge); at β = 0 the edge that z violates, if any."""
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


@dataclass(frozen=True)
class FunctionTrace:
    """The lines chosen by one substitution: slopes and extremes below and above, and A's parts."""

    positive: Tensor
    negative: Tensor
    slope_below: Tensor
    below: Extreme
    slope_above: Tensor
    above: Extreme


@dataclass(frozen=True)
class FunctionRelaxation(Relaxation):
    """Lines of one function of one variable; tensors (B, 1, *shape). The multiplier is (B, S, 3, *shape): α of the
    lower line, α of the upper line, β."""

    function: Function
    constraints: Constraints
    below: tuple[Tensor, Tensor]
    above: tuple[Tensor, Tensor]
    initial: tuple[Tensor, Tensor]
    fixed: tuple[Tensor, Extreme, Tensor, Extreme]
    scale: Tensor

    @staticmethod
    def of(function: Function, bounds: Bounded, *, cuts: Sequence[Tensor] = ()) -> FunctionRelaxation:
        constraints = Constraints.of(bounds, cuts[0] if cuts else None)
        lower, upper = constraints.lower, constraints.upper
        slopes = function.slopes(lower, upper)

        def share(first: Tensor, last: Tensor) -> Tensor:
            """The α whose slope is the chord's, as near as there is one."""
            alpha = (slopes.chord - first) / torch.where(last == first, 1.0, last - first)
            return torch.where(alpha.isfinite(), alpha, 0.5).clamp(0, 1)

        below = (slopes.below_at_lower, slopes.below_at_upper)
        above = (slopes.above_at_lower, slopes.above_at_upper)
        initial = (share(*below), share(*above))
        s, t = (
            first + alpha * (last - first)
            for (first, last), alpha in zip((below, above), initial, strict=True)
        )
        fixed = (s, function.below(s, lower, upper), t, function.above(t, lower, upper))
        least, most = function.range(lower, upper)
        steepest = torch.stack([*below, *above]).abs().amax(0)
        largest = torch.maximum(lower.abs(), upper.abs())
        # |slope·z| + |intercept|, where the intercept is f - slope·x at some point.
        scale = torch.maximum(least.abs(), most.abs()) + 2 * (steepest * largest).nan_to_num(nan=0.0)
        return FunctionRelaxation(function, constraints, below, above, initial, fixed, scale.squeeze(1))

    def initial_multiplier(self, count: int) -> Tensor:
        parts = torch.stack([*self.initial, torch.zeros_like(self.initial[0])], 2)
        return parts.expand(-1, count, *parts.shape[2:]).contiguous()

    def _lines(self, multiplier: Tensor | None) -> tuple[Tensor, Extreme, Tensor, Extreme]:
        if multiplier is None:
            return self.fixed
        sides = (self.below, self.above)
        s, t = (first + multiplier[:, :, i] * (last - first) for i, (first, last) in enumerate(sides))
        lower, upper = (side.expand_as(s) for side in (self.constraints.lower, self.constraints.upper))
        return s, self.function.below(s, lower, upper), t, self.function.above(t, lower, upper)

    def substitute(self, a: Tensor, multiplier: Tensor | None, traced: bool) -> Substitution:
        negative = a.clamp(max=0)
        positive = a - negative
        s, below, t, above = self._lines(multiplier)
        result = positive * s + negative * t
        if multiplier is None:
            shift = products(positive, below.value.squeeze(1)) + products(negative, above.value.squeeze(1))
        else:
            shift = (positive * below.value + negative * above.value).flatten(2).sum(2)
            if self.constraints.cut is not None:
                beta = multiplier[:, :, 2]
                result = result - beta
                shift = shift + self.constraints.shift(beta)
        trace = FunctionTrace(positive, negative, s, below, t, above) if traced else None
        return Substitution((result,), shift, trace)

    def line(self, trace: FunctionTrace, multiplier: Tensor, *z: Tensor) -> Tensor:
        low = trace.slope_below * z[0] + trace.below.value
        high = trace.slope_above * z[0] + trace.above.value
        return torch.where(trace.negative < 0, high, low)

    def gradient(self, trace: FunctionTrace, multiplier: Tensor, *z: Tensor) -> Tensor:
        below = trace.positive * (self.below[1] - self.below[0]) * (z[0] - trace.below.point)
        above = trace.negative * (self.above[1] - self.above[0]) * (z[0] - trace.above.point)
        return torch.stack([below, above, self.constraints.gradient(multiplier[:, :, 2], z[0])], 2)

    def lines(self) -> tuple[tuple[tuple[Tensor, ...], Tensor], tuple[tuple[Tensor, ...], Tensor]]:
        s, below, t, above = self.fixed
        return ((s.squeeze(1),), below.value.squeeze(1)), ((t.squeeze(1),), above.value.squeeze(1))

    def cost(self, a: Tensor) -> tuple[Tensor, ...]:
        """The widest gap between f and the lines of the chord's slope (as near as there are such)."""
        lower, upper = self.constraints.lower, self.constraints.upper
        s, below, t, above = self.fixed
        gap_below = self.function.above(s, lower, upper).value - below.value
        gap_above = above.value - self.function.below(t, lower, upper).value
        return ((a.clamp(min=0) * gap_below - a.clamp(max=0) * gap_above).squeeze(1),)

    def rate(self, schedule: Schedule) -> Tensor:
        alpha = torch.full_like(self.constraints.lower, schedule.alpha_rate)
        return torch.stack([alpha, alpha, self.constraints.rate(schedule)], 2)

    def project(self, multiplier: Tensor) -> Tensor:
        multiplier[:, :, :2].clamp_(0, 1)
        multiplier[:, :, 2] = self.constraints.project(multiplier[:, :, 2])
        return multiplier

    def error(self, a: Tensor, multiplier: Tensor | None, gamma: float) -> Tensor | None:
        total = gamma * products(a.abs(), self.scale) + FLOOR * self.scale.flatten(1).sum(1, keepdim=True)
        if multiplier is not None and self.constraints.cut is not None:
            total = total + 2 * gamma * products(multiplier[:, :, 2].abs(), self.constraints.largest)
        return total


@dataclass(frozen=True)
class ProductTrace:
    """A's parts, the planes chosen (coefficients of both arguments and constant) below and above."""

    positive: Tensor
    negative: Tensor
    below: tuple[Tensor, Tensor, Tensor]
    above: tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class ProductRelaxation(Relaxation):
    """McCormick's planes of xy. The multiplier is (B, S, 4, *shape): α below, α above, β of x, β of y."""

    x: Constraints
    y: Constraints

    @staticmethod
    def of(x: Bounded, y: Bounded, *, cuts: Sequence[Tensor] = ()) -> ProductRelaxation:
        first, second = cuts if cuts else (None, None)
        return ProductRelaxation(Constraints.of(x, first), Constraints.of(y, second))

    def initial_multiplier(self, count: int) -> Tensor:
        half = torch.full_like(self.x.lower, 0.5)
        parts = torch.stack([half, half, torch.zeros_like(half), torch.zeros_like(half)], 2)
        return parts.expand(-1, count, *parts.shape[2:]).contiguous()

    def _planes(
        self, multiplier: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """Coefficients of x and y and the constant, of the lower and of the upper plane."""
        x, y = self.x, self.y
        half = torch.full_like(x.lower, 0.5)
        p, q = (half, half) if multiplier is None else (multiplier[:, :, 0], multiplier[:, :, 1])
        # The combination is exact for the α as they are; what rounding does to three numbers is taken off.
        slack = 32 * unit(x.lower) * (x.largest * y.largest).unsqueeze(1) + FLOOR
        below = (
            y.lower + p * (y.upper - y.lower),
            x.lower + p * (x.upper - x.lower),
            -(x.lower * y.lower + p * (x.upper * y.upper - x.lower * y.lower)) - slack,
        )
        above = (
            y.upper + q * (y.lower - y.upper),
            x.lower + q * (x.upper - x.lower),
            -(x.lower * y.upper + q * (x.upper * y.lower - x.lower * y.upper)) + slack,
        )
        return below, above

    def substitute(self, a: Tensor, multiplier: Tensor | None, traced: bool) -> Substitution:
        negative = a.clamp(max=0)
        positive = a - negative
        below, above = self._planes(multiplier)
        first = positive * below[0] + negative * above[0]
        second = positive * below[1] + negative * above[1]
        shift = (positive * below[2] + negative * above[2]).flatten(2).sum(2)
        if multiplier is not None and self.x.cut is not None:
            one, other = multiplier[:, :, 2], multiplier[:, :, 3]
            first, second = first - one, second - other
            shift = shift + self.x.shift(one) + self.y.shift(other)
        trace = ProductTrace(positive, negative, below, above) if traced else None
        return Substitution((first, second), shift, trace)

    def line(self, trace: ProductTrace, multiplier: Tensor, *z: Tensor) -> Tensor:
        low = trace.below[0] * z[0] + trace.below[1] * z[1] + trace.below[2]
        high = trace.above[0] * z[0] + trace.above[1] * z[1] + trace.above[2]
        return torch.where(trace.negative < 0, high, low)

    def gradient(self, trace: ProductTrace, multiplier: Tensor, *z: Tensor) -> Tensor:
        x, y = self.x, self.y
        wide, tall = x.upper - x.lower, y.upper - y.lower
        below = tall * z[0] + wide * z[1] - (x.upper * y.upper - x.lower * y.lower)
        above = -tall * z[0] + wide * z[1] - (x.upper * y.lower - x.lower * y.upper)
        betas = (
            x.gradient(multiplier[:, :, 2], z[0]),
            y.gradient(multiplier[:, :, 3], z[1]),
        )
        return torch.stack([trace.positive * below, trace.negative * above, *betas], 2)

    def lines(self) -> tuple[tuple[tuple[Tensor, ...], Tensor], tuple[tuple[Tensor, ...], Tensor]]:
        below, above = ([part.squeeze(1) for part in plane] for plane in self._planes(None))
        return ((below[0], below[1]), below[2]), ((above[0], above[1]), above[2])

    def cost(self, a: Tensor) -> tuple[Tensor, ...]:
        """McCormick's widest gap, a quarter of the area; for the argument whose interval is wider."""
        wide, tall = self.x.upper - self.x.lower, self.y.upper - self.y.lower
        gap = (a.abs() * wide * tall / 4).squeeze(1)
        first = (wide >= tall).squeeze(1)
        return torch.where(first, gap, 0.0), torch.where(first, 0.0, gap)

    def rate(self, schedule: Schedule) -> Tensor:
        alpha = torch.full_like(self.x.lower, schedule.alpha_rate)
        return torch.stack([alpha, alpha, self.x.rate(schedule), self.y.rate(schedule)], 2)

    def project(self, multiplier: Tensor) -> Tensor:
        multiplier[:, :, :2].clamp_(0, 1)
        multiplier[:, :, 2] = self.x.project(multiplier[:, :, 2])
        multiplier[:, :, 3] = self.y.project(multiplier[:, :, 3])
        return multiplier

    def error(self, a: Tensor, multiplier: Tensor | None, gamma: float) -> Tensor | None:
        scale = 4 * self.x.largest * self.y.largest
        total = gamma * products(a.abs(), scale) + FLOOR * (self.x.largest + self.y.largest).flatten(1).sum(
            1, keepdim=True
        )
        if multiplier is not None and self.x.cut is not None:
            for i, argument in ((2, self.x), (3, self.y)):
                total = total + 2 * gamma * products(multiplier[:, :, i].abs(), argument.largest)
        return total
