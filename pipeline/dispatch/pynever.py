"""pyNeVer: symbolic bounds with refinement by splits (SSBP)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from secateur.formats import vnnlib
from secateur.formats.errors import UnsupportedError
from secateur.formats.query import And, Atom, Clause, Formula, Or, Query
from secateur.pipeline.dispatch.protocol import Task, Tool, result_file

# A result file whose name holds "txt" is written in VNN-COMP's format.
_ENTRY = (
    "import os, sys; from pynever.scripts.cli import ssbp_verify_single; n, p, out, t = sys.argv[1:5]; "
    "ssbp_verify_single(n, p, '.', out + '.txt', int(t), ''); os.replace(out + '.txt', out)"
)


def _command(task: Task) -> Sequence[str]:
    return [
        *(str(task.home.python), "-c", _ENTRY, str(task.onnx), str(task.vnnlib), str(task.result)),
        str(max(1, round(task.timeout))),
        *task.arguments,
    ]


def _restated(query: Query) -> str:
    """A box and one disjunction of conjunctions on outputs: its reader takes output conditions in no other form.

    Raises:
        UnsupportedError: several boxes, or conditions that involve inputs.
    """
    conditional = any(
        region.relations or clause.inputs.any() for region in query.regions for clause in region.clauses
    )
    if len(query.regions) != 1 or conditional:
        raise UnsupportedError(
            "pynever takes one box and conditions on outputs alone", where=query.name or None
        )
    [region] = query.regions
    parts: list[Formula] = []
    for i, (low, high) in enumerate(zip(region.lower.tolist(), region.upper.tolist(), strict=True)):
        parts += [Atom({i: Fraction(-1)}, {}, Fraction(low)), Atom({i: Fraction(1)}, {}, -Fraction(high))]
    cases = [And(tuple(_atoms(clause))) for clause in region.clauses]
    return vnnlib.formula_text(And((*parts, Or(tuple(cases)))), query.inputs, query.outputs, name=query.name)


def _atoms(clause: Clause) -> Iterator[Atom]:
    for row, constant in zip(clause.outputs, clause.constant.tolist(), strict=True):
        terms = {int(j): Fraction(float(row[j])) for j in np.flatnonzero(row)}
        yield Atom({}, terms, Fraction(constant))


TOOL = Tool(
    name="pynever",
    summary="symbolic bounds with splits, sequential networks",
    licence="GPL-3.0",
    command=_command,
    read=result_file,
    requirements=("torch", "torchvision", "pynever"),
    package="pynever",
    restate=_restated,
)
