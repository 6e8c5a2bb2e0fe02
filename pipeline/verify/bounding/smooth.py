"""Relaxations of functions of one variable and of products of two, with optimisable lines and split constraints.

Of a function f on [l, u] there are five lines below: those with the slopes of the convex envelope's supports at both
ends, with the chord's, and two between, each with the best intercept for its slope (see `functions`). α runs through
them, and a line between two is their convex combination. That is a little less tight than the best intercept for every
α, and evaluates no f in the ascent. Above f likewise, with an α of its own.

Of a product the lower plane is a convex combination of McCormick's two lower planes, the upper of his two upper planes
(McCormick 1976, "Computability of global solutions to factorable nonconvex programs"): the hull of xy on a box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from secateur.formats.errors import UnsupportedError
from secateur.pipeline.verify.bounding.bilinear import BilinearRelaxation
from secateur.pipeline.verify.bounding.constraints import Bounded, Constraints
from secateur.pipeline.verify.bounding.normalised import NormalisedRelaxation
from secateur.pipeline.verify.bounding.relaxation import (
    Relaxation,
    ReluRelaxation,
    Schedule,
    Substitution,
    products,
)
from secateur.pipeline.verify.graph.bound_graph import FLOOR, gamma, unit
from secateur.pipeline.verify.graph.functions import Extreme, Function
from secateur.pipeline.verify.graph.operations import (
    Bilinear,
    Elementwise,
    Normalised,
    Operation,
    Product,
    Relu,
)


def relax(
    operation: Operation, arguments: Sequence[Bounded], cuts: Sequence[Tensor | None] = ()
) -> Relaxation:
    """The relaxation of a nonlinear operation on bounds of its arguments.

    `cuts` (B, *shape), one an argument, are 1 where a split has raised its lower bound, 2 where one has lowered its
    upper bound, 3 for both, 0 elsewhere; without them (None) there are no split constraints.
    """
    if isinstance(operation, Relu):
        ((lower, upper),) = arguments
        if not cuts or cuts[0] is None:
            return ReluRelaxation.of(lower, upper)
        # A ReLU is cut at 0, which makes it stable: what is left is the sign. Elsewhere a cut says nothing of it.
        sign = (lower >= 0).to(lower.dtype) - ((upper <= 0) & (lower < 0)).to(lower.dtype)
        sign = torch.where(cuts[0] > 0, sign, 0.0)
        return ReluRelaxation.of(lower, upper, sign)
    if isinstance(operation, Elementwise):
        return FunctionRelaxation.of(operation.function, *arguments, cuts=cuts)
    if isinstance(operation, Product):
        return ProductRelaxation.of(*arguments, cuts=cuts)
    if isinstance(operation, Bilinear):
        return BilinearRelaxation.of(*arguments, cuts=cuts)
    if isinstance(operation, Normalised):
        return NormalisedRelaxation.of(*arguments)
    raise UnsupportedError(f"no relaxation of {type(operation).__name__} is known")


def interval(operation: Operation, arguments: Sequence[Bounded]) -> Bounded:
    """Bounds of a nonlinear operation's values, rounded outward, from bounds of its arguments."""
    if isinstance(operation, Relu):
        ((lower, upper),) = arguments
        return lower.clamp(min=0), upper.clamp(min=0)
    if isinstance(operation, Elementwise):
        return operation.function.range(*arguments[0])
    if isinstance(operation, Normalised):
        return arguments[0]
    (a, b), (c, d) = arguments
    if isinstance(operation, Bilinear):  # all products of numbers, (B, …, n, d, m)
        a, b, c, d = a.unsqueeze(-1), b.unsqueeze(-1), c.unsqueeze(-3), d.unsqueeze(-3)
    corners = torch.stack([a * c, a * d, b * c, b * d])
    unknown = ~corners.isfinite().all(0)  # 0·∞, too
    low, high = corners.amin(0), corners.amax(0)
    slack = 2 * unit(low) * torch.maximum(low.abs(), high.abs()) + FLOOR
    infinity = float("inf")
    if isinstance(operation, Bilinear):
        slack = slack + gamma(low.shape[-2] + 8, low) * torch.maximum(low.abs(), high.abs())
        low, high, slack, unknown = low.sum(-2), high.sum(-2), slack.sum(-2), unknown.any(-2)
    return torch.where(unknown, -infinity, low - slack), torch.where(unknown, infinity, high + slack)


