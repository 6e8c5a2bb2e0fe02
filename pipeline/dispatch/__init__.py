"""Verifiers behind one protocol: ours, and foreign ones as processes that are held to their word."""

from __future__ import annotations

from secateur.formats.errors import InputError
from secateur.pipeline.dispatch import abcrown, generic, marabou, neuralsat, nnenum, pynever, vibecheck
from secateur.pipeline.dispatch.protocol import Tool

NATIVE = {
    "crown": "linear bounds, attack, branch and bound, rigorous in floating point",
    "milp": "one mixed-integer program (HiGHS, within its tolerances), for small networks",
    "auto_lirpa": "linear bounds by that library, never sat",
}
"""The verifiers of this package."""

FOREIGN: dict[str, Tool] = {
    module.TOOL.name: module.TOOL for module in (marabou, neuralsat, vibecheck, pynever, nnenum, abcrown)
}
"""The foreign verifiers that are known by name."""

OPEN = {"vnncomp:": generic.vnncomp, "command:": generic.template, "process:": generic.own}
"""Prefixes of verifiers that bring their own call; `process:` is one of ours in a process of its own."""


def tool(spec: str) -> Tool | None:
    """The foreign verifier that `spec` names; None for one of ours.

    Raises:
        InputError: no such verifier, or what follows a prefix is no tool.
    """
    for prefix, make in OPEN.items():
        if spec.startswith(prefix):
            return make(spec.removeprefix(prefix))
    if spec in NATIVE:
        return None
    if spec not in FOREIGN:
        known = ", ".join([*NATIVE, *FOREIGN, "vnncomp:DIR", "command:TEMPLATE"])
        raise InputError(f"unknown verifier '{spec}': expected one of {known}")
    return FOREIGN[spec]


def split(text: str) -> tuple[str, ...]:
    """The verifiers in a list `a,b,…`; a `command:` or `vnncomp:` keeps its commas and stands alone."""
    if text.startswith(tuple(OPEN)):
        return (text,)
    return tuple(part.strip() for part in text.split(",") if part.strip())


def trusted(spec: str) -> bool:
    """Whether an `unsat` of the verifier counts by itself."""
    found = tool(spec)
    return found is None or found.trusted
