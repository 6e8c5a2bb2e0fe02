"""Branch and bound of one region: which kind of search, with what batches, on which rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.bounding.specification import SubProblems
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, gamma
from secateur.pipeline.verify.memory import for_domains, scaled
from secateur.pipeline.verify.pgd import inner_box, inside
from secateur.pipeline.verify.region import refine
from secateur.pipeline.verify.region.fold import Folded
from secateur.pipeline.verify.replay import Replay
from secateur.pipeline.verify.search import (
    conflict_split,
    cut_split,
    input_split,
    joined_boxes,
    joined_cuts,
    relu_split,
)
from secateur.pipeline.verify.search.joined import Member, search
from secateur.pipeline.verify.search.problem import Clauses, Problem, Progress
from secateur.pipeline.verify.search.work import CLOSED, Deadline, Root, Work, joint_deadline, spent
from secateur.pipeline.verify.store import Store

FIRST_SCHEDULE = Schedule(30)
"""How the root domains are bounded."""

SPLIT_SCHEDULE = Schedule(10)
"""How their parts are bounded."""

NEURON_SCHEDULE = Schedule(10, alpha_rate=0.1, beta_rate=0.05)
"""How they are where neurons are split: from where the ascent of the whole has ended, so with smaller steps."""

SPLIT_NUMBERS = 400_000
"""Domains × neurons of one batch, where neurons are split."""

SHARED_MULTIPLICATIONS = 2_000_000
"""Multiplications of a folded network up to which instances share batches on a CPU. The first hundred domains of each
of 16 (small networks for digits, 0.1 to 0.3 million) took 1.3 to 1.8 times less time together; 1.1 times with four of
4.5 million, 0.9 times with six of 9 million (oval21): these fill batches alone, and put each other out of the cache."""

ROW_BYTES = 6
"""What a stored domain takes a neuron."""

CUT_NUMBERS, LEAST_CUT = 200_000, 8
"""Domains × arguments of one batch, where arguments of other nonlinear nodes are split, and the fewest domains: with 3
of attention's 60,000 arguments each took nearly twice as long as with 8."""

SHARED_CUTS, LEAST_SHARED = 500, 32
"""Domains of an instance there, where several share batches; which they do where one batch takes so many at least."""

EASY, CONFLICT_SHARE = 3_000, 0.9
"""Where linear programs promise more: domains before them, and then their share of the time left."""

FEW_NEURONS = 64
"""Up to so many neurons left on a box of few inputs, neurons are split in turn with the box."""

FIRST_TURN, NEURON_TURN = 2_000, 8
"""Boxes of the first turn; a turn over the neurons has this many times fewer domains, which cost as many times more."""

CUT_SHARE = 0.4
"""The part of the time left for cutting arguments where the input has few dimensions too, before its box is split."""

SHARED_BOXES, MOST_INPUTS = 200, 8
"""Parts of an instance's box, where several instances share batches: after so many its own batches are full, of its own
and smaller network. And the inputs of the network for all of them."""

INPUT_BATCH, INPUT_NUMBERS = 256, 3_000_000
"""Domains of one batch, where inputs are split, and their numbers (of all nodes, for every input)."""


def branch(root: Root, work: Work, replay: Replay, deadline: Deadline, *, domains: int | None = None) -> None:
    """Search the region of `work.left` from where it stands until it is decided or time is over.

    With `domains` it ends after about so many, and does only what it can go on with later: by numbers, not by the
    clock, so that what is found does not depend on the machine. When the search is over `work.left` is None.
    """
    left = work.left
    assert left is not None
    where = work.open(left.region)
    before = left.progress.domains
    with spent("branch", work):
        outcome = _solve(root, work, work.problems[where], replay, deadline, domains)
    work.domains += left.progress.domains - before
    _conclude(work, where, outcome)


def branch_together(
    roots: Sequence[tuple[Root, Work]], graph: BoundGraph, replay: Replay, *, domains: int
) -> None:
    """`branch`, for a number of domains, of several instances of one network, `graph`. Those that can (see `shares`)
    share batches (the parts of boxes for fewer domains); of the others those begin whose neurons are split."""
    for group in _groups(roots, graph):
        root, work = group[0]
        if len(group) > 1:
            _branch_joined(group, graph, replay, joint_deadline([each for _, each in group]), domains)
        elif root.inner is None and not root.few:
            branch(root, work, replay, work.deadline, domains=domains)