@dataclass(frozen=True)
class Fan:
    """Lines on one side of a function, one for every α in [0, 1]: at 0, 1/4, …, 1 given ones, between them convex
    combinations of neighbours, which are on that side as well. All (B, 1, *shape).

    `slope`, `value`: the line at 1/2, slope·x + value; `turn`, `lift`: how much both change a unit of α, in each
    quarter.
    """

    slope: Tensor
    value: Tensor
    turn: tuple[Tensor, ...]
    lift: tuple[Tensor, ...]

    @staticmethod
    def of(intercept: Callable[[Tensor], Extreme], slopes: Sequence[Tensor]) -> Fan:
        """Of lines with three slopes, at 0, 1/2 and 1, and those halfway, with the best intercepts that there are."""
        first, middle, last = slopes
        five = first, (first + middle) / 2, middle, (middle + last) / 2, last
        values = [intercept(slope).value for slope in five]
        return Fan(
            middle,
            values[2],
            tuple(4 * (after - before) for before, after in pairwise(five)),
            tuple(4 * (after - before) for before, after in pairwise(values)),
        )

    def at(self, alpha: Tensor) -> Ray:
        """The lines at α (B, S, *shape)."""
        near = alpha.clamp(0.25, 0.75)  # as far as the quarters next to the middle go
        left, within = alpha < 0.5, near == alpha
        beyond, near = alpha - near, near - 0.5

        def along(middle: Tensor, steps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            inner, outer = torch.where(left, steps[1], steps[2]), torch.where(left, steps[0], steps[3])
            return middle + near * inner + beyond * outer, torch.where(within, inner, outer)

        (slope, turn), (value, lift) = along(self.slope, self.turn), along(self.value, self.lift)
        return Ray(slope, value, turn, lift)


@dataclass(frozen=True)
class Ray:
    """One line a coefficient: slope·x + value, and the derivatives of both by α; (B, S, *shape)."""

    slope: Tensor
    value: Tensor
    turn: Tensor
    lift: Tensor


@dataclass(frozen=True)
class FunctionTrace:
    """The lines chosen by one substitution, below and above, and A's parts."""

    positive: Tensor
    negative: Tensor
    below: Ray
    above: Ray


@dataclass(frozen=True)
class FunctionRelaxation(Relaxation):
    """Lines of one function of one variable; tensors (B, 1, *shape). The multiplier is (B, S, 3, *shape): α of the
    lower line, α of the upper line, β."""

    function: Function
    constraints: Constraints
    below: Fan
    above: Fan
    scale: Tensor

    @staticmethod
    def of(function: Function, bounds: Bounded, *, cuts: Sequence[Tensor | None] = ()) -> FunctionRelaxation:
        constraints = Constraints.of(bounds, cuts[0] if cuts else None)
        lower, upper = constraints.lower, constraints.upper
        slopes = function.slopes(lower, upper)

        def three(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """The first, the last, and the one between them that is the chord's, as near as there is one."""
            low, high = torch.minimum(first, last), torch.maximum(first, last)
            return first, torch.maximum(torch.minimum(slopes.chord, high), low), last

        below = three(slopes.below_at_lower, slopes.below_at_upper)
        above = three(slopes.above_at_lower, slopes.above_at_upper)
        least, most = function.range(lower, upper)
        steepest = torch.stack([*below, *above]).abs().amax(0)
        largest = torch.maximum(lower.abs(), upper.abs())
        # |slope·z| + |intercept|, where the intercept is f - slope·x at some point.
        scale = torch.maximum(least.abs(), most.abs()) + 2 * (steepest * largest).nan_to_num(nan=0.0)
        return FunctionRelaxation(
            function,
            constraints,
            Fan.of(lambda slope: function.below(slope, lower, upper), below),
            Fan.of(lambda slope: function.above(slope, lower, upper), above),
            scale.squeeze(1),
        )

    def initial_multiplier(self, count: int) -> Tensor:
        shape = self.scale.shape[1:]
        result = self.scale.new_zeros(len(self.scale), count, 3, *shape)
        result[:, :, :2] = 0.5
        return result

    def substitute(self, a: Tensor, multiplier: Tensor | None, traced: bool) -> Substitution:
        if multiplier is None and not traced:
            return self._middle(a)
        chosen = self.initial_multiplier(1) if multiplier is None else multiplier
        negative = a.clamp(max=0)
        positive = a - negative
        below, above = self.below.at(chosen[:, :, 0]), self.above.at(chosen[:, :, 1])
        result = positive * below.slope + negative * above.slope
        shift = (positive * below.value + negative * above.value).flatten(2).sum(2)
        if self.constraints.cut is not None:
            beta = chosen[:, :, 2]
            result = result - beta
            shift = shift + self.constraints.shift(beta)
        trace = FunctionTrace(positive, negative, below, above) if traced else None
        return Substitution((result,), shift, trace)

    def _middle(self, a: Tensor) -> Substitution:
        """With the lines at α = 1/2: what both sides have in common, and by how much they differ."""
        size = a.abs()
        below, above = self.below, self.above
        result = torch.addcmul(a * ((below.slope + above.slope) / 2), size, (below.slope - above.slope) / 2)
        common, apart = (below.value + above.value) / 2, (below.value - above.value) / 2
        return Substitution((result,), products(a, common.squeeze(1)) + products(size, apart.squeeze(1)))

    def line(self, trace: FunctionTrace, multiplier: Tensor, *z: Tensor) -> Tensor:
        above = trace.negative < 0
        slope = torch.where(above, trace.above.slope, trace.below.slope)
        return torch.addcmul(torch.where(above, trace.above.value, trace.below.value), slope, z[0])

    def gradient(self, trace: FunctionTrace, multiplier: Tensor, *z: Tensor) -> Tensor:
        below = trace.positive * torch.addcmul(trace.below.lift, trace.below.turn, z[0])
        above = trace.negative * torch.addcmul(trace.above.lift, trace.above.turn, z[0])
        return torch.stack([below, above, self.constraints.gradient(multiplier[:, :, 2], z[0])], 2)

    def lines(self) -> tuple[tuple[tuple[Tensor, ...], Tensor], tuple[tuple[Tensor, ...], Tensor]]:
        below, above = ((side.slope.squeeze(1), side.value.squeeze(1)) for side in (self.below, self.above))
        return ((below[0],), below[1]), ((above[0],), above[1])

    def cost(self, a: Tensor) -> tuple[Tensor, ...]:
        """The widest gap between f and the lines of the chord's slope (as near as there are such)."""
        lower, upper = self.constraints.lower, self.constraints.upper
        below, above = self.below, self.above
        gap_below = self.function.above(below.slope, lower, upper).value - below.value
        gap_above = above.value - self.function.below(above.slope, lower, upper).value
        return ((a.clamp(min=0) * gap_below - a.clamp(max=0) * gap_above).squeeze(1),)

    def rate(self, schedule: Schedule) -> Tensor:
        alpha = torch.full_like(self.constraints.lower, schedule.alpha_rate)
        return torch.stack([alpha, alpha, self.constraints.rate(schedule)], 2)

    def project(self, multiplier: Tensor) -> Tensor:
        multiplier[:, :, :2].clamp_(0, 1)
        multiplier[:, :, 2] = self.constraints.project(multiplier[:, :, 2])
        return multiplier

    def error(self, a: Tensor, multiplier: Tensor | None, gamma: float) -> Tensor | None:
        """Of the lines between five, slope and value are rounded on their own: each by less than 8u of the largest of
        the five, which `scale` is with the arguments."""
        total = 4 * gamma * products(a.abs(), self.scale) + FLOOR * self.scale.flatten(1).sum(1, keepdim=True)
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
    def of(x: Bounded, y: Bounded, *, cuts: Sequence[Tensor | None] = ()) -> ProductRelaxation:
        first, second = cuts if cuts else (None, None)
        return ProductRelaxation(Constraints.of(x, first), Constraints.of(y, second))

    @property
    def split(self) -> bool:
        """Whether either argument has split constraints."""
        return self.x.cut is not None or self.y.cut is not None

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
        if multiplier is not None and self.split:
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
        if multiplier is not None and self.split:
            for i, argument in ((2, self.x), (3, self.y)):
                total = total + 2 * gamma * products(multiplier[:, :, i].abs(), argument.largest)
        return total
