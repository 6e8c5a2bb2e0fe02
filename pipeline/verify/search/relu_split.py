"""Branch and bound over ReLU splits on a folded network (β-CROWN).

A domain is a sub-problem's clause with some neurons' signs fixed. Domains of all clauses of an instance share batches.
Search runs in the fast number type; a domain counts as closed only when its bound, evaluated again in float64 with
rounding errors taken off, is still positive. A domain in which no neuron is left to split goes to an exact LP.

A domain's children go on from where the ascent of its multipliers ended, which may be lower than where it began: the β
that show a contradiction among many splits grow over generations, and nothing is seen of it before (a third of the
domains that going on from the best multipliers needed, in geometric mean over two MNIST networks and two schedules).

Where neurons and inputs are few, a domain that stays open passes on tighter bounds of its neurons to its children, for
the part of it where the clause may still hold (`halfspace`): 50 to 70 times fewer domains on networks of one layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.branching import costliest, split_costs
from secateur.pipeline.verify.bounding.crown import Tape, backward
from secateur.pipeline.verify.bounding.optimise import optimise
from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.region.fold import Folded
from secateur.pipeline.verify.search import leaf
from secateur.pipeline.verify.search.halfspace import Tightening
from secateur.pipeline.verify.search.problem import Problem, Progress
from secateur.pipeline.verify.store import Store

TIGHTENED_NUMBERS = 16_000
"""Neurons × inputs up to which bounds of neurons are tightened domain by domain."""

TIGHTENED_BATCH = 512
"""Domains of one batch there, which takes several times as long: the clock is looked at between batches."""

SHORT = 128
"""A batch of less than this part of the largest takes hardly less time than one of that part: it is filled by splitting
domains several times at once (a sixth less time for a hundred MNIST images on 256×2, for 8 % more domains)."""

CERTIFYING_SECONDS = 0.25
"""When time is over, the bounds of the open domains are made rigorous for the result, if it takes no longer."""


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
        progress.undecided = not verdicts <= {"unsat"}
        return "sat" if "sat" in verdicts else "unknown" if progress.undecided else "unsat"
    tightening = None
    if problem.tightened and tightens(problem.folded):
        tightening = Tightening(problem)
        batch = min(batch, TIGHTENED_BATCH)
    if not len(store):
        root = {"clause": clause, "signs": signs, "weights": problem.weights()}
        if tightening is not None:
            low, high = problem.bounds()
            root |= {"low": low.expand(count, -1), "high": high.expand(count, -1)}
        if bounded(problem, root, tightening, first, expired, suspect, progress):
            return "sat"
    while len(store) and not expired():
        picked = store.take(batch)
        leaves = picked["neuron"][:, 0] < 0
        if leaves.any():
            rows = {name: values[leaves] for name, values in picked.items()}
            if _close_leaves(problem, rows, expired, suspect, progress):
                return "sat"
            picked = {name: values[~leaves] for name, values in picked.items()}
            if leaves.all():
                continue
        if bounded(
            problem, children(picked, batch // SHORT), tightening, schedule, expired, suspect, progress
        ):
            return "sat"
    if not progress.undecided and not len(store):
        return "unsat"
    progress.bound = -float("inf") if progress.undecided else _certified_least(problem, store, batch)
    return "unknown"


def tightens(folded: Folded) -> bool:
    """Whether neurons and inputs are few enough to tighten neurons' bounds domain by domain."""
    neurons = sum(len(kept) for _, kept in folded.neurons.values())
    return neurons * folded.graph.input.size <= TIGHTENED_NUMBERS


def children(picked: dict[str, Tensor], least: int) -> dict[str, Tensor]:
    """The parts of domains by the signs of their costliest neurons: two each, but four or eight each where so many are
    at most `least` all together."""
    neurons, levels = picked["neuron"], 1
    while (
        levels < neurons.shape[1]
        and len(neurons) << (levels + 1) <= least
        and bool((neurons[:, levels] >= 0).all())
    ):
        levels += 1
    parts = {name: values.repeat_interleave(1 << levels, 0) for name, values in picked.items()}
    index = torch.arange(len(parts["neuron"]), device=neurons.device)
    for level in range(levels):
        neuron = parts["neuron"][:, level]
        parts["signs"][index, neuron] = (1 - 2 * (index >> level & 1)).to(torch.int8)
        parts["multipliers"][index, neuron] = 0.0
    return parts


