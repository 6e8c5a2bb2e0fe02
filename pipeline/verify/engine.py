"""The ladder: attack, CROWN, α-CROWN, branch and bound, each rung on what is still open.

The first rungs treat a group of queries of one network in one batch; the search then takes the open ones in turn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline.verify import conflict_split, cut_split, input_split, relu_split
from secateur.pipeline.verify.crown import Box, backward
from secateur.pipeline.verify.embed import embed
from secateur.pipeline.verify.fold import Folded, fold_and_bound, free_inputs
from secateur.pipeline.verify.graph import BoundGraph, gamma
from secateur.pipeline.verify.lowering import lower
from secateur.pipeline.verify.operations import Convolution, Deconvolution
from secateur.pipeline.verify.optimise import optimise
from secateur.pipeline.verify.pgd import Effort, attack, inner_box, inside
from secateur.pipeline.verify.problem import Clauses, Problem, Progress
from secateur.pipeline.verify.relaxation import Multipliers, Schedule
from secateur.pipeline.verify.replay import Replay, Witness
from secateur.pipeline.verify.results import LayerStability, Result
from secateur.pipeline.verify.root import NodeBounds, bound_nodes, magnitudes
from secateur.pipeline.verify.specification import SubProblems, check_fits, subproblems

FEW_INPUTS = 8
"""Up to so many inputs of positive width the input box is split instead of the neurons."""

GROUP = 16
"""How many queries of one network share the batches of the first rungs."""

QUICK = Effort(restarts=8, steps=20)
THOROUGH = Effort(restarts=24, steps=60)
ROOT_SCHEDULE = Schedule(10)
OUTPUT_SCHEDULE = Schedule(30)
SPLIT_SCHEDULE = Schedule(10)
SPLIT_NUMBERS = 400_000
"""Domains × neurons of one branch-and-bound batch, where neurons are split."""

CUT_NUMBERS = 200_000
"""Domains × arguments of one batch, where arguments of other nonlinear nodes are split."""

EASY_SHARE, CONFLICT_SHARE = 0.02, 0.9
"""Where linear programs promise more: shares of the time left for the batches before them, and then for them."""

INPUT_BATCH = 256
"""Domains of one batch, where inputs are split."""


class Deadline:
    """A moment on the clock."""

    def __init__(self, seconds: float) -> None:
        self.moment = time.perf_counter() + seconds

    @property
    def left(self) -> float:
        return self.moment - time.perf_counter()

    def passed(self) -> bool:
        return self.left <= 0


@dataclass
class Work:
    """One query while it climbs the ladder; `bounds` (P,) are the best proven bounds of its sub-problems."""

    query: Query
    problems: SubProblems
    bounds: Tensor
    verdict: str = ""
    witness: Witness | None = None
    phases: dict[str, float] = field(default_factory=dict)
    domains: int = 0
    layers: tuple[LayerStability, ...] | None = None
    message: str = ""

    def open(self, region: int | None = None) -> Tensor:
        """Positions of the sub-problems (of a region) not yet refuted."""
        still = ~(self.bounds > 0)
        return torch.nonzero(still if region is None else still & (self.problems.region == region)).flatten()

    def improve(self, where: Tensor, bounds: Tensor) -> None:
        self.bounds[where] = torch.fmax(self.bounds[where], bounds)
        if not len(self.open()):
            self.verdict = "unsat"

    def spend(self, phase: str, seconds: float) -> None:
        self.phases[phase] = self.phases.get(phase, 0.0) + seconds


class Engine:
    """One network, ready for queries: lowered once, its fast copy and its onnxruntime session kept."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        started = time.perf_counter()
        self.model = model
        self.device = torch.device(device)
        self.graph: BoundGraph = lower(model).to(torch.float64, device)
        self.fast = self.graph.to(torch.float32, device)
        # Convolutions are bounded where they are folded, each instance for itself (see `fold.fold_and_bound`).
        self.convolutional = any(
            isinstance(n.operation, Convolution | Deconvolution) for n in self.graph.nodes
        )
        self.replay = Replay(model)
        self.build_seconds = time.perf_counter() - started

    def verify(self, queries: Sequence[Query], *, timeout: float, seed: int = 0) -> Iterator[Result]:
        """Decide queries, in order; each may use `timeout` seconds.

        Raises:
            InputError: a query is about a network of another size.
        """
        for query in queries:
            self.check_fits(query)
        for first in range(0, len(queries), GROUP):
            yield from self._group(queries[first : first + GROUP], timeout, seed)

    def check_fits(self, query: Query) -> None:
        """Raises InputError when the query is about a network of another size."""
        outputs = self.graph.nodes[self.graph.output].size
        check_fits(query, self.graph.input.size, outputs, self.model.name)

    def shaped(self, box: Box) -> Box:
        """Flat boxes (B, n_in) in the shape of the network's input, on the engine's device."""
        shape = (-1, *self.graph.input.shape)
        return Box(*(side.to(self.device).reshape(shape) for side in (box.lower, box.upper)))

    def specification(
        self, problems: SubProblems, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Rows (P, S, *output shape), direct rows (P, S, *input shape) or None, and constants (P, S)."""
        rows = problems.outputs.to(self.device, dtype).unflatten(2, self.graph.nodes[self.graph.output].shape)
        direct = problems.inputs
        if direct is not None:
            direct = direct.to(self.device, dtype).unflatten(2, self.graph.input.shape)
        return rows, direct, problems.constant.clamp(min=torch.finfo(dtype).min / 4).to(self.device, dtype)

    def clause_bounds(
        self, problems: SubProblems, nodes: NodeBounds, schedule: Schedule | None
    ) -> tuple[Tensor, Tensor]:
        """Rigorous bounds (P,) of clauses, the best of their rows, and the inputs (P, n_in) that minimise those.

        `nodes` are the bounds on each one's box (B = P). With a schedule, slopes are optimised in float32 first.
        """
        multipliers: Multipliers | None = None
        if schedule is not None:
            rows, direct, constant = self.specification(problems, torch.float32)
            multipliers = optimise(
                self.fast,
                nodes.relaxations(self.graph, torch.float32),
                nodes.box.to(torch.float32),
                self.graph.output,
                rows,
                schedule,
                direct=direct,
                constant=constant,
                stop_above=0.0,
            ).multipliers
        rows, direct, constant = self.specification(problems, torch.float64)
        exact = None if multipliers is None else {p: m.double() for p, m in multipliers.items()}
        linear = backward(
            self.graph,
            nodes.relaxations(self.graph),
            self.graph.output,
            rows,
            exact,
            direct=direct,
            magnitudes=magnitudes(self.graph, nodes),
        )
        bound = linear.minimum(nodes.box) + constant
        bound = bound - gamma(8, bound) * (bound.abs() + constant.abs())
        best, row = bound.max(1)
        x = linear.minimiser(nodes.box)[torch.arange(len(row), device=row.device), row]
        return best.cpu(), x.flatten(1).cpu()

    def output_bounds(self, nodes: NodeBounds, *, linear: bool) -> tuple[Tensor, Tensor]:
        """Bounds (n_out,) of the outputs on the first box: intervals, tightened by CROWN when `linear`."""
        output = self.graph.output
        low, high = (side[:1].flatten().cpu() for side in nodes.values[output])
        if linear:
            size, shape = self.graph.nodes[output].size, self.graph.nodes[output].shape
            identity = torch.eye(size, dtype=torch.float64, device=self.device)
            rows = torch.cat([identity, -identity]).unflatten(1, shape).unsqueeze(0)
            first = nodes[torch.zeros(1, dtype=torch.long, device=self.device)]
            coarse = magnitudes(self.graph, first)
            bound = backward(self.graph, first.relaxations(self.graph), output, rows, magnitudes=coarse)
            lower, upper = bound.minimum(first.box)[0].cpu().split(size)
            low, high = torch.fmax(low, lower), torch.fmin(high, -upper)
        return low, high

    def interval_clause_bounds(self, problems: SubProblems, lower: Tensor, upper: Tensor) -> Tensor:
        """Bounds (P,) of clauses from bounds (n_out,) of the outputs alone, and the boxes of the inputs."""
        total = problems.constant
        magnitude = problems.constant.abs()
        boxes = problems.box()
        pairs = [(problems.outputs, lower, upper)]
        if problems.inputs is not None:
            pairs.append((problems.inputs, boxes.lower.unsqueeze(1), boxes.upper.unsqueeze(1)))
        for coefficient, low, high in pairs:
            positive, negative = coefficient.clamp(min=0), coefficient.clamp(max=0)
            total = total + (positive * low + negative * high).sum(2)
            magnitude = magnitude + (coefficient.abs() * torch.maximum(low.abs(), high.abs())).sum(2)
        terms = problems.outputs.shape[2] + boxes.lower.shape[1] + 8
        return (total - gamma(terms, total) * magnitude).amax(1)

    def _group(self, queries: Sequence[Query], timeout: float, seed: int) -> Iterator[Result]:
        works = []
        for query in queries:
            problems = subproblems([query])
            bounds = torch.full((len(problems),), -math.inf, dtype=torch.float64)
            works.append(Work(query, problems, bounds, verdict="" if len(problems) else "unsat"))
        started = time.perf_counter()
        shared = Deadline(timeout * len(works))
        for work in works:
            self._attack(work, work.open(), QUICK, seed, shared)
        live = [work for work in works if not work.verdict]
        if live and not self.convolutional:
            self._crown(live, shared)
        share = (time.perf_counter() - started) / len(works)
        for work in works:
            work.spend("batch", share - work.phases.get("attack", 0.0) if len(works) == 1 else share)
            deadline = Deadline(timeout - share)
            for region in work.problems.region.unique().tolist():
                if not work.verdict and not deadline.passed() and len(work.open(region)):
                    self._search(work, region, deadline, seed)
            if not work.verdict:
                work.verdict = "timeout" if deadline.passed() else "unknown"
            bound = float(work.bounds.min()) if len(work.bounds) else math.inf
            yield Result(
                work.verdict,
                work.witness,
                self.build_seconds + timeout - deadline.left,
                {"build": self.build_seconds, **work.phases},
                work.domains,
                None if not math.isfinite(bound) else 0.0 if bound == CLOSED else bound,
                work.layers,
                work.message,
            )

    def _attack(self, work: Work, where: Tensor, effort: Effort, seed: int, deadline: Deadline) -> None:
        if work.verdict or not len(where):
            return
        started = time.perf_counter()
        found = attack(
            self.fast,
            work.problems[where],
            [work.query],
            self.replay,
            seed=seed,
            effort=effort,
            expired=deadline.passed,
        )
        if found:
            work.verdict, work.witness = "sat", found[0]
        work.spend("attack", time.perf_counter() - started)

    def _crown(self, works: list[Work], deadline: Deadline) -> None:
        """CROWN bounds of all nodes on all boxes in one batch, then of every clause, without and with α."""
        counts = [len(work.problems.boxes.lower) for work in works]
        boxes = Box(
            torch.cat([work.problems.boxes.lower for work in works]),
            torch.cat([work.problems.boxes.upper for work in works]),
        )
        nodes = bound_nodes(self.graph, self.shaped(boxes), "crown", expired=deadline.passed)
        first = 0
        for work, count in zip(works, counts, strict=True):
            mine = nodes[torch.arange(first, first + count, device=self.device)]
            work.layers = layer_stability(self.graph, mine)
            first += count
            for schedule in (None, OUTPUT_SCHEDULE):
                where = work.open()
                if len(where) and not work.verdict:
                    problems = work.problems[where]
                    bounds, x = self.clause_bounds(problems, mine[problems.region.to(self.device)], schedule)
                    work.improve(where, bounds)
                    self._suspect(work, where, x)

    def _suspect(self, work: Work, where: Tensor, x: Tensor) -> None:
        """Replay the minimisers x (P', n_in) of the clauses `where` that may satisfy them."""
        if work.verdict:
            return
        problems = work.problems[where]
        inner = inner_box(problems)
        x = inside(x, inner)
        y = self.graph.forward(x.to(self.device).view(-1, *self.graph.input.shape)).flatten(1).cpu()
        for i in torch.nonzero(problems.values(x, y).amax(1) <= 0).flatten().tolist():
            witness = self.replay.check(work.query, x[i].numpy())
            if witness is not None:
                work.verdict, work.witness = "sat", witness
                return

    def _search(self, work: Work, region: int, deadline: Deadline, seed: int) -> None:
        """Tighter bounds on a folded network, a longer attack, and branch and bound, on one region."""
        box = self.shaped(work.problems.boxes[torch.tensor([region])])
        few = len(free_inputs(box)) <= FEW_INPUTS
        started = time.perf_counter()
        schedule = None if few else ROOT_SCHEDULE
        if self.graph.piecewise_linear:
            folded, nodes = fold_and_bound(self.graph, box, schedule, deadline.passed)
            inner = None
        else:
            method = "crown" if few else "alpha-crown"
            nodes = bound_nodes(
                self.graph, box, method, search=self.fast, schedule=schedule, expired=deadline.passed
            )
            folded, inner = embed(self.graph, nodes)
        if region == 0:
            work.layers = layer_stability(self.graph, nodes)
        work.spend("bounds", time.perf_counter() - started)
        self._attack(work, work.open(region), THOROUGH, seed + 1, Deadline(0.05 * deadline.left))
        if not work.verdict and len(work.open(region)):
            started = time.perf_counter()
            self._branch(work, region, folded, inner, few, deadline)
            work.spend("search", time.perf_counter() - started)

    def _branch(
        self,
        work: Work,
        region: int,
        folded: Folded,
        nodes: NodeBounds | None,
        few: bool,
        deadline: Deadline,
    ) -> None:
        """Branch and bound; `nodes` are the bounds of a network that is not folded (see `embed`)."""
        where = work.open(region)
        problems = work.problems[where]
        rows, direct, constant = self.specification(problems, torch.float64)
        rows = rows.flatten(2)
        flat = problems.boxes[region]
        if direct is not None:
            # Inputs of zero width are not in the folded box: their terms become constant, rounded down.
            fixed = flat.lower.to(self.device).clone()
            fixed[folded.inputs] = 0.0
            terms = direct.flatten(2) * fixed
            constant = constant + terms.sum(2) - gamma(len(fixed) + 8, fixed) * terms.abs().sum(2)
            direct = direct.flatten(2)[:, :, folded.inputs]
        inner = inner_box(problems)[0]
        inputs = folded.inputs.cpu()

        def suspect(x: Tensor, clause: int) -> bool:
            point = inner.lower.clone()
            point[inputs] = x.cpu().double()
            witness = self.replay.check(work.query, inside(point, inner).numpy())
            if witness is not None:
                work.verdict, work.witness = "sat", witness
            return witness is not None

        progress = Progress()
        if few:
            outcome = input_split.solve(
                folded,
                Clauses(rows, direct, constant),
                batch=INPUT_BATCH,
                expired=deadline.passed,
                suspect=suspect,
                progress=progress,
            )
        elif nodes is not None:
            clauses = Clauses(rows, direct, constant)
            search = cut_split.Search(folded, nodes, clauses)
            batch = max(2, min(1024, CUT_NUMBERS // len(search.arguments.lower)))
            outcome = search.run(
                first=OUTPUT_SCHEDULE,
                schedule=SPLIT_SCHEDULE,
                batch=batch,
                expired=deadline.passed,
                suspect=suspect,
                progress=progress,
            )
        else:
            problem = Problem(rows, direct, constant, folded)
            outcome = self._split_neurons(problem, suspect, progress, deadline)
        work.domains += progress.domains
        if outcome == "unsat":
            work.improve(where, torch.full((len(where),), CLOSED, dtype=torch.float64))
        elif outcome == "unknown":
            work.improve(where, torch.full((len(where),), min(progress.bound, 0.0), dtype=torch.float64))
            work.message = "" if deadline.passed() else "some leaves could be decided neither way"

    def _split_neurons(
        self, problem: Problem, suspect: Callable[[Tensor, int], bool], progress: Progress, deadline: Deadline
    ) -> str:
        """Branch and bound in batches; for a part of the time by linear programs, where those promise more."""
        split = partial(
            relu_split.solve,
            problem,
            first=OUTPUT_SCHEDULE,
            schedule=SPLIT_SCHEDULE,
            batch=max(16, min(4096, SPLIT_NUMBERS // max(1, problem.layout.total))),
            suspect=suspect,
            progress=progress,
        )
        if not conflict_split.suits(problem):
            return split(expired=deadline.passed)
        outcome = split(expired=Deadline(EASY_SHARE * deadline.left).passed)
        if outcome == "unknown" and not progress.undecided:
            limit = Deadline(CONFLICT_SHARE * deadline.left)
            outcome = conflict_split.solve(problem, expired=limit.passed, suspect=suspect, progress=progress)
        return split(expired=deadline.passed) if outcome == "unknown" else outcome


CLOSED = torch.finfo(torch.float64).tiny
"""The bound recorded where branch and bound closed every domain: some positive number."""


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
