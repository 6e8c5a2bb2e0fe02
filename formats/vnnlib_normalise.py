"""From an exact formula to regions: disjunctive normal form that keeps the parts images share.

Bounds asserted for all cases are factored out first, so 3,072 pixel bounds and a disjunction of nine output
atoms are one region with nine clauses. Cases with the same box and relations become one region.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

import numpy as np

from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.query import And, Atom, Bounds, Clause, Floats, Formula, Or, Region

MAX_CASES = 50_000

_Bound = tuple[Fraction, bool]  # value, strict
_Key = tuple[object, ...]


@dataclass(slots=True)
class _Case:
    """A conjunction of atoms, sorted by what they constrain: single inputs, inputs, outputs (and inputs)."""

    lower: dict[int, _Bound] = field(default_factory=dict)
    upper: dict[int, _Bound] = field(default_factory=dict)
    relations: tuple[Atom, ...] = ()
    conditions: tuple[Atom, ...] = ()


@dataclass(frozen=True, slots=True)
class _Box:
    """A region's four sides (lower, upper, and both rounded to nearest), and what tells boxes apart."""

    sides: tuple[Floats, Floats, Floats, Floats]
    key: bytes

    @classmethod
    def of(cls, outer: Sequence[Floats], nearest: Sequence[Floats]) -> _Box:
        """Of lower and upper sides."""
        sides = (outer[0], outer[1], nearest[0], nearest[1])
        for side in sides:
            side.flags.writeable = False
        return cls(sides, outer[0].tobytes() + outer[1].tobytes())


def regions(
    bounds: Bounds, formulas: Iterable[Formula], inputs: int, outputs: int, name: str
) -> tuple[Region, ...]:
    """The regions of `bounds` and `formulas` over `inputs` and `outputs` variables; messages call it `name`.

    Boxes are rounded outward to float64; a strict bound becomes a closed one (but an empty box is recognised
    exactly, and dropped). No region at all means that the formula is unsatisfiable.

    Raises:
        InputError: a case leaves an input without a lower or upper bound, or bounds it beyond float64.
        UnsupportedError: the disjunctive normal form has more than `MAX_CASES` cases.
    """
    atoms, rest = _flatten(formulas)
    common = _conjunction(atoms)
    if common is None:
        return ()
    cases = _product(rest, name)
    box = None
    if not any(case.lower or case.upper for case in (common, *cases)):
        box = _listed_box(bounds, inputs)
    if box is None:
        listed = _conjunction(bounds.atoms)
        common = None if listed is None else _both(listed, common)
        if common is None:
            return ()
    return _merge(common, cases, box, inputs, outputs, name)


def _listed_box(bounds: Bounds, inputs: int) -> _Box | None:
    """The box that `bounds` describe, where that is plain to see: it has one lower and one upper bound of each input,
    in float64, and is not empty."""
    sides: list[Floats] = []
    nearest: list[Floats] = []
    exact: list[list[Decimal]] = []
    for upper in (False, True):
        where = np.flatnonzero(bounds.upper == upper)
        where = where[np.argsort(bounds.input[where], kind="stable")]
        if not np.array_equal(bounds.input[where], np.arange(inputs)):
            return None
        numbers = [bounds.numbers[i] for i in where.tolist()]
        sides.append(np.array([number.up if upper else number.down for number in numbers]))
        nearest.append(np.array([number.nearest for number in numbers]))
        exact.append([number.exact for number in numbers])
    if not np.isfinite([*sides, *nearest]).all() or any(map(operator.gt, *exact)):
        return None
    return _Box.of(sides, nearest)


def _flatten(formulas: Iterable[Formula]) -> tuple[list[Atom], list[Or]]:
    """The conjuncts of `formulas`: atoms and disjunctions."""
    atoms: list[Atom] = []
    rest: list[Or] = []
    stack = list(formulas)[::-1]
    while stack:
        part = stack.pop()
        if isinstance(part, Atom):
            atoms.append(part)
        elif isinstance(part, And) or len(part.parts) == 1:
            stack.extend(reversed(part.parts))
        else:
            rest.append(part)
    return atoms, rest


