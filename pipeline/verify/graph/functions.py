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
a few ulps in float64). Near a point of inflection the stationary point is known to √u only, but there f - s·x varies
by the third order: u·√u is taken off for that.

**What is not known.** Where f overflows or is not defined the intercept is `unknown`, a finite number, since 0·∞ would
spoil the sums of a search; its range is infinite there, and so is the margin for rounding that rests on it, so that no
rigorous bound takes the number for one. Arguments beyond `large` count as infinite.

The functions themselves: `curves` (smooth, in closed form), `steps` (with jumps), `gates` (solved numerically).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLES = 24
"""How many points of [l, u] the slopes of an envelope are estimated from: more is tighter, never sounder."""


def unknown(dtype: torch.dtype) -> float:
    """What stands for an infinite bound."""
    return torch.finfo(dtype).max / 1e8


def large(dtype: torch.dtype) -> float:
    """From where on a bound says nothing; far below `unknown`, which may have been scaled down since."""
    return 1e200 if dtype == torch.float64 else 1e25


@dataclass(frozen=True)
class Extreme:
    """An extreme of f(x) - s·x on [l, u], rounded outward, and a point that attains it."""

    value: Tensor
    point: Tensor


class Function:
    """Base of the functions; one with parameters is a frozen dataclass."""

    error = 32.0
    """Rounding errors of f near a stationary point, in units of u·(|f| + |s·x|)."""

    split_at: float | None = None
    """Where to split an interval that contains it (a kink, a point of inflection); None: in its middle."""

    image: tuple[float, float] = (-math.inf, math.inf)
    """Bounds of all values of f."""

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def guided(self, x: Tensor) -> Tensor:
        """f(x), with a gradient that leads somewhere: for attacks, where f' is zero almost everywhere."""
        return self(x)

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        """Points where f' = slope; where there is none, anything (it is moved into [lower, upper] by the caller)."""
        raise NotImplementedError

    def doubt(self, slope: Tensor, point: Tensor) -> Tensor | None:
        """By how much f - slope·x at a computed stationary point may miss the extreme, beside rounding."""
        return None

    def limits(self, lower: Tensor, upper: Tensor) -> list[tuple[Tensor, Tensor]]:
        """One-sided limits (x, f(x±)) at jumps within [lower, upper]; where there is none, (lower, f(lower)).

        Any pair may be added that f does not exceed on [lower, upper]: that loosens bounds, and no more.
        """
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
        """Bounds of f on [lower, upper], infinite where nothing is known: as a number, an `unknown` that later weights
        scale down would be taken for a bound."""
        flat, most_known = torch.zeros_like(lower), unknown(lower.dtype)
        low, high = self.below(flat, lower, upper).value, self.above(flat, lower, upper).value
        least, most = self.image
        return (
            torch.where(low <= -most_known, -math.inf, low).clamp(min=least),
            torch.where(high >= most_known, math.inf, high).clamp(max=most),
        )

    def _extreme(self, slope: Tensor, lower: Tensor, upper: Tensor, sign: float) -> Extreme:
        """The maximum of sign·(f(x) - slope·x), times sign."""
        dtype = lower.dtype
        low = torch.where(lower < -large(dtype), -math.inf, lower)
        high = torch.where(upper > large(dtype), math.inf, upper)
        candidates: list[tuple[Tensor, Tensor, Tensor | None]] = [(x, self(x), None) for x in (low, high)]
        for inner in self.stationary(slope, low, high):
            x = torch.fmax(torch.fmin(inner, high), low)  # NaN, too, becomes an end
            candidates.append((x, self(x), self.doubt(slope, inner)))
        candidates += [(x, value, None) for x, value in self.limits(low, high)]
        unit = torch.finfo(dtype).eps / 2
        best: Tensor | None = None
        where = low
        for x, value, doubt in candidates:
            product = torch.where(slope == 0, 0.0, slope * x)  # 0·∞ is 0 here
            slack = self.error * unit * (value.abs() + product.abs()) + unit * math.sqrt(unit)
            reached = sign * (value - product) + (slack if doubt is None else slack + doubt)
            if best is None:
                best = reached
            else:
                # A NaN must not be passed over: it stays, and becomes "unknown" below.
                better = (reached > best) | reached.isnan()
                best, where = torch.where(better, reached, best), torch.where(better, x, where)
        assert best is not None
        result = sign * best
        lost = ~result.isfinite()
        defined = self.defined(low, high)
        if defined is not None:
            lost = lost | ~defined
        point = torch.fmax(torch.fmin(where, upper), lower)
        return Extreme(torch.where(lost, sign * unknown(dtype), result), point)

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
        largest = torch.maximum(lower.abs(), upper.abs())
        usable = (width > 1e-7 * largest) & (largest < large(lower.dtype))

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
