"""Branch and bound over ReLU splits on a folded network (β-CROWN).

A domain is a sub-problem's clause with some neurons' signs fixed. Domains of all clauses of an instance share batches.
Search runs in the fast number type; a domain counts as closed only when its bound, evaluated again in float64 with
rounding errors taken off, is still positive. A domain in which no neuron is left to split goes to an exact LP.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from secateur.pipeline.verify import leaf
from secateur.pipeline.verify.branching import neuron_to_split
from secateur.pipeline.verify.optimise import optimise
from secateur.pipeline.verify.problem import Problem, Progress
from secateur.pipeline.verify.relaxation import Schedule
from secateur.pipeline.verify.specification import NEVER
from secateur.pipeline.verify.store import Store

CERTIFIED_AT_END = 20_000
"""When time is over, the bounds of at most so many open domains are made rigorous, for the result's bound."""


def solve(
    problem: Problem,
    *,
    first: Schedule,
    schedule: Schedule,
    batch: int,
    expired: Callable[[], bool],
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> str:
    """Search all clauses of `problem`; returns "unsat", "sat" (when `suspect` accepted a point) or "unknown".

    The root domains are bounded with the schedule `first`, their children with `schedule`. `suspect(x, clause)` is
    called with input points (inputs left, float64) that may satisfy a clause; it returns True when one is a witness.
    "unknown" means that time is over or that a leaf could be decided neither way; `progress.bound` is then the least
    bound still open. What is open then stays in `progress.store`, from which a search of the same problem goes on.
    """
    count = len(problem.constant)
    store = progress.store
    device = problem.rows.device
    clause = torch.arange(count, device=device)
    signs = torch.zeros(count, problem.layout.total, dtype=torch.int8, device=device)
    if not problem.layout.sizes:  # affine on this box: every clause is a leaf
        verdicts = {leaf.close(problem, i, signs[i], suspect) for i in range(count)}
        return "sat" if "sat" in verdicts else "unsat" if verdicts <= {"unsat"} else "unknown"
    if not len(store) and _bounded(
        problem, clause, signs, None, problem.weights(), first, expired, suspect, progress
    ):
        return "sat"
    while len(store) and not expired():
        picked = store.take(batch)
        leaves = picked["neuron"] < 0
        if leaves.any():
            rows = {name: values[leaves] for name, values in picked.items()}
            if _close_leaves(problem, rows, expired, suspect, progress):
                return "sat"
            picked = {name: values[~leaves] for name, values in picked.items()}
            if leaves.all():
                continue
        clause = picked["clause"].repeat_interleave(2)
        signs = picked["signs"].repeat_interleave(2, 0)
        warm = picked["multipliers"].repeat_interleave(2, 0)
        neuron = picked["neuron"].repeat_interleave(2)
        side = torch.tensor([1, -1], dtype=torch.int8, device=device).repeat(len(neuron) // 2)
        index = torch.arange(len(neuron), device=device)
        signs[index, neuron] = side
        warm[index, neuron] = 0.0
        weights = picked["weights"].repeat_interleave(2, 0)
        if _bounded(problem, clause, signs, warm, weights, schedule, expired, suspect, progress):
            return "sat"
    if not progress.undecided and not len(store):
        return "unsat"
    progress.bound = -float("inf") if progress.undecided else _certified_least(problem, store, batch)
    return "unknown"


def _certified_least(problem: Problem, store: Store, batch: int) -> float:
    """The least rigorous bound of the open domains; -∞ where there are too many to look at."""
    if len(store) > CERTIFIED_AT_END:
        return -float("inf")
    least = 0.0
    for rows in store.batches(batch):
        bound = problem.certified(rows["clause"], rows["weights"], rows["signs"], rows["multipliers"])
        least = min(least, float(bound.nan_to_num(nan=-float("inf")).min()))
    return least


def _bounded(
    problem: Problem,
    clause: Tensor,
    signs: Tensor,
    warm: Tensor | None,
    weights: Tensor,
    schedule: Schedule,
    expired: Callable[[], bool],
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> bool:
    """Bound new domains; close them, store them, or send them to the LP. Whether one has a witness."""
    dtype, graph, layout = problem.dtype, problem.fast, problem.layout
    relaxations = problem.relaxations(signs, dtype)
    batch = len(clause)
    box = problem.box(batch, dtype)
    rows = problem.specification(clause, dtype)
    start = None if warm is None else layout.split(warm.unsqueeze(1))
    result = optimise(
        graph,
        relaxations,
        box,
        graph.output,
        rows.rows,
        schedule,
        start,
        direct=rows.direct,
        constant=rows.constant,
        weights=weights,
        stop_above=0.0,
    )
    progress.domains += batch
    bound, multipliers = result.bound.squeeze(1), layout.join(result.multipliers).squeeze(1)
    assert result.weights is not None
    weights = result.weights
    closed = bound > 0
    if closed.any():
        which = torch.nonzero(closed).flatten()
        certain = problem.certified(clause[which], weights[which], signs[which], multipliers[which]) > 0
        closed[which] = certain
    left = torch.nonzero(~closed).flatten()
    if not len(left):
        return False
    x = result.minimiser[left].squeeze(1)
    if _suspicious(problem, x, clause[left], suspect):
        return True
    neuron = neuron_to_split(layout, relaxations, result.tape)[left]
    fixed = neuron < 0
    domains = {
        "clause": clause[left],
        "signs": signs[left],
        "multipliers": multipliers[left],
        "weights": weights[left],
        "bound": bound[left].clamp(max=0),
        "neuron": neuron,
    }
    progress.store.put(**{name: values[~fixed] for name, values in domains.items()})
    leaves = {name: values[fixed] for name, values in domains.items()}
    return _close_leaves(problem, leaves, expired, suspect, progress)


def _close_leaves(
    problem: Problem,
    rows: dict[str, Tensor],
    expired: Callable[[], bool],
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> bool:
    """Decide domains without a neuron to split, one by one; those left when time is over are stored. As `_bounded`."""
    for i, clause in enumerate(rows["clause"].tolist()):
        if expired():
            progress.store.put(**{name: values[i:] for name, values in rows.items()})
            return False
        verdict = leaf.close(problem, clause, rows["signs"][i], suspect)
        if verdict == "sat":
            return True
        progress.undecided = progress.undecided or verdict != "unsat"
    return False


def _suspicious(problem: Problem, x: Tensor, clause: Tensor, suspect: Callable[[Tensor, int], bool]) -> bool:
    """Whether one of the points x (n, inputs left) is a witness of its clause."""
    y = problem.fast.forward(x)
    value = problem.specification(clause, problem.dtype).values(x.unsqueeze(1), y.unsqueeze(1))
    hits = (
        torch.nonzero((value <= 0).all(1) & (problem.constant[clause] > NEVER / 2).any(1)).flatten().tolist()
    )
    return any(suspect(x[i].double(), int(clause[i])) for i in hits[:8])