def _certified_least(problem: Problem, store: Store, batch: int) -> float:
    """The least rigorous bound of the open domains; -∞ where there are too many to look at."""
    least, started = 0.0, time.perf_counter()
    for done, rows in enumerate(store.batches(batch)):
        if (time.perf_counter() - started) * len(store) > CERTIFYING_SECONDS * max(done, 1) * batch:
            return -float("inf")
        bound = problem.certified(
            rows["clause"], rows["weights"], rows["signs"], rows["multipliers"], _tight(rows)
        )
        least = min(least, float(bound.nan_to_num(nan=-float("inf")).min()))
    return least


def bounded(
    problem: Problem,
    new: dict[str, Tensor],
    tightening: Tightening | None,
    schedule: Schedule,
    expired: Callable[[], bool],
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> bool:
    """Bound new domains; close them or store them. Whether one has a witness.

    `new`: their "clause", "signs", "weights", and maybe "multipliers" to begin with, "low" and "high".
    """
    clause, signs, warm, tight = new["clause"], new["signs"], new.get("multipliers"), _tight(new)
    dtype, graph, layout = problem.dtype, problem.fast_of(clause), problem.layout
    relaxations = problem.relaxations(clause, signs, dtype, tight)
    batch = len(clause)
    box = problem.box_of(clause, dtype)
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
        weights=new["weights"],
        stop_above=0.0,
        expired=expired,
    )
    progress.domains += batch
    bound, multipliers = result.bound.squeeze(1), layout.join(result.multipliers).squeeze(1)
    assert result.weights is not None
    weights = result.weights
    closed = bound > 0
    if closed.any():
        which = torch.nonzero(closed).flatten()
        there = None if tight is None else (tight[0][which], tight[1][which])
        closed[which] = problem.refuted(
            clause[which], weights[which], signs[which], multipliers[which], there
        )
    left = torch.nonzero(~closed).flatten()
    if not len(left):
        return False
    x = result.minimiser[left].squeeze(1)
    if problem.suspicious(x, problem.fast_of(clause[left]).forward(x), clause[left], suspect):
        return True
    domains = {
        "clause": clause[left],
        "signs": signs[left],
        "multipliers": layout.join(result.last).squeeze(1)[left],
        "weights": weights[left],
        "bound": bound[left].clamp(max=0),
    }
    coefficients = {p: a[left] for p, a in result.tape.coefficient.items()}
    if tight is not None:
        domains["low"], domains["high"] = tight[0][left], tight[1][left]
    if tightening is not None:
        kept = _tighten(problem, tightening, domains, multipliers[left])
        domains = {name: values[kept] for name, values in domains.items()}
        coefficients = {p: a[kept] for p, a in coefficients.items()}
        x = x[kept]
    domains["neuron"] = _neurons(problem, domains, coefficients, x)
    if problem.filtered and len(domains["clause"]):
        domains["neuron"] = _tried(problem, domains)
    progress.store.put(**domains)
    return False


