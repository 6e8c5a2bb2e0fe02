"""Branch and bound of one region: which kind of search, with what batches, on which rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.bounding.root import NodeBounds
from secateur.pipeline.verify.bounding.specification import SubProblems
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, gamma
from secateur.pipeline.verify.memory import scaled
from secateur.pipeline.verify.pgd import inner_box, inside
from secateur.pipeline.verify.region import refine
from secateur.pipeline.verify.region.fold import Folded
from secateur.pipeline.verify.replay import Replay
from secateur.pipeline.verify.search import conflict_split, cut_split, input_split, relu_split
from secateur.pipeline.verify.search.problem import Clauses, Problem, Progress
from secateur.pipeline.verify.search.work import CLOSED, Deadline, Work, spent
from secateur.pipeline.verify.store import Store

FIRST_SCHEDULE = Schedule(30)
"""How the root domains are bounded."""

SPLIT_SCHEDULE = Schedule(10)
"""How their parts are bounded."""

NEURON_SCHEDULE = Schedule(10, alpha_rate=0.1, beta_rate=0.05)
"""How they are where neurons are split: from where the ascent of the whole has ended, so with smaller steps."""

SPLIT_NUMBERS = 400_000
"""Domains × neurons of one batch, where neurons are split."""

CUT_NUMBERS = 200_000
"""Domains × arguments of one batch, where arguments of other nonlinear nodes are split."""

EASY, CONFLICT_SHARE = 3_000, 0.9
"""Where linear programs promise more: domains before them, and then their share of the time left."""

CUT_SHARE = 0.4
"""The part of the time left for cutting arguments where the input has few dimensions too, before its box is split."""

INPUT_BATCH, INPUT_NUMBERS = 256, 3_000_000
"""Domains of one batch, where inputs are split, and their numbers (of all nodes, for every input)."""


@dataclass(frozen=True)
class Root:
    """A network made ready for the search of one box.

    `nodes` are the bounds of the original's nodes, `inner` those of the nodes of `folded.graph` where that is not
    folded (see `embed`) and else None; `few`: it has so few inputs that the box is split instead of neurons.
    """

    nodes: NodeBounds
    folded: Folded
    inner: NodeBounds | None
    few: bool


def branch(root: Root, work: Work, replay: Replay, deadline: Deadline, *, domains: int | None = None) -> None:
    """Search the region of `work.left` from where it stands until it is decided or time is over.

    With `domains` it ends after about so many, and does only what it can go on with later: by numbers, not by the
    clock, so that what is found does not depend on the machine. When the search is over `work.left` is None.
    """
    left = work.left
    assert left is not None
    where = work.open(left.region)
    problems = work.problems[where]
    before = left.progress.domains
    with spent("branch", work):
        outcome = _solve(root, work, problems, replay, deadline, domains)
    work.domains += left.progress.domains - before
    if outcome == "unsat":
        work.improve(where, torch.full((len(where),), CLOSED, dtype=torch.float64))
    elif outcome == "unknown":
        bound = min(left.progress.bound, 0.0)
        work.improve(where, torch.full((len(where),), bound, dtype=torch.float64))
        if left.progress.open or not left.progress.undecided:
            return
        work.message = "some leaves could be decided neither way"
    work.left = None


def _solve(
    root: Root, work: Work, problems: SubProblems, replay: Replay, deadline: Deadline, domains: int | None
) -> str:
    assert work.left is not None
    folded, progress = root.folded, work.left.progress
    rows, direct, constant = specification(problems, folded)
    inner = inner_box(problems)[0]
    inputs = folded.inputs.cpu()

    def suspect(x: Tensor, clause: int) -> bool:
        point = inner.lower.clone()
        point[inputs] = x.cpu().double()
        return work.satisfied(replay.check(work.query, inside(point, inner).numpy()))

    clauses = Clauses(rows, direct, constant)
    if root.inner is not None and not (root.few and (folded.graph.piecewise_linear or progress.open)):
        search = cut_split.Search(folded, root.inner, clauses)
        # Where the input has few dimensions this is a try, with which nothing goes on later: see below.
        limit = deadline.within(CUT_SHARE * deadline.left) if root.few else deadline
        trial = Progress(store=Store(progress.store.limit)) if root.few else progress
        outcome = search.run(
            first=FIRST_SCHEDULE,
            schedule=SPLIT_SCHEDULE,
            batch=max(2, min(1024, scaled(CUT_NUMBERS) // len(search.arguments.lower))),
            expired=limit.passed,
            suspect=suspect,
            progress=trial,
        )
        if outcome != "unknown" or not root.few:
            work.domains += trial.domains if root.few else 0
            return outcome
    if root.few:
        numbers = (len(inputs) + 1) * sum(node.size for node in folded.graph.nodes)
        return input_split.solve(
            folded,
            clauses,
            batch=max(1, min(INPUT_BATCH, scaled(INPUT_NUMBERS) // numbers)),
            expired=deadline.passed,
            suspect=suspect,
            progress=progress,
        )
    return _split_neurons(Problem(rows, direct, constant, folded), suspect, progress, deadline, domains)


def _split_neurons(
    problem: Problem,
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
    deadline: Deadline,
    domains: int | None,
) -> str:
    """Branch and bound in batches; for a part of the time by linear programs, where those promise more."""
    split = partial(
        relu_split.solve,
        problem,
        first=FIRST_SCHEDULE,
        schedule=NEURON_SCHEDULE,
        batch=max(scaled(16), min(4096, scaled(SPLIT_NUMBERS) // max(1, problem.layout.total))),
        suspect=suspect,
        progress=progress,
    )

    def ended(most: int) -> Callable[[], bool]:
        most += progress.domains
        return lambda: progress.domains >= most or deadline.passed()

    if domains is not None:
        return split(expired=ended(domains))
    if not conflict_split.suits(problem.folded):
        return split(expired=deadline.passed)
    # Where conflicts are known, an earlier run has been here.
    outcome = "unknown" if progress.conflicts else split(expired=ended(EASY))
    if outcome == "unknown" and not progress.undecided:
        limit = deadline.within(CONFLICT_SHARE * deadline.left)
        outcome = conflict_split.solve(problem, expired=limit.passed, suspect=suspect, progress=progress)
    return split(expired=deadline.passed) if outcome == "unknown" else outcome


def refinable(root: Root) -> bool:
    """Whether its neurons are split, in batches: then tighter bounds of them help (see `refine`)."""
    return root.inner is None and not root.few and not conflict_split.suits(root.folded)


def cost(graph: BoundGraph) -> int:
    """About how many multiplications a domain's bound takes: in every step there and back through all maps."""
    return 2 * (NEURON_SCHEDULE.iterations + 1) * refine.multiplications(graph)


def specification(problems: SubProblems, folded: Folded) -> tuple[Tensor, Tensor | None, Tensor]:
    """Rows (P, S, n_out), direct rows (P, S, inputs left) or None and constants (P, S) on the folded network."""
    device = folded.inputs.device
    rows, constant = problems.outputs.to(device), problems.constant.to(device)
    if problems.inputs is None:
        return rows, None, constant
    # Inputs of zero width are not in the folded box: their terms become constant, rounded down.
    direct = problems.inputs.to(device)
    fixed = problems.box().lower[0].to(device, copy=True)
    fixed[folded.inputs] = 0.0
    terms = direct * fixed
    constant = constant + terms.sum(2) - gamma(len(fixed) + 8, fixed) * terms.abs().sum(2)
    return rows, direct[:, :, folded.inputs], constant
