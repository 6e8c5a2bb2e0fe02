"""What verification says of a query."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.pipeline.verify.replay import Witness


@dataclass(frozen=True)
class LayerStability:
    """How many of a layer's ReLUs are surely active, surely inactive, or unstable on a box."""

    name: str
    neurons: int
    active: int
    inactive: int
    unstable: int


@dataclass(frozen=True)
class Result:
    """What was decided of one query.

    `verdict` is "sat" (with a witness), "unsat", "timeout" or "unknown". `bound` is the least, over all sub-problems,
    of the proven lower bounds of the violation: above 0 for "unsat" (0 itself where branch and bound closed every
    domain), None when nothing was bounded. `layers` are those of the first region's box at the root; `phases` the
    seconds of each rung; `replay` says how the witness of a foreign verifier held ("strict", or "tolerant": see
    `dispatch.judge`); `domains` how many sub-problems branch and bound looked at.
    """

    verdict: str
    witness: Witness | None
    seconds: float
    phases: dict[str, float]
    domains: int
    bound: float | None
    layers: tuple[LayerStability, ...] | None
    message: str = ""
    replay: str = ""
