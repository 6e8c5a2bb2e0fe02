"""Functions of one variable and the lines that bound them: what an operator needs to be relaxed.

Of a function f the engine asks for its values and for `stationary(s, l, u)`: the points of [l, u] where f'(x) = s
(or where f jumps). From these alone follows, for **any** slope s,

    intercept below: g(s) = min over [l, u] of f(x) - s·x,   the line s·x + g(s) lies below f on [l, u],

since f(x) - s·x attains its minimum at an end or where its derivative is zero; above likewise with the maximum. So
soundness does not depend on how slopes are chosen, and the interval rule is the case s = 0. The useful slopes below
are those of the convex envelope's supports, from the one at l to the one at u: α ∈ [0, 1] runs between them. g is
concave (the negative of a convex conjugate), and its derivative is -x*, where x* is the point that attains g: the
gradient of a bound by α needs no more.

**Rounding.** f - s·x at a computed stationary point differs from its extreme by second order in the point's error, and
by the rounding of f and of the product: `error`·u·(|f| + |s·x|) is taken off (torch's elementary functions are within
a few ulps in float64).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLES = 24
"""How many points of [l, u] the slopes of an envelope are estimated from: more is tighter, never sounder."""


@dataclass(frozen=True)
class Extreme:
    """An extreme of f(x) - s·x on [l, u], rounded outward, and a point that attains it."""

    value: Tensor
    point: Tensor


class Function:
    """Base of the functions; a subclass without parameters is one, see `Sigmoid`."""

    name = "?"
    error = 32.0
    """Rounding errors of f near a stationary point, in units of u·(|f| + |s·x|)."""

    split_at: float | None = None
    """Where to split an interval that contains it (a kink, a point of inflection); None: in its middle."""

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        """Points where f' = slope; where there is none, anything (it is moved into [lower, upper] by the caller)."""
        raise NotImplementedError

    def limits(self, lower: Tensor, upper: Tensor) -> list[tuple[Tensor, Tensor]]:
        """One-sided limits (x, f(x±)) at jumps within [lower, upper]; where there is none, (lower, f(lower))."""
        return []

    def defined(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        """Whether f is defined and continuous on [lower, upper] but for `limits`; None: everywhere."""
        return None

    def below(self, slope: Tensor, lower: Tensor, upper: Tensor) -> Extreme:
        """The intercept g(slope) of the highest line of this slope below f on [lower, upper]."""
        return self._extreme(slope, lower, upper, -1.0)

    def above(self, slope: Tensor, lower: Tensor, upper: Tensor) -> Extreme:
        """The intercept of the lowest line of this slope above f."""
        return self._extreme(slope, lower, upper, 1.0)

    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of f on [lower, upper]."""
        flat = torch.zeros_like(lower)
        return self.below(flat, lower, upper).value, self.above(flat, lower, upper).value

    def _extreme(self, slope: Tensor, lower: Tensor, upper: Tensor, sign: float) -> Extreme:
        """The maximum of sign·(f(x) - slope·x), times sign."""
        unknown = sign * torch.finfo(lower.dtype).max / 1e8
        points = [(x, self(x)) for x in (lower, upper)]
        for inner in self.stationary(slope, lower, upper):
            x = torch.fmax(torch.fmin(inner, upper), lower)  # NaN, too, becomes an end
            points.append((x, self(x)))
        points += self.limits(lower, upper)
        unit = torch.finfo(lower.dtype).eps / 2
        best: Tensor | None = None
        where = lower
        for x, value in points:
            product = torch.where(slope == 0, 0.0, slope * x)  # 0·∞ is 0 here
            slack = self.error * unit * (value.abs() + product.abs()) + torch.finfo(lower.dtype).tiny
            reached = sign * (value - product) + slack
            if best is None:
                best = reached
            else:
                # A NaN must not be passed over: it stays, and becomes "unknown" below.
                better = (reached > best) | reached.isnan()
                best, where = torch.where(better, reached, best), torch.where(better, x, where)
        assert best is not None
        result = sign * best
        lost = ~result.isfinite()
        defined = self.defined(lower, upper)
        if defined is not None:
            lost = lost | ~defined
        return Extreme(torch.where(lost, unknown, result), where)

    def slopes(self, lower: Tensor, upper: Tensor) -> Slopes:
        """The slopes of the supporting lines of f's convex and concave envelopes at both ends, estimated."""
        width = upper - lower
        steps = torch.linspace(0, 1, SAMPLES + 2, dtype=lower.dtype, device=lower.device)[1:-1]
        # Denser at the ends, where the steepest lines touch.
        steps = (3 - 2 * steps) * steps * steps
        x = lower + width * steps.view(-1, *([1] * lower.dim()))
        y, at_lower, at_upper = self(x), self(lower), self(upper)
        from_lower = (y - at_lower) / (x - lower)
        to_upper = (at_upper - y) / (upper - x)
        chord = (at_upper - at_lower) / width
        from_lower = torch.cat([from_lower, chord.unsqueeze(0)])
        to_upper = torch.cat([to_upper, chord.unsqueeze(0)])
        usable = width > 1e-7 * torch.maximum(lower.abs(), upper.abs())

        def known(value: Tensor) -> Tensor:
            return torch.where(usable & value.isfinite(), value, 0.0)

        return Slopes(
            known(from_lower.amin(0)),
            known(to_upper.amax(0)),
            known(from_lower.amax(0)),
            known(to_upper.amin(0)),
            known(chord),
        )


@dataclass(frozen=True)
class Slopes:
    """Slopes of supporting lines: below f at the lower and upper end, above f at the lower and upper end; the chord."""

    below_at_lower: Tensor
    below_at_upper: Tensor
    above_at_lower: Tensor
    above_at_upper: Tensor
    chord: Tensor


class Sigmoid(Function):
    """1 / (1 + exp(-x)); f' = f·(1 - f)."""

    name, split_at = "Sigmoid", 0.0

    def __call__(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        # f·(1 - f) = s has the roots f = (1 ± √(1 - 4s)) / 2, at x = ±log(f / (1 - f)).
        root = (1 - 4 * slope).clamp(min=0).sqrt()
        # The smaller f, without cancellation: 2s / (1 + √(1 - 4s)).
        small = 2 * slope.clamp(min=0) / (1 + root)
        x = small.log() - torch.log1p(-small)
        return [x, -x]


class Tanh(Function):
    """tanh x; f' = 1 - f²."""

    name, split_at = "Tanh", 0.0

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        # cosh x = 1/√s, where x = log(1/√s + √(1/s - 1)).
        s = slope.clamp(min=torch.finfo(slope.dtype).tiny, max=1)
        x = ((1 + (1 - s).sqrt()) / s.sqrt()).log()
        return [x, -x]
