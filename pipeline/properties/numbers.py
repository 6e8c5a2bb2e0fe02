"""Numbers in properties: exact, as people write them, and as they stand in file names."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from secateur.formats import vnnlib
from secateur.formats.errors import InputError
from secateur.formats.vnnlib_normalise import outward

Number = Fraction | float | int | str


def exact(number: Number) -> Fraction:
    """`number` as a rational: text as decimal or quotient ("0.02", "2/255"), a float as the decimal it prints as.

    Raises:
        InputError: not a number.
    """
    try:
        return Fraction(str(number)) if isinstance(number, float) else Fraction(number)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"'{number}' is not a number: expected such as 0.02 or 2/255") from None


def at_least_zero(number: Number, what: str) -> Fraction:
    """As `exact`; InputError where it is negative."""
    found = exact(number)
    if found < 0:
        raise InputError(f"{what} is {number}: expected 0 or more")
    return found


def above_zero(number: Number, what: str) -> Fraction:
    """As `exact`; InputError where it is not positive."""
    found = exact(number)
    if found <= 0:
        raise InputError(f"{what} is {number}: expected more than 0")
    return found


def float32(value: Fraction, *, up: bool) -> Fraction:
    """The nearest float32 that is not below `value` (`up`), or not above it."""
    wide = outward(value, up=up)
    nearest = np.float32(wide)
    if float(nearest) < wide if up else float(nearest) > wide:  # numpy would compare in float32
        nearest = np.nextafter(nearest, np.float32(np.inf if up else -np.inf))
    return Fraction(float(nearest))


def in_name(value: Fraction, bar: str = "_") -> str:
    """`value` as a decimal where it is one, else as numerator, `bar`, denominator."""
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return vnnlib.decimal(value) if denominator == 1 else f"{value.numerator}{bar}{value.denominator}"


def listed(numbers: Iterable[Fraction]) -> str:
    return " ".join(in_name(number, "/") for number in numbers)
