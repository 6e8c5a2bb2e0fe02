"""Queries that tie inputs together: which inputs must be equal, and the formula and regions with that in mind.

A query about two networks bounds the inputs of one and says that the other's are the same: a box for every input is
known only when the equalities are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from secateur.formats.query import NO_BOUNDS, And, Atom, Clause, Floats, Formula, Or, Region
from secateur.formats.vnnlib_normalise import regions

Places = NDArray[np.intp]


def equal_inputs(formula: Formula, inputs: int) -> Places:
    """For each of `inputs` inputs the number of its class; inputs of one class are equal wherever `formula` holds.

    Read off pairs x_i ≤ x_j, x_j ≤ x_i among the outer conjuncts. Classes are numbered in the order of their first
    inputs.
    """
    below: set[tuple[int, int]] = set()  # (a, b): x_a <= x_b holds in every case
    for atom in _conjuncts(formula):
        if not atom.outputs and not atom.constant and len(atom.inputs) == 2:
            (i, left), (j, right) = atom.inputs.items()
            if left == -right:
                below.add((i, j) if left > 0 else (j, i))
    parent = list(range(inputs))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in sorted(below):
        if (b, a) in below:
            low, high = sorted((root(a), root(b)))
            parent[high] = low
    roots = [root(i) for i in range(inputs)]
    number = {first: count for count, first in enumerate(dict.fromkeys(roots))}
    return np.array([number[first] for first in roots], np.intp)


def _conjuncts(formula: Formula) -> list[Atom]:
    """The atoms that hold wherever the formula does, read off its outer conjunctions."""
    if isinstance(formula, Atom):
        return [formula]
    if isinstance(formula, And):
        return [atom for part in formula.parts for atom in _conjuncts(part)]
    return _conjuncts(formula.parts[0]) if len(formula.parts) == 1 else []


def renamed(formula: Formula, places: Places) -> Formula:
    """The formula over the classes that `places` gives each input."""
    if isinstance(formula, Atom):
        inputs: dict[int, Fraction] = {}
        for index, value in formula.inputs.items():
            place = int(places[index])
            inputs[place] = inputs.get(place, Fraction(0)) + value
        return replace(formula, inputs={place: value for place, value in inputs.items() if value})
    parts = tuple(renamed(part, places) for part in formula.parts)
    return And(parts) if isinstance(formula, And) else Or(parts)


def ordered_inputs(formula: Formula) -> dict[int, int]:
    """Inputs b that are nowhere below another input a where `formula` holds, each with its a.

    Read off x_a ≤ x_b among the outer conjuncts. No a is itself such a b, so that b can stand for x_a plus a step.
    """
    found: dict[int, int] = {}
    for atom in _conjuncts(formula):
        if not atom.outputs and not atom.constant and len(atom.inputs) == 2:
            (low, left), (high, right) = sorted(atom.inputs.items(), key=lambda term: -term[1])
            free = high not in found and high not in found.values() and low not in found
            if left == -right and free:
                found[high] = low
    return found


def stepped(formula: Formula, bases: Mapping[int, int], lower: Floats, upper: Floats) -> Formula:
    """The formula with x_a + x_b in place of every x_b of `bases` (b: a), x_b the step; all inputs lie in the box
    from `lower` to `upper`.

    Steps lie in [0, upper_b − lower_a]. A lower end of x_b that x_a cannot reach below says nothing more, and goes.
    """

    def rewritten(part: Formula) -> Formula:
        if not isinstance(part, Atom):
            parts = tuple(map(rewritten, part.parts))
            if isinstance(part, Or):
                return Or(parts)
            return And(tuple(one for one in parts if one != And(())))
        inputs = dict(part.inputs)
        for step in part.inputs.keys() & bases.keys():
            base = bases[step]
            inputs[base] = inputs.get(base, Fraction(0)) + inputs[step]
        inputs = {index: value for index, value in inputs.items() if value}
        if not part.outputs and all(value < 0 for value in inputs.values()) and inputs.keys() & bases.keys():
            ends = [0 if index in bases else Fraction(float(lower[index])) for index in inputs]
            most = part.constant + sum(value * end for value, end in zip(inputs.values(), ends, strict=True))
            if len(inputs) > 1 and (most < 0 or (most == 0 and not part.strict)):
                return And(())
        return replace(part, inputs=inputs)

    one = Fraction(1)
    ranges = [
        Atom({step: sign}, {}, constant)
        for step, base in bases.items()
        for sign, constant in (
            (-one, Fraction(0)),
            (one, Fraction(float(lower[base])) - Fraction(float(upper[step]))),
        )
    ]
    return And((*ranges, rewritten(formula)))


def simplified(formula: Formula) -> Formula:
    """The formula without what holds anyway (an input equals itself), and with conjunctions that lie in one another as
    one: other verifiers read little else than a list of assertions."""
    if isinstance(formula, Atom):
        constant = not formula.inputs and not formula.outputs
        return And(()) if constant and formula.holds((), ()) else formula
    parts = [simplified(part) for part in formula.parts]
    if isinstance(formula, Or):
        if And(()) in parts:
            return And(())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))
    return And(tuple(inner for part in parts for inner in (part.parts if isinstance(part, And) else (part,))))


def joint_regions(formula: Formula, inputs: int, outputs: int, name: str) -> tuple[Region, ...]:
    """As `regions`, with what is known of one input known of all that equal it.

    The equalities themselves are among each region's relations.

    Raises:
        As `regions`.
    """
    places = equal_inputs(formula, inputs)
    count = int(places.max(initial=-1)) + 1
    if count == inputs:
        return regions(NO_BOUNDS, [formula], inputs, outputs, name)
    first = np.array([int(np.flatnonzero(places == k)[0]) for k in range(count)], np.intp)
    found = regions(NO_BOUNDS, [renamed(formula, places)], count, outputs, name)
    return tuple(_spread(region, places, first) for region in found)


def _spread(region: Region, places: Places, first: Places) -> Region:
    """A region over classes as one over inputs: coefficients go to the first of a class, equalities are added."""

    def wide(clause: Clause) -> Clause:
        inputs = np.zeros((len(clause), len(places)))
        inputs[:, first] = clause.inputs
        return replace(clause, inputs=inputs)

    others = np.flatnonzero(first[places] != np.arange(len(places)))
    ties = np.zeros((2 * len(others), len(places)))
    for row, i in enumerate(others):
        ties[2 * row, [i, first[places[i]]]] = 1.0, -1.0
        ties[2 * row + 1] = -ties[2 * row]
    relations = wide(region.relations)
    return Region(
        region.lower[places],
        region.upper[places],
        region.nearest_lower[places],
        region.nearest_upper[places],
        Clause(
            np.concatenate([relations.inputs, ties]),
            np.concatenate([relations.outputs, np.zeros((len(ties), relations.outputs.shape[1]))]),
            np.concatenate([relations.constant, np.zeros(len(ties))]),
            np.concatenate([relations.strict, np.zeros(len(ties), np.bool_)]),
        ),
        tuple(wide(clause) for clause in region.clauses),
    )