def _tight(rows: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """The bounds of neurons (B, U) that domains have of their own."""
    return (rows["low"], rows["high"]) if "low" in rows else None


def _neurons(
    problem: Problem, domains: dict[str, Tensor], coefficients: dict[int, Tensor], x: Tensor
) -> Tensor:
    """The neurons to split of open domains, (B, L); see `branching`. `coefficients` and the minimisers x (B, inputs
    left) are those of the last substitution."""
    layout, dtype, signs = problem.layout, problem.dtype, domains["signs"]
    relaxations = problem.relaxations(domains["clause"], signs, dtype, _tight(domains))
    costs = split_costs(layout, relaxations, coefficients)
    beyond = (costs.clamp(min=0).sum(1) < -domains["bound"]) & (signs != 0).any(1)
    if not beyond.any():
        return costliest(costs)
    there = {name: values[beyond] for name, values in domains.items()}
    graph = problem.fast_of(there["clause"])
    signs, arguments = there["signs"], {graph.preactivation(p): p for p in layout.sizes}
    z = {arguments[p]: value for p, value in graph.values(x[beyond]) if p in arguments}
    violated = (-signs * layout.join(z)).clamp(min=0)
    multipliers = torch.where(signs != 0, violated, there["multipliers"]).unsqueeze(1)
    relaxations = problem.relaxations(there["clause"], signs, dtype, _tight(there))
    nothing = multipliers.new_zeros(len(signs), 1, *graph.nodes[graph.output].shape)
    tape = Tape()
    backward(graph, relaxations, graph.output, nothing, layout.split(multipliers), tape=tape)
    contradiction = split_costs(layout, relaxations, tape.coefficient)
    useful = contradiction.amax(1, keepdim=True) > 0
    costs[beyond] = torch.where(useful, contradiction, costs[beyond])
    return costliest(costs)


def _tried(problem: Problem, domains: dict[str, Tensor]) -> Tensor:
    """The neurons to split of open domains, (B, L), in the order of what splitting them gives: first the one whose
    worse part has the best bound.

    That bound is what one substitution with the domain's own multipliers gives, β = 0 for the new constraint: filtered
    smart branching (De Palma et al. 2021, "Improved branch and bound for neural network verification via Lagrangian
    decomposition"), which BaBSR's scores filter for.
    """
    neuron = domains["neuron"]
    count = 2 * neuron.shape[1]
    names = ("clause", "signs", "multipliers", "weights", "low", "high")
    parts = {name: domains[name].repeat_interleave(count, 0) for name in names if name in domains}
    tried = neuron.repeat_interleave(2, 1).view(-1, 1).clamp(min=0)
    side = torch.tensor([[1], [-1]], dtype=torch.int8, device=neuron.device).repeat(len(tried) // 2, 1)
    clause = parts["clause"]
    signs, multipliers = parts["signs"].scatter(1, tried, side), parts["multipliers"].scatter(1, tried, 0.0)
    rows = problem.specification(clause, problem.dtype).combined(parts["weights"])
    graph = problem.fast_of(clause)
    linear = backward(
        graph,
        problem.relaxations(clause, signs, problem.dtype, _tight(parts)),
        graph.output,
        rows.rows,
        problem.layout.split(multipliers.unsqueeze(1)),
        direct=rows.direct,
    )
    bound = linear.minimum(problem.box_of(clause, problem.dtype))
    bound = bound if rows.constant is None else bound + rows.constant
    worse = bound.view(*neuron.shape, 2).clamp(max=0).amin(2).masked_fill(neuron < 0, -torch.inf)
    return neuron.gather(1, torch.argsort(worse, dim=1, descending=True, stable=True))


def _tighten(
    problem: Problem, tightening: Tightening, domains: dict[str, Tensor], multipliers: Tensor
) -> Tensor:
    """Tighten the bounds "low" and "high" of open domains, and give them the signs that follow; returns those not
    empty. `multipliers` (B, U) are those of their best bounds.

    A neuron that these bounds decide counts as split, so that its constraint has a β.
    """
    signs, tight = domains["signs"], (domains["low"], domains["high"])
    linear = problem.certified_linear(domains["clause"], domains["weights"], signs, multipliers, tight)
    low, high = tightening.bounds(linear)
    low, high = torch.fmax(low, tight[0]), torch.fmin(high, tight[1])
    empty = (low > high) | ((low > 0) & (signs < 0)) | ((high < 0) & (signs > 0))
    least, most = problem.bounds()
    decided = (least < 0) & (most > 0) & (signs == 0) & ((low >= 0) | (high <= 0))
    domains["signs"] = torch.where(decided, torch.where(low >= 0, 1, -1).to(signs.dtype), signs)
    domains["multipliers"] = domains["multipliers"].masked_fill(decided, 0.0)
    domains["low"], domains["high"] = low, high
    return torch.nonzero(~empty.any(1)).flatten()


def _close_leaves(
    problem: Problem,
    rows: dict[str, Tensor],
    expired: Callable[[], bool],
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> bool:
    """Decide domains without a neuron to split, one by one; those left when time is over are stored. As `bounded`."""
    for i, clause in enumerate(rows["clause"].tolist()):
        if expired():
            progress.store.put(**{name: values[i:] for name, values in rows.items()})
            return False
        verdict = leaf.close(problem, clause, rows["signs"][i], suspect)
        if verdict == "sat":
            return True
        progress.undecided = progress.undecided or verdict != "unsat"
    return False
