"""The normal form of a verification query, whatever dialect it was written in.

A query asks for inputs of one or several networks (and the outputs they entail) that satisfy a formula.

* `bounds` and `others` are the property *as written*, exactly: witnesses are judged by them alone. `formula` is their
  conjunction, in rational arithmetic.
* `regions` is what verifiers work on: a disjunction of regions, each an input box with linear input
  relations and an output condition in disjunctive normal form. Boxes are rounded *outward* to float64, so that
  a proof about the regions is a proof about the formula.

Variables are numbered flat, over the inputs of all networks in order, then likewise over the outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from secateur.formats.decimals import Number

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Variable:
    """A declared tensor: its name, shape, type as VNN-LIB 2.0 names it, and the ONNX value it stands for, if named."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "real"
    onnx_name: str = ""

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Network:
    """One network of a query, its inputs and outputs in order; hidden values count as outputs, after the others.

    VNN-LIB 1.0 declares only counts: see `flat`. `equal_to` names an earlier network of which this one is a second
    application, `isomorphic_to` one that has the same graph with other weights.
    """

    name: str
    input_variables: tuple[Variable, ...]
    output_variables: tuple[Variable, ...]
    hidden: tuple[Variable, ...] = ()
    equal_to: str = ""
    isomorphic_to: str = ""

    @staticmethod
    def flat(inputs: int, outputs: int, name: str = "f") -> Network:
        """The network of a VNN-LIB 1.0 property."""
        return Network(name, (Variable("X", (inputs,)),), (Variable("Y", (outputs,)),))

    @property
    def inputs(self) -> int:
        return sum(variable.size for variable in self.input_variables)

    @property
    def outputs(self) -> int:
        return sum(variable.size for variable in (*self.output_variables, *self.hidden))


@dataclass(frozen=True)
class Atom:
    """The linear inequality Σ inputs[i]·x_i + Σ outputs[j]·y_j + constant ≤ 0 (`< 0` when strict), exact."""

    inputs: Mapping[int, Fraction]
    outputs: Mapping[int, Fraction]
    constant: Fraction
    strict: bool = False

    def value(self, x: Sequence[Fraction], y: Sequence[Fraction]) -> Fraction:
        """The left-hand side at exact inputs `x` and outputs `y`."""
        total = self.constant
        for index, coefficient in self.inputs.items():
            total += coefficient * x[index]
        for index, coefficient in self.outputs.items():
            total += coefficient * y[index]
        return total

    def holds(self, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
        value = self.value(x, y)
        return value < 0 if self.strict else value <= 0


@dataclass(frozen=True)
class And:
    """All of `parts` hold; true when empty."""

    parts: tuple[Formula, ...]

    def holds(self, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
        return all(part.holds(x, y) for part in self.parts)


@dataclass(frozen=True)
class Or:
    """One of `parts` holds; false when empty."""

    parts: tuple[Formula, ...]

    def holds(self, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
        return any(part.holds(x, y) for part in self.parts)


Formula = Atom | And | Or


@dataclass(frozen=True)
class Bounds:
    """Constant bounds on single inputs, in columns of n: all of them hold. An image has thousands.

    input: [n]; upper: [n], whether it is an upper bound; numbers: n.
    """

    input: NDArray[np.int64]
    upper: NDArray[np.bool_]
    numbers: tuple[Number, ...]

    @cached_property
    def atoms(self) -> tuple[Atom, ...]:
        """One atom a bound, in order."""
        one = Fraction(1)
        columns = zip(self.input.tolist(), self.upper.tolist(), self.numbers, strict=True)
        return tuple(
            Atom({index: one if upper else -one}, {}, (-1 if upper else 1) * Fraction(number.exact))
            for index, upper, number in columns
        )

    @cached_property
    def _nearest(self) -> Floats:
        return np.array([number.nearest for number in self.numbers], dtype=np.float64)

    def hold(self, x: Floats) -> bool:
        """Whether all hold at `x` [n_in] as written (see `written`), exactly.

        Rounding to nearest preserves order: where an input, the rounding of what is written, differs from the rounding
        of the bound, the two compare as they do. Only where they are equal the decimals are compared.
        """
        values = x[self.input]
        if not np.where(self.upper, values <= self._nearest, values >= self._nearest).all():
            return False
        for i in np.flatnonzero(values == self._nearest).tolist():
            value, bound = Decimal(repr(float(values[i]))), self.numbers[i].exact
            if not (value <= bound if self.upper[i] else value >= bound):
                return False
        return True


NO_BOUNDS = Bounds(np.empty(0, np.int64), np.empty(0, np.bool_), ())
"""For queries whose bounds are among their other formulas."""


@dataclass(frozen=True)
class Clause:
    """A conjunction of m linear atoms: `inputs @ x + outputs @ y + constant <= 0`, row by row.

    Shapes: inputs [m, n_in], outputs [m, n_out], constant [m], strict [m]. float64, rounded to nearest.
    An empty clause (m = 0) is true everywhere.
    """

    inputs: Floats
    outputs: Floats
    constant: Floats
    strict: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.constant)


@dataclass(frozen=True)
class Region:
    """A box (lower, upper: [n_in], float64, outward), linear input relations (a clause whose `outputs` are
    zero), and the output condition: a disjunction of clauses. No clause at all means: never satisfied.

    `nearest_lower` and `nearest_upper` are the same ends rounded to nearest: numbers that stand for the ends as
    written, for witnesses on them (see `Query.holds`).
    """

    lower: Floats
    upper: Floats
    nearest_lower: Floats
    nearest_upper: Floats
    relations: Clause
    clauses: tuple[Clause, ...]


@dataclass(frozen=True)
class Query:
    """What is asked: is there an assignment that satisfies `formula`? See the module's docstring.

    `version` is that of the dialect it was written in.
    """

    networks: tuple[Network, ...]
    bounds: Bounds
    others: tuple[Formula, ...]
    regions: tuple[Region, ...]
    sha256: str = ""
    name: str = ""
    comments: tuple[str, ...] = field(default=(), compare=False)
    version: str = "1.0"

    @property
    def inputs(self) -> int:
        return sum(network.inputs for network in self.networks)

    @property
    def outputs(self) -> int:
        return sum(network.outputs for network in self.networks)

    @cached_property
    def formula(self) -> And:
        """The conjunction of `bounds` and `others`."""
        return And((*self.bounds.atoms, *self.others))

    def holds(self, x: Iterable[float], y: Iterable[float]) -> bool:
        """Whether inputs `x` and outputs `y` (flat, finite floats) satisfy the property as written, exactly."""
        x = np.fromiter(x, np.float64)
        if not self.bounds.hold(x):
            return False
        exact_x = written(x) if any(map(_mentions_inputs, self.others)) else ()
        return And(self.others).holds(exact_x, [Fraction(float(v)) for v in y])


def _mentions_inputs(formula: Formula) -> bool:
    if isinstance(formula, Atom):
        return bool(formula.inputs)
    return any(map(_mentions_inputs, formula.parts))


def written(x: Iterable[float]) -> list[Fraction]:
    """The inputs of a witness as exact numbers: a float64 stands for its shortest decimal.

    That is the number in the witness's text. A property that fixes an input to 0.1 can then be met: no binary
    fraction is 0.1, but the decimal of the float64 next to it is.
    """
    return [Fraction(repr(float(v))) for v in x]
