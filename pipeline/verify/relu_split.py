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
from secateur.pipeline.verify.branching import candidates
from secateur.pipeline.verify.crown import backward
from secateur.pipeline.verify.optimise import Schedule, optimise
from secateur.pipeline.verify.problem import Problem, Progress
from secateur.pipeline.verify.store import Store

CANDIDATES = 4
BATCH_NUMBERS = 24_000_000
"""Bounds the batch: domains × rows × neurons of the widest layer."""


def solve(
    problem: Problem,
    multipliers: Tensor | None,
    *,
    schedule: Schedule,
    batch: int,
    expired: Callable[[], bool],
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> str:
    """Search all clauses of `problem`; returns "unsat", "sat" (when `suspect` accepted a point) or "unknown".

    `multipliers` (P, S, U) is the warm start of the root domains. `suspect(x, clause)` is called with input points
    (inputs left, float64) that may satisfy a clause; it returns True when one is a witness. "unknown" means that time
    is over or that a leaf could be decided neither way; `progress.bound` is then the least bound still open.
    """
    count = len(problem.constant)
    store = Store()
    clause = torch.arange(count)
    signs = torch.zeros(count, problem.layout.total, dtype=torch.int8)
    if not problem.layout.sizes:  # affine on this box: every clause is a leaf
        verdicts = {leaf.close(problem, i, signs[i], suspect) for i in range(count)}
        return "sat" if "sat" in verdicts else "unsat" if verdicts <= {"unsat"} else "unknown"
    outcome = _bounded(problem, store, clause, signs, multipliers, schedule, suspect, progress)
    if outcome == "sat":
        return "sat"
    complete = outcome == ""
    while len(store):
        if expired():
            break
        picked = store.take(batch)
        branch = _chosen(problem, picked)
        clause = picked["clause"].repeat_interleave(2)
        signs = picked["signs"].repeat_interleave(2, 0)
        warm = picked["multipliers"].repeat_interleave(2, 0)
        neuron = branch.repeat_interleave(2)
        side = torch.tensor([1, -1], dtype=torch.int8).repeat(len(branch))
        index = torch.arange(len(neuron))
        signs[index, neuron] = side
        warm[index, :, neuron] = 0.0
        outcome = _bounded(problem, store, clause, signs, warm, schedule, suspect, progress)
        if outcome == "sat":
            return "sat"
        complete = complete and outcome == ""
    progress.bound = store.least() if len(store) else (0.0 if not complete else progress.bound)
    return "unsat" if complete and not len(store) else "unknown"


def _bounded(
    problem: Problem,
    store: Store,
    clause: Tensor,
    signs: Tensor,
    warm: Tensor | None,
    schedule: Schedule,
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> str:
    """Bound new domains; close them, store them, or send them to the LP. Returns "", "sat" or "undecided"."""
    dtype, graph, layout = problem.dtype, problem.fast, problem.layout
    relaxations = problem.relaxations(signs, dtype)
    batch = len(clause)
    box = problem.box(batch, dtype)
    rows, direct, constant = problem.specification(clause, dtype)
    start = None if warm is None else layout.split(warm)
    result = optimise(
        graph,
        relaxations,
        box,
        graph.output,
        rows,
        schedule,
        start,
        direct=direct,
        constant=constant,
        stop_above=0.0,
    )
    progress.domains += batch
    bound, row = result.bound.max(1)
    multipliers = layout.join(result.multipliers)
    closed = bound > 0
    if closed.any():
        which = torch.nonzero(closed).flatten()
        exact = problem.specification(clause[which], torch.float64)
        closed[which] = problem.certified(*exact, signs[which], multipliers[which]).amax(1) > 0
    left = torch.nonzero(~closed).flatten()
    if not len(left):
        return ""
    x = result.minimiser[left, row[left]]
    if _suspicious(problem, x, clause[left], suspect):
        return "sat"
    decision = candidates(
        layout, relaxations, result.multipliers, result.tape, result.values, row, CANDIDATES
    )[left]
    fixed = (decision < 0).all(1)
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
        bound=bound[open_].clamp(max=0),
        decision=decision[~fixed],
    )
    return outcome


def _suspicious(problem: Problem, x: Tensor, clause: Tensor, suspect: Callable[[Tensor, int], bool]) -> bool:
    """Whether one of the points x (n, inputs left) is a witness of its clause."""
    y = problem.fast.forward(x)
    rows, direct, constant = problem.specification(clause, problem.dtype)
    value = torch.einsum("no,nso->ns", y, rows) + constant
    if direct is not None:
        value = value + torch.einsum("ni,nsi->ns", x, direct)
    worst = value.amax(1)
    return any(
        suspect(x[i].double(), int(clause[i])) for i in torch.nonzero(worst <= 0).flatten().tolist()[:8]
    )


def _chosen(problem: Problem, picked: dict[str, Tensor]) -> Tensor:
    """The neuron to split for each domain: of its candidates the one whose worse child has the best bound."""
    decision = picked["decision"]
    batch, count = decision.shape
    valid, neuron = decision >= 0, decision.clamp(min=0)
    if count == 1:
        return neuron[:, 0]
    child_signs = picked["signs"].repeat_interleave(2 * count, 0)
    child_multipliers = picked["multipliers"].repeat_interleave(2 * count, 0)
    index = torch.arange(len(child_signs))
    which = neuron.repeat_interleave(2, 1).flatten()
    child_signs[index, which] = torch.tensor([1, -1], dtype=torch.int8).repeat(batch * count)
    child_multipliers[index, :, which] = 0.0
    clause = picked["clause"].repeat_interleave(2 * count)
    rows, direct, constant = problem.specification(clause, problem.dtype)
    graph = problem.fast
    relaxations = problem.relaxations(child_signs, problem.dtype)
    linear = backward(
        graph, relaxations, graph.output, rows, problem.layout.split(child_multipliers), direct=direct
    )
    bound = linear.minimum(problem.box(len(clause), problem.dtype)) + constant
    children = bound.amax(1).clamp(max=0).view(batch, count, 2)
    score = (children.amin(2) + 1e-3 * children.amax(2)).masked_fill(~valid, -float("inf"))
    return neuron.gather(1, score.argmax(1, keepdim=True)).squeeze(1)