def _groups(roots: Sequence[tuple[Root, Work]], graph: BoundGraph) -> list[list[tuple[Root, Work]]]:
    """Those that share batches, in order."""
    boxes: list[tuple[Root, Work]] = []
    cuts: list[tuple[Root, Work]] = []
    groups: dict[object, list[tuple[Root, Work]]] = {}
    for root, work in roots:
        joins = shares(root) and not work.deadline.passed()
        if root.inner is not None:
            cuts += [(root, work)] if joins else []
        elif not root.few:
            groups.setdefault("shared" if joins else id(work), []).append((root, work))
        elif joins:
            boxes.append((root, work))
    by_boxes = joined_boxes.groups(graph, [root.nodes for root, _ in boxes], MOST_INPUTS)
    by_cuts = joined_cuts.groups([root.nodes for root, _ in cuts])
    return [
        *([boxes[i] for i in group] for group in by_boxes),
        *([cuts[i] for i in group] for group in by_cuts),
        *groups.values(),
    ]


def shares(root: Root) -> bool:
    """Whether its domains gain by sharing batches with those of other instances (but for small ones, whose neurons'
    bounds are tightened domain by domain)."""
    folded = root.folded
    if root.few:
        return root.inner is None
    if root.inner is not None:
        return cuts_together(folded.graph)
    small = (
        folded.inputs.device.type != "cpu" or refine.multiplications(folded.graph) <= SHARED_MULTIPLICATIONS
    )
    return bool(folded.neurons) and small and not relu_split.tightens(folded)


def cuts_together(graph: BoundGraph) -> bool:
    """Whether a batch has room for domains of several instances of a network whose arguments are cut."""
    return _cuts(sum(cut_split.argument_sizes(graph).values())) >= LEAST_SHARED


def held(root: Root) -> int:
    """How many bytes its folded network takes while its domains share batches, in all its copies."""
    graph, stacked = root.folded.graph, root.folded.inputs.device.type != "cpu"
    return graph.bytes * 2 + (12 * refine.multiplications(graph) if stacked else 0)


def _branch_joined(
    group: Sequence[tuple[Root, Work]],
    graph: BoundGraph,
    replay: Replay,
    deadline: Deadline,
    domains: int,
) -> None:
    works = [work for _, work in group]
    wheres: list[Tensor] = []
    members: list[Member] = []
    with spent("branch", *works):
        for root, work in group:
            assert work.left is not None
            wheres.append(work.open(work.left.region))
            problems = work.problems[wheres[-1]]
            problem = Problem(*specification(problems, root.folded), root.folded, filtered=root.filtered)
            judge = _judge(root, work, problems, replay)
            members.append(Member(problem, work.left.progress, judge))
        before = [member.progress.domains for member in members]
        if group[0][0].few:
            nodes = [root.nodes for root, _ in group]
            joined_boxes.search(
                members, graph, nodes, batch=_boxes, most=SHARED_BOXES, expired=deadline.passed
            )
        elif group[0][0].inner is not None:
            nodes = [root.nodes for root, _ in group]
            joined_cuts.search(
                members,
                graph,
                nodes,
                first=FIRST_SCHEDULE,
                schedule=SPLIT_SCHEDULE,
                batch=_cuts,
                most=SHARED_CUTS,
                expired=deadline.passed,
            )
        else:
            neurons = _neurons(members)
            limit = for_domains()
            room = domains if limit is None else limit // (2 * len(group) * ROW_BYTES * neurons)
            search(
                members,
                first=FIRST_SCHEDULE,
                schedule=NEURON_SCHEDULE,
                batch=batch_of(neurons),
                most=max(1, min(domains, room)),
                expired=deadline.passed,
            )
    for member, work, where, already in zip(members, works, wheres, before, strict=True):
        work.domains += member.progress.domains - already
        _conclude(work, where, member.outcome)


def _neurons(members: Sequence[Member]) -> int:
    """Of the network that they are joined to."""
    widest: dict[int, int] = {}
    for member in members:
        for layer, kept in member.problem.folded.neurons.values():
            widest[layer] = max(len(kept), widest.get(layer, 0))
    return sum(widest.values())