def _conjunction(atoms: Iterable[Atom]) -> _Case | None:
    """The case of `atoms`; None when it is empty."""
    case = _Case()
    relations: list[Atom] = []
    conditions: list[Atom] = []
    for atom in atoms:
        if atom.outputs:
            conditions.append(atom)
        elif len(atom.inputs) > 1:
            relations.append(atom)
        elif not atom.inputs:
            if not atom.holds((), ()):
                return None
        else:
            [(index, coefficient)] = atom.inputs.items()
            if coefficient == 1:  # spares the division, for the usual 2 × 3,072 bounds
                value = -atom.constant
            elif coefficient == -1:
                value = atom.constant
            else:
                value = -atom.constant / coefficient
            if not _tighten(case, index, (value, atom.strict), upper=coefficient > 0):
                return None
    case.relations = tuple(_distinct(relations))
    case.conditions = tuple(_distinct(conditions))
    return case


def _tighten(case: _Case, index: int, bound: _Bound, *, upper: bool) -> bool:
    """Add one bound on one input to `case`; False when that leaves it empty."""
    side, other = (case.upper, case.lower) if upper else (case.lower, case.upper)
    value, strict = bound
    known = side.get(index)
    if known is not None and (
        (known[0] < value if upper else known[0] > value) or (known[0] == value and (known[1] or not strict))
    ):
        return True
    side[index] = bound
    opposite = other.get(index)
    if opposite is None:
        return True
    gap = value - opposite[0] if upper else opposite[0] - value
    return gap > 0 or (gap == 0 and not strict and not opposite[1])


def _both(left: _Case, right: _Case) -> _Case | None:
    """The conjunction of two cases; None when its box is empty."""
    if right.lower or right.upper:
        both = _Case(dict(left.lower), dict(left.upper))
        for index, bound in right.lower.items():
            if not _tighten(both, index, bound, upper=False):
                return None
        for index, bound in right.upper.items():
            if not _tighten(both, index, bound, upper=True):
                return None
    else:
        both = _Case(left.lower, left.upper)
    both.relations = tuple(_distinct((*left.relations, *right.relations)))
    both.conditions = tuple(_distinct((*left.conditions, *right.conditions)))
    return both


def _cases(formula: Formula, name: str) -> list[_Case]:
    """The disjunctive normal form of `formula`, without empty cases."""
    atoms, rest = _flatten([formula])
    common = _conjunction(atoms)
    if common is None:
        return []
    return [case for case in (_both(common, other) for other in _product(rest, name)) if case is not None]


def _product(disjunctions: list[Or], name: str) -> list[_Case]:
    """The cases of the conjunction of `disjunctions`."""
    cases = [_Case()]
    for disjunction in disjunctions:
        options: list[_Case] = []
        for part in disjunction.parts:
            options.extend(_cases(part, name))
            _guard(len(options), name)
        _guard(len(cases) * len(options), name)
        if len(cases) == 1 and not (
            cases[0].lower or cases[0].upper or cases[0].relations or cases[0].conditions
        ):
            cases = options
        else:
            pairs = (_both(case, option) for option in options for case in cases)
            cases = [case for case in pairs if case is not None]
    return cases


def _guard(count: int, name: str) -> None:
    if count > MAX_CASES:
        raise UnsupportedError(
            f"the property has at least {count} cases in disjunctive normal form: expected at most {MAX_CASES}",
            where=name,
            hint="split it into several properties",
        )


