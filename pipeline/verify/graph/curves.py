"""Smooth functions whose stationary points are known in closed form; each gives f and where f' = s (`functions`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.pipeline.verify.graph.functions import Function

ROOT_PI = math.sqrt(math.pi)


class Sigmoid(Function):
    """1 / (1 + exp(-x)); f' = f·(1 - f)."""

    split_at, image = 0.0, (0.0, 1.0)

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

    split_at, image = 0.0, (-1.0, 1.0)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        # cosh x = 1/√s, where x = log(1/√s + √(1/s - 1)).
        s = slope.clamp(min=torch.finfo(slope.dtype).tiny, max=1)
        x = ((1 + (1 - s).sqrt()) / s.sqrt()).log()
        return [x, -x]


class Erf(Function):
    """The error function; f' = 2/√π·exp(-x²)."""

    split_at, image = 0.0, (-1.0, 1.0)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.erf(x)

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        x = (-(slope * (ROOT_PI / 2)).log()).clamp(min=0).sqrt()
        return [x, -x]


class Atan(Function):
    """arctan x; f' = 1 / (1 + x²)."""

    split_at = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        return torch.atan(x)

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        x = ((1 - slope) / slope).clamp(min=0).sqrt()
        return [x, -x]


class Softsign(Function):
    """x / (1 + |x|); f' = 1 / (1 + |x|)²."""

    split_at, image = 0.0, (-1.0, 1.0)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(x.isinf(), x.sign(), x / (1 + x.abs()))

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        x = (1 - slope) / (slope.sqrt() + slope)  # 1/√s - 1, without cancellation
        return [x, -x]


class Softplus(Function):
    """log(1 + exp x); f' is the sigmoid."""

    image = (0.0, math.inf)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.logaddexp(x, torch.zeros_like(x))

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return [slope.log() - torch.log1p(-slope)]


class Exp(Function):
    """exp x, its own derivative."""

    image = (0.0, math.inf)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.exp(x)

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return [slope.log()]


class Log(Function):
    """log x for x > 0; f' = 1/x."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.log(x)

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return [1 / slope]

    def defined(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        return lower > 0


class Square(Function):
    """x²; f' = 2x."""

    image = (0.0, math.inf)

    def __call__(self, x: Tensor) -> Tensor:
        return x * x

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return [slope / 2]


class Sqrt(Function):
    """√x for x ≥ 0; f' = 1/(2√x)."""

    image = (0.0, math.inf)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.sqrt(x)

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return [1 / (4 * slope * slope)]

    def defined(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        return lower >= 0


class Root(Sqrt):
    """√max(x, 0), for sums of squares: rounding may take their lower bound below 0, where the root is not defined."""

    split_at = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        return torch.sqrt(x.clamp(min=0))

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return [*super().stationary(slope, lower, upper), torch.zeros_like(slope)]

    def defined(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        return None


class Reciprocal(Function):
    """1/x on either side of 0; f' = -1/x²."""

    def __call__(self, x: Tensor) -> Tensor:
        return 1 / x

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        x = (-1 / slope).sqrt()
        return [x, -x]

    def defined(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        return (lower > 0) | (upper < 0)


@dataclass(frozen=True)
class Power(Function):
    """x to a constant power p (neither 0 nor 1); f' = p·x^(p-1). With a whole p for all x but 0, else for x > 0."""

    exponent: float

    @property
    def whole(self) -> bool:
        return self.exponent == int(self.exponent)

    @property
    def split_at(self) -> float | None:  # type: ignore[override]
        return 0.0 if self.whole and self.exponent > 0 and self.exponent % 2 else None

    @property
    def image(self) -> tuple[float, float]:  # type: ignore[override]
        return (-math.inf if self.whole and self.exponent % 2 else 0.0, math.inf)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.pow(x, self.exponent)

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        x = (slope / self.exponent).abs() ** (1 / (self.exponent - 1))
        return [x, -x]

    def defined(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        if self.exponent < 0:
            return (lower > 0) | (upper < 0) if self.whole else lower > 0
        return None if self.whole else lower >= 0


def power(exponent: float) -> Function:
    """x to this constant power (neither 0 nor 1), in its best form."""
    named: dict[float, Function] = {2.0: Square(), 0.5: Sqrt(), -1.0: Reciprocal()}
    return named.get(exponent) or Power(exponent)


class Wave(Function):
    """Base of sine and cosine.

    Of the points where f' = s only the first and the last of each kind can be extreme in [l, u]: f repeats itself, and
    s·x is monotone. Where rounding loses the phase, f is just between -1 and 1.
    """

    image = (-1.0, 1.0)

    def phases(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The points where f' = slope in one turn."""
        raise NotImplementedError

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        turn, phases = 2 * math.pi, self.phases(slope.clamp(-1, 1))
        first = [phase + turn * ((lower - phase) / turn).ceil() for phase in phases]
        last = [phase + turn * ((upper - phase) / turn).floor() for phase in phases]
        return first + last

    def limits(self, lower: Tensor, upper: Tensor) -> list[tuple[Tensor, Tensor]]:
        lost = torch.maximum(lower.abs(), upper.abs()) > torch.finfo(lower.dtype).eps ** -0.5
        return [(x, torch.where(lost, value, self(x))) for x in (lower, upper) for value in (-1.0, 1.0)]


class Sin(Wave):
    """sin x; f' = cos x."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(x.isinf(), 0.0, torch.sin(x))

    def phases(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        return slope.acos(), -slope.acos()


class Cos(Wave):
    """cos x; f' = -sin x."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(x.isinf(), 0.0, torch.cos(x))

    def phases(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        return -slope.asin(), math.pi + slope.asin()


@dataclass(frozen=True)
class Elu(Function):
    """scale·x for x > 0, else scale·a·(exp(x/c) - 1): Elu (c = 1), Celu (a = c) and Selu. Its kink is a candidate."""

    a: float
    c: float = 1.0
    scale: float = 1.0
    split_at = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        return self.scale * torch.where(x > 0, x, self.a * torch.expm1(x / self.c))

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return [self.c * (slope * self.c / (self.scale * self.a)).log(), torch.zeros_like(slope)]


class HardSwish(Function):
    """x·clip((x + 3)/6, 0, 1): a parabola between its kinks at -3 and 3, where f' = x/3 + 1/2."""

    split_at = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(x <= -3, 0.0, x * ((x + 3).clamp(0, 6) / 6))

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return [3 * slope - 1.5, torch.full_like(slope, -3), torch.full_like(slope, 3)]