def _conclude(work: Work, where: Tensor, outcome: str) -> None:
    """Take note of the outcome of a search of the sub-problems `where`."""
    left = work.left
    assert left is not None
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
    suspect = _judge(root, work, problems, replay)
    clauses = Clauses(rows, direct, constant)
    if root.inner is not None and not (root.few and (folded.graph.piecewise_linear or progress.open)):
        search = cut_split.Search(folded, root.inner, clauses)
        # Where the input has few dimensions this is a try, with which nothing goes on later: see below.
        limit = deadline.within(CUT_SHARE * deadline.left) if root.few else deadline
        trial = Progress(store=Store(progress.store.limit)) if root.few else progress
        outcome = search.run(
            first=FIRST_SCHEDULE,
            schedule=SPLIT_SCHEDULE,
            batch=_cuts(search.arguments.lower.shape[1]),
            expired=limit.passed,
            suspect=suspect,
            progress=trial,
        )
        if outcome != "unknown" or not root.few:
            work.domains += trial.domains if root.few else 0
            return outcome
    if root.few:
        split = partial(
            input_split.solve,
            folded,
            clauses,
            batch=_boxes(folded.graph),
            suspect=suspect,
            progress=progress,
        )
        if not 0 < sum(len(kept) for _, kept in folded.neurons.values()) <= FEW_NEURONS:
            return split(expired=deadline.passed)
        return _in_turns(
            split,
            Problem(rows, direct, constant, folded, filtered=root.filtered),
            suspect,
            progress,
            deadline,
        )
    return _split_neurons(
        Problem(rows, direct, constant, folded, filtered=root.filtered), suspect, progress, deadline, domains
    )


def _judge(root: Root, work: Work, problems: SubProblems, replay: Replay) -> Callable[[Tensor, int], bool]:
    """Whether an input of the folded network is a witness; if so the work has its verdict."""
    inner = inner_box(problems)[0]
    inputs = root.folded.inputs.cpu()

    def suspect(x: Tensor, clause: int) -> bool:
        point = inner.lower.clone()
        point[inputs] = x.cpu().double()
        return work.satisfied(replay.check(work.query, inside(point, inner).numpy()))

    return suspect


def batch_of(neurons: int) -> int:
    """How many domains of so many neurons one batch takes."""
    return max(scaled(16), min(4096, scaled(SPLIT_NUMBERS) // max(1, neurons)))


def _cuts(arguments: int) -> int:
    """How many domains one batch takes, where so many arguments may be cut."""
    return max(scaled(LEAST_CUT), min(1024, scaled(CUT_NUMBERS) // max(1, arguments)))


def _boxes(graph: BoundGraph) -> int:
    """How many parts of an input box one batch takes."""
    numbers = (graph.input.size + 1) * sum(node.size for node in graph.nodes)
    return max(1, min(INPUT_BATCH, scaled(INPUT_NUMBERS) // numbers))


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
        batch=batch_of(problem.layout.total),
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


def _in_turns(
    split_inputs: Callable[..., str],
    problem: Problem,
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
    deadline: Deadline,
) -> str:
    """Branch and bound over the inputs and over the neurons in turns, each twice as long as the last.

    Where little is lacking on most of the box (the difference of two networks that are nearly the same), boxes would
    have to be tiny; neurons that are few have few sets of signs. Which it is shows only in the search.
    """
    limit = progress.store.limit
    other = progress.neurons or Progress(store=Store(None if limit is None else limit // 2))
    progress.neurons = other
    turn = FIRST_TURN

    def ended(progress: Progress, most: int) -> Callable[[], bool]:
        most += progress.domains
        return lambda: progress.domains >= most or deadline.passed()

    while True:
        if len(progress.store) or progress.parts or not progress.domains:
            outcome = split_inputs(expired=ended(progress, turn))
            if outcome != "unknown":
                return outcome
        if other.undecided and not other.open:  # neurons alone cannot decide it
            return split_inputs(expired=deadline.passed) if progress.store or progress.parts else "unknown"
        before = other.domains
        outcome = relu_split.solve(
            problem,
            first=FIRST_SCHEDULE,
            schedule=NEURON_SCHEDULE,
            batch=batch_of(problem.layout.total),
            expired=ended(other, turn // NEURON_TURN),
            suspect=suspect,
            progress=other,
        )
        progress.domains += other.domains - before
        if outcome != "unknown":
            return outcome
        progress.bound = max(progress.bound, other.bound)
        if deadline.passed():
            return "unknown"
        turn *= 2


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