def _merge(
    common: _Case, cases: list[_Case], shared: _Box | None, inputs: int, outputs: int, name: str
) -> tuple[Region, ...]:
    """One region for each distinct box and relations of `common` and a case of `cases`; `shared` is the box of
    `common`, when known."""
    merged: dict[_Key, tuple[_Case, _Box, list[tuple[Atom, ...]]]] = {}
    for case in cases:
        whole = _both(common, case)
        if whole is None:
            continue
        if case.lower or case.upper:
            box = _box(whole, inputs, name)
        else:
            box = shared = shared or _box(common, inputs, name)
        group = (box.key, frozenset(map(_key, whole.relations)))
        merged.setdefault(group, (whole, box, []))[2].append(whole.conditions)
    zeros: dict[int, Floats] = {}
    return tuple(
        Region(
            *box.sides,
            _clause(whole.relations, inputs, outputs, zeros),
            tuple(_clause(conditions, inputs, outputs, zeros) for conditions in _alternatives(conditions_of)),
        )
        for whole, box, conditions_of in merged.values()
    )


def _alternatives(conjunctions: list[tuple[Atom, ...]]) -> list[tuple[Atom, ...]]:
    """Without repetitions; only the empty conjunction, which is always true, when it is among them."""
    if () in conjunctions:
        return [()]
    seen: dict[frozenset[_Key], tuple[Atom, ...]] = {}
    for conjunction in conjunctions:
        seen.setdefault(frozenset(map(_key, conjunction)), conjunction)
    return list(seen.values())


def _box(case: _Case, inputs: int, name: str) -> _Box:
    outer, nearest = [], []
    for bounds, what in ((case.lower, "lower"), (case.upper, "upper")):
        side, near = np.empty(inputs), np.empty(inputs)
        for index in range(inputs):
            bound = bounds.get(index)
            if bound is None:
                raise InputError(
                    f"input X_{index} has no {what} bound (in some case of the property)",
                    where=name,
                    hint=f"assert a constant {what} bound for every input",
                )
            try:
                side[index] = outward(bound[0], up=what == "upper")
                near[index] = bound[0].numerator / bound[0].denominator + 0.0
            except OverflowError:
                raise InputError(f"the {what} bound of X_{index} lies beyond float64", where=name) from None
        outer.append(side)
        nearest.append(near)
    return _Box.of(outer, nearest)


def outward(value: Fraction, *, up: bool) -> float:
    """The float64 nearest to `value` that is not below it (`up`), or not above it.

    Raises:
        OverflowError: there is no such finite float64.
    """
    nearest = value.numerator / value.denominator + 0.0  # Python rounds this quotient correctly; 0.0 for -0.0
    numerator, denominator = nearest.as_integer_ratio()
    excess = numerator * value.denominator - value.numerator * denominator
    if up and excess < 0:
        nearest = math.nextafter(nearest, math.inf)
    elif not up and excess > 0:
        nearest = math.nextafter(nearest, -math.inf)
    if math.isinf(nearest):
        raise OverflowError
    return nearest


def _clause(atoms: tuple[Atom, ...], inputs: int, outputs: int, zeros: dict[int, Floats]) -> Clause:
    """Dense float64 rows; clauses without inputs share one block of zeros a row count."""
    rows = len(atoms)
    if any(atom.inputs for atom in atoms):
        left = np.zeros((rows, inputs))
        for row, atom in enumerate(atoms):
            for index, value in atom.inputs.items():
                left[row, index] = float(value)
    else:
        left = zeros.setdefault(rows, np.zeros((rows, inputs)))
    right = np.zeros((rows, outputs))
    for row, atom in enumerate(atoms):
        for index, value in atom.outputs.items():
            right[row, index] = float(value)
    return Clause(
        left,
        right,
        np.array([float(atom.constant) for atom in atoms], dtype=np.float64),
        np.array([atom.strict for atom in atoms], dtype=np.bool_),
    )


def _distinct(atoms: Iterable[Atom]) -> list[Atom]:
    atoms = list(atoms)
    if len(atoms) < 2:
        return atoms
    return list({_key(atom): atom for atom in atoms}.values())


def _key(atom: Atom) -> _Key:
    return (frozenset(atom.inputs.items()), frozenset(atom.outputs.items()), atom.constant, atom.strict)
