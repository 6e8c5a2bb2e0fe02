"""One query on its way up the ladder: what is known of it, what is left open, what it has cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.formats.query import Query
from secateur.pipeline.verify.bounding.root import NodeBounds
from secateur.pipeline.verify.bounding.specification import SubProblems, subproblems
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.region.fold import Folded
from secateur.pipeline.verify.replay import Witness
from secateur.pipeline.verify.results import LayerStability, Result
from secateur.pipeline.verify.search.problem import Progress

CLOSED = torch.finfo(torch.float64).tiny
"""The bound recorded where branch and bound closed every domain: some positive number."""


def never() -> bool:
    return False


class Deadline:
    """A moment on the clock, which comes at once when `stop` says so."""

    def __init__(self, seconds: float, stop: Callable[[], bool] = never) -> None:
        self.moment = time.perf_counter() + seconds
        self.stop = stop

    @property
    def left(self) -> float:
        return self.moment - time.perf_counter()

    def passed(self) -> bool:
        return self.left <= 0 or self.stop()

    def within(self, seconds: float) -> Deadline:
        """The moment `seconds` from now, or this one if that is earlier."""
        return Deadline(min(seconds, self.left), self.stop)


@dataclass(frozen=True)
class Root:
    """A network made ready for the search of one box.

    `nodes` are the bounds of the original's nodes, `inner` those of the nodes of `folded.graph` where that is not
    folded (see `embed`) and else None; `few`: it has so few inputs that the box is split instead of neurons;
    `filtered`: see `problem.Problem`.
    """

    nodes: NodeBounds
    folded: Folded
    inner: NodeBounds | None
    few: bool
    filtered: bool = False


@dataclass(frozen=True)
class Left:
    """A branch and bound that is not over: its region, the bounds of the original's nodes there, its progress.

    `effort`: the multiplications of the last refinement of these bounds (see `refine`).
    """

    region: int
    nodes: NodeBounds
    progress: Progress
    effort: float = 0.0


@dataclass
class Work:
    """One query while it climbs the ladder; it may use `timeout` seconds, all its `phases` together, unless `stop` says
    that it is over before.

    `bounds` (P,) are the best proven bounds of its sub-problems; `left` is the search that goes on next, and
    `begun` the network made ready for it where it has begun together with others; `earlier` are the seconds of the runs
    before, from where it goes on.
    """

    query: Query
    timeout: float
    phases: dict[str, float] = field(default_factory=dict)
    stop: Callable[[], bool] = never
    problems: SubProblems = field(init=False)
    bounds: Tensor = field(init=False)
    verdict: str = ""
    witness: Witness | None = None
    domains: int = 0
    layers: tuple[LayerStability, ...] | None = None
    left: Left | None = None
    begun: Root | None = None
    earlier: float = 0.0
    message: str = ""

    def __post_init__(self) -> None:
        self.problems = subproblems([self.query])
        self.bounds = torch.full((len(self.problems),), -math.inf, dtype=torch.float64)
        self.verdict = "" if len(self.problems) else "unsat"

    @property
    def seconds(self) -> float:
        """What it has cost so far; of batches that it shared, its share."""
        return sum(self.phases.values())

    @property
    def deadline(self) -> Deadline:
        """When its time is over."""
        return Deadline(self.timeout - self.seconds, self.stop)

    def open(self, region: int | None = None) -> Tensor:
        """Positions of the sub-problems (of a region) not yet refuted."""
        still = ~(self.bounds > 0)
        return torch.nonzero(still if region is None else still & (self.problems.region == region)).flatten()

    def improve(self, where: Tensor, bounds: Tensor) -> None:
        self.bounds[where] = torch.fmax(self.bounds[where], bounds)
        if not self.verdict and not len(self.open()):
            self.verdict = "unsat"

    def satisfied(self, witness: Witness | None) -> bool:
        """Take note of a witness, if there is one; whether there is."""
        if witness is not None:
            self.verdict, self.witness = "sat", witness
        return witness is not None

    def result(self) -> Result:
        bound = float(self.bounds.min()) if len(self.bounds) else math.inf
        return Result(
            self.verdict,
            self.witness,
            self.seconds,
            dict(self.phases),
            self.domains,
            None if not math.isfinite(bound) else 0.0 if bound == CLOSED else bound,
            self.layers,
            self.message,
        )


@contextmanager
def spent(phase: str, *works: Work) -> Iterator[None]:
    """The seconds within are a phase of `works`, in equal shares."""
    started = time.perf_counter()
    try:
        yield
    finally:
        share = (time.perf_counter() - started) / max(1, len(works))
        for work in works:
            work.phases[phase] = work.phases.get(phase, 0.0) + share


def layer_stability(graph: BoundGraph, nodes: NodeBounds) -> tuple[LayerStability, ...]:
    """Stable and unstable neurons of every ReLU layer on the first box of `nodes`."""
    layers = []
    for position, (low, high) in nodes.preactivations(graph).items():
        active = int((low[0] >= 0).sum())
        inactive = int(((high[0] <= 0) & (low[0] < 0)).sum())
        size = graph.nodes[position].size
        layers.append(
            LayerStability(graph.nodes[position].name, size, active, inactive, size - active - inactive)
        )
    return tuple(layers)


def joint_deadline(works: Sequence[Work], share: float = 1.0) -> Deadline:
    """When none of `works` has spent more than this share of what it has left, if each pays the same."""
    seconds = share * len(works) * min(work.timeout - work.seconds for work in works)
    return Deadline(seconds, lambda: any(work.stop() for work in works))


def parted(works: Sequence[tuple[Work, int]], most: int) -> Iterator[list[tuple[Work, int]]]:
    """Works, each with a region of its own, in parts of at most so many open sub-problems (or one work) which have
    about as much time left: a rung that a part pays in equal shares is then no shorter for one than by itself."""
    part: list[tuple[Work, int]] = []
    for pair in works:
        longer = [*part, pair]
        left = sorted(work.deadline.left for work, _ in longer)
        count = sum(len(work.open(region)) for work, region in longer)
        if part and (count > most or left[-1] > 2 * left[0]):
            yield part
            longer = [pair]
        part = longer
    if part:
        yield part


def joint(works: Sequence[Work], regions: Sequence[int] | None = None) -> tuple[SubProblems, Tensor]:
    """The open sub-problems (each of one region) of works without a verdict, in one, and which of its work's each is,
    (P,).

    Their owners are positions in `works`; the boxes are those of all works, in order.
    """
    problems = subproblems([work.query for work in works])
    own = [
        torch.zeros(0, dtype=torch.long)
        if work.verdict
        else work.open(None if regions is None else regions[i])
        for i, work in enumerate(works)
    ]
    starts = torch.searchsorted(problems.owner, torch.arange(len(works))).tolist()
    keep = torch.cat([start + where for start, where in zip(starts, own, strict=True)])
    return problems[keep], torch.cat(own)


def still_open(works: Sequence[Work]) -> list[Work]:
    """Those without a verdict."""
    return [work for work in works if not work.verdict]
