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
    bound still open.
    """
    count = len(problem.constant)
    store = Store()
    device = problem.rows.device
    clause = torch.arange(count, device=device)
    signs = torch.zeros(count, problem.layout.total, dtype=torch.int8, device=device)
    if not problem.layout.sizes:  # affine on this box: every clause is a leaf
        verdicts = {leaf.close(problem, i, signs[i], suspect) for i in range(count)}
        return "sat" if "sat" in verdicts else "unsat" if verdicts <= {"unsat"} else "unknown"
    outcome = _bounded(problem, store, clause, signs, None, problem.weights(), first, suspect, progress)
    if outcome == "sat":
        return "sat"
    complete = outcome == ""
    while len(store):
        if expired():
            break
        picked = store.take(batch)
        clause = picked["clause"].repeat_interleave(2)
        signs = picked["signs"].repeat_interleave(2, 0)
        warm = picked["multipliers"].repeat_interleave(2, 0)
        neuron = picked["neuron"].repeat_interleave(2)
        side = torch.tensor([1, -1], dtype=torch.int8, device=device).repeat(len(neuron) // 2)
        index = torch.arange(len(neuron), device=device)
        signs[index, neuron] = side
        warm[index, neuron] = 0.0
        weights = picked["weights"].repeat_interleave(2, 0)
        outcome = _bounded(problem, store, clause, signs, warm, weights, schedule, suspect, progress)
        if outcome == "sat":
            return "sat"
        complete = complete and outcome == ""
    if complete and not len(store):
        return "unsat"
    progress.bound = _certified_least(problem, store, batch) if complete else -float("inf")
    return "unknown"


def _certified_least(problem: Problem, store: Store, batch: int) -> float:
    """The least rigorous bound of the open domains, which are taken out; -∞ where there are too many to look at."""
    if len(store) > CERTIFIED_AT_END:
        return -float("inf")
    least = 0.0
    while len(store):
        rows = store.take(batch)
        bound = problem.certified(rows["clause"], rows["weights"], rows["signs"], rows["multipliers"])
        least = min(least, float(bound.nan_to_num(nan=-float("inf")).min()))
    return least


def _bounded(
    problem: Problem,
    store: Store,
    clause: Tensor,
    signs: Tensor,
    warm: Tensor | None,
    weights: Tensor,
    schedule: Schedule,
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> str:
    """Bound new domains; close them, store them, or send them to the LP. Returns "", "sat" or "undecided"."""
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
        return ""
    x = result.minimiser[left].squeeze(1)
    if _suspicious(problem, x, clause[left], suspect):
        return "sat"
    neuron = neuron_to_split(layout, relaxations, result.tape)[left]
    fixed = neuron < 0
    outcome = ""
    for i in left[fixed].tolist():
        verdict = leaf.close(problem, int(clause[i]), signs[i], suspect)
        if verdict == "sat":
            return "sat"
        if verdict != "unsat":
            outcome = "undecided"
    open_ = left[~fixed]
    store.put(
        clause=clause[open_],
        signs=signs[open_],
        multipliers=multipliers[open_],
        weights=weights[open_],
        bound=bound[open_].clamp(max=0),
        neuron=neuron[~fixed],
    )
    return outcome


def _suspicious(problem: Problem, x: Tensor, clause: Tensor, suspect: Callable[[Tensor, int], bool]) -> bool:
    """Whether one of the points x (n, inputs left) is a witness of its clause."""
    y = problem.fast.forward(x)
    value = problem.specification(clause, problem.dtype).values(x.unsqueeze(1), y.unsqueeze(1))
    hits = (
        torch.nonzero((value <= 0).all(1) & (problem.constant[clause] > NEVER / 2).any(1)).flatten().tolist()
    )
    return any(suspect(x[i].double(), int(clause[i])) for i in hits[:8])
