"""Linear terms of VNN-LIB formulas, exact."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from secateur.formats.query import Atom

ZERO = Fraction(0)
ONE = Fraction(1)


@dataclass(frozen=True, slots=True)
class Linear:
    """The linear term Σ inputs[i]·x_i + Σ outputs[j]·y_j + constant, exact; no coefficient is zero."""

    inputs: dict[int, Fraction]
    outputs: dict[int, Fraction]
    constant: Fraction

    @property
    def is_constant(self) -> bool:
        return not self.inputs and not self.outputs

    def scaled(self, factor: Fraction) -> Linear:
        if not factor:
            return Linear({}, {}, ZERO)
        return Linear(
            {index: value * factor for index, value in self.inputs.items()},
            {index: value * factor for index, value in self.outputs.items()},
            self.constant * factor,
        )

    def plus(self, other: Linear) -> Linear:
        return Linear(
            _sum(self.inputs, other.inputs), _sum(self.outputs, other.outputs), self.constant + other.constant
        )

    def at_most(self, other: Linear, *, strict: bool) -> Atom:
        """The atom `self <= other` (`<` when strict)."""
        difference = self.plus(other.scaled(-ONE))
        return Atom(difference.inputs, difference.outputs, difference.constant, strict)


def _sum(left: dict[int, Fraction], right: dict[int, Fraction]) -> dict[int, Fraction]:
    total = dict(left)
    for index, value in right.items():
        total[index] = total.get(index, ZERO) + value
        if not total[index]:
            del total[index]
    return total
