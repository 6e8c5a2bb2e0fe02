"""Holding a verifier to its word: what it calls a witness is replayed, and only what holds is `sat`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from secateur.formats.query import And, Atom, Formula, Or, Query, written
from secateur.pipeline.dispatch.protocol import Claim, Floats
from secateur.pipeline.verify.replay import Replay, Witness

SLACK = 1e-4
"""How far outside its box an input may lie in the tolerant replay; outputs have no tolerance (VNN-COMP 2026)."""


@dataclass(frozen=True)
class Judged:
    """A claim after replay. `replay` is "strict" or "tolerant" for a `sat`, else empty."""

    verdict: str
    witness: Witness | None = None
    replay: str = ""
    message: str = ""


def judge(claim: Claim, query: Query, replay: Replay) -> Judged:
    """Replay the witness of a `sat` in onnxruntime and evaluate the property exactly; other claims pass as they are.

    A witness holds strictly when it satisfies the property as written, itself or moved by no more than `SLACK` into
    one of its boxes (some tools print few decimals): then the moved one is the witness. It holds tolerantly when only
    conditions on inputs fail, each by no more than `SLACK`: a `sat` that earns credit in the competition and refutes
    nobody. Otherwise, and without a witness, the verdict is `invalid-witness`.
    """
    if claim.verdict != "sat":
        return Judged(claim.verdict, message=claim.message)
    if claim.x is None:
        return Judged("invalid-witness", message="sat without a witness that can be read")
    if len(claim.x) != query.inputs:
        reason = f"the witness has {len(claim.x)} inputs, the property {query.inputs}"
        return Judged("invalid-witness", message=reason)
    if not np.isfinite(claim.x).all():
        return Judged("invalid-witness", message="the witness has inputs that are no finite numbers")
    for x in _near(query, claim.x):
        witness = replay.check(query, x)
        if witness is not None:
            return Judged("sat", witness, "strict", claim.message)
    y = replay.outputs(claim.x[None])[0]
    if np.isfinite(y).all() and _relaxed(query.formula).holds(
        written(claim.x), [Fraction(float(value)) for value in y]
    ):
        reason = f"the witness holds only with inputs {SLACK:g} outside of what the property allows"
        return Judged("sat", Witness(claim.x, y), "tolerant", reason)
    return Judged("invalid-witness", message="onnxruntime and the property refute the witness")


def _near(query: Query, x: Floats) -> Iterator[Floats]:
    yield x
    for region in query.regions:
        inside = np.clip(x, region.nearest_lower, region.nearest_upper)
        if 0 < np.abs(inside - x).max(initial=0) <= SLACK:
            yield inside


def _relaxed(formula: Formula) -> Formula:
    """The formula with every atom on inputs alone relaxed as if each of its inputs could move by `SLACK`."""
    if isinstance(formula, Atom):
        if formula.outputs:
            return formula
        reach = Fraction(SLACK) * sum(abs(coefficient) for coefficient in formula.inputs.values())
        return Atom(formula.inputs, formula.outputs, formula.constant - reach, formula.strict)
    parts = tuple(_relaxed(part) for part in formula.parts)
    return And(parts) if isinstance(formula, And) else Or(parts)
