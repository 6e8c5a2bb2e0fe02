"""What several seeds, or one seed's images, tell of a mean: 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

_Z = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval. `kind`: "t" (Student's, over `count` seeds), "wilson" (Wilson's score interval of
    one seed's share, over `count` images), "paired" (a difference of shares, over `count` images), or "" (one value of
    which nothing else is known: the interval is itself).

    `least` and `most` are the extreme seeds'.
    """

    value: float
    lower: float
    upper: float
    kind: str
    count: int
    least: float
    most: float

    @property
    def half(self) -> float:
        """Half of the interval's width."""
        return (self.upper - self.lower) / 2


def estimate(values: Sequence[float], images: int | None = None) -> Estimate:
    """Of one value a seed; `images`: of how many each is a share, where it is one."""
    value = mean(values)
    if len(values) > 1:
        half = student(len(values) - 1) * stdev(values) / sqrt(len(values))
        lower, upper, kind, count = value - half, value + half, "t", len(values)
    elif images:
        (lower, upper), kind, count = wilson(value, images), "wilson", images
    else:
        lower, upper, kind, count = value, value, "", 1
    return Estimate(value, lower, upper, kind, count, min(values), max(values))


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of a probability of which `count` trials show a `share`.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    square = _Z**2 / count
    centre = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * sqrt(share * (1 - share) / count + square / (4 * count))
    return centre - half, centre + half
