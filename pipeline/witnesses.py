"""Checking a witness: replay in onnxruntime, exact evaluation of the property, and what fails when it does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from secateur.formats import vnnlib
from secateur.formats.errors import CheckFailed, InputError
from secateur.formats.onnx_model import Model
from secateur.formats.query import And, Atom, Formula, Or, Query, written
from secateur.pipeline.verify.replay import check_witness


def check(model: Model, query: Query, x: NDArray[np.floating], name: str) -> NDArray[np.floating]:
    """The outputs [n_out] of `model` at the witness `x` [n_in], when `query` holds there exactly.

    The property's inputs are `x` as written; the network is fed its rounding to the network's input type, and outputs
    claimed by whoever wrote the witness do not matter. `name` is what messages call the witness.

    Raises:
        CheckFailed: the property does not hold; names the input bound or the atoms that fail.
        InputError: the witness has another number of inputs than the property.
    """
    if len(x) != query.inputs:
        raise InputError(f"the witness has {len(x)} inputs, the property {query.inputs}", where=name)
    holds, y = check_witness(model, query, x)
    if holds:
        return y
    if not np.isfinite(y).all():
        raise CheckFailed("the network's outputs at the witness are not finite", where=name)
    exact_x, exact_y = written(x), [Fraction(float(v)) for v in y]
    reasons = _failures(query.formula, exact_x, exact_y)
    more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    raise CheckFailed(f"the witness does not hold: {reasons[0]}{more}", where=name)


def _failures(formula: Formula, x: Sequence[Fraction], y: Sequence[Fraction]) -> list[str]:
    """Why `formula` is false: the conjuncts that fail, in order; of a disjunction, what its nearest part lacks."""
    if formula.holds(x, y):
        return []
    if isinstance(formula, And):
        return [reason for part in formula.parts for reason in _failures(part, x, y)]
    if isinstance(formula, Or):
        if not formula.parts:
            return ["an empty disjunction is never true"]
        nearest = min(formula.parts, key=lambda part: _distance(part, x, y))
        [first, *others] = _failures(nearest, x, y)
        return [f"none of {len(formula.parts)} alternatives is true, the nearest lacks {first}", *others]
    return [_explain(formula, x, y)]


def _distance(formula: Formula, x: Sequence[Fraction], y: Sequence[Fraction]) -> float:
    """How far `formula` is from true: the amount by which its atoms fail (largest of all, least of some)."""
    if isinstance(formula, Atom):
        return max(float(formula.value(x, y)), 0.0)
    parts = [_distance(part, x, y) for part in formula.parts]
    return max(parts, default=0.0) if isinstance(formula, And) else min(parts, default=float("inf"))


def _explain(atom: Atom, x: Sequence[Fraction], y: Sequence[Fraction]) -> str:
    named = [(f"X_{index}", x[index]) for index in sorted(atom.inputs)]
    named += [(f"Y_{index}", y[index]) for index in sorted(atom.outputs)]
    values = ", ".join(f"{variable} = {float(value):.9g}" for variable, value in named[:4])
    rest = ", …" if len(named) > 4 else ""
    text = vnnlib.atom_text(atom)
    text = text if len(text) <= 100 else text[:99] + "…"
    return f"{text} at {values}{rest} (off by {float(atom.value(x, y)):.3g})"
