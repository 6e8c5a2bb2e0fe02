"""Decimals as files hold them: exact, and between which float64 they lie."""

from __future__ import annotations

import math
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

MAX_EXPONENT = 400
"""float64 ends at 1e308; beyond, exact powers of ten only cost memory."""

MAX_DIGITS = 4300
"""As many as Python's own integers are read with."""


class Number(NamedTuple):
    """A decimal, exactly; the greatest float64 that is not above it, the nearest, and the least that is not below it.

    Of zeros, 0.0; beyond float64, infinities.
    """

    exact: Decimal
    down: float
    nearest: float
    up: float


@lru_cache(maxsize=1 << 14)  # images repeat their numbers, and so do the properties of one data set
def number(word: str) -> Number:
    """The decimal number `word`, such as `-1.5e-3`.

    Raises:
        ValueError: more than `MAX_DIGITS` digits, or an exponent beyond `MAX_EXPONENT`.
    """
    digits, _, exponent = word.lower().partition("e")
    if len(digits) > MAX_DIGITS or len(exponent) > MAX_DIGITS or abs(int(exponent or 0)) > MAX_EXPONENT:
        raise ValueError(f"{len(digits)} digits, exponent {exponent or 0}")
    exact = Decimal(word)
    nearest = float(word) + 0.0  # 0.0 for -0.0
    down = nearest if nearest <= exact else math.nextafter(nearest, -math.inf)
    up = nearest if nearest >= exact else math.nextafter(nearest, math.inf)
    return Number(exact, down + 0.0, nearest, up + 0.0)
