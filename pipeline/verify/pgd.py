"""Projected gradient descent on the violation of every sub-problem at once, with restarts.

A clause is satisfied where the largest of its rows is ≤ 0, so that maximum is what is minimised (Madry et al. 2018,
"Towards deep learning models resistant to adversarial attacks"; restarts and signed steps as there). Candidates are
judged by onnxruntime and the exact property alone (`replay`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.formats.query import Query
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.specification import SubProblems
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.memory import scaled
from secateur.pipeline.verify.replay import Replay, Witness

CANDIDATES = 4
"""How many points of one sub-problem are replayed a round at most, the most violating first."""


@dataclass(frozen=True)
class Effort:
    """Restarts per sub-problem and gradient steps per restart; `numbers` bounds the points in flight times the values
    of all nodes at each, which the gradient needs."""

    restarts: int = 16
    steps: int = 40
    numbers: int = 32_000_000


def inner_box(problems: SubProblems) -> Box:
    """Where witnesses of each sub-problem are looked for: (P, n_in), float64.

    A side has float32 ends, inside the box, where a float32 number lies in it: those the network is fed unrounded.
    Elsewhere it has the float64 numbers nearest to the ends as written. A number stands for its shortest decimal
    (`formats.query.written`), which at an end of many digits may lie outside by less than an ulp: such an end is left
    out where the side has another number.
    """
    box, near = problems.box(), problems.nearest[problems.region]
    infinity = torch.tensor(float("inf"))
    lower, upper = box.lower.float(), box.upper.float()
    lower = torch.where(lower.double() < box.lower, torch.nextafter(lower, infinity), lower).double()
    upper = torch.where(upper.double() > box.upper, torch.nextafter(upper, -infinity), upper).double()
    none = lower > upper
    lower, upper = torch.where(none, near.lower, lower), torch.where(none, near.upper, upper)
    above = torch.nextafter(lower.float(), infinity).double()
    below = torch.nextafter(upper.float(), -infinity).double()
    long_lower, long_upper = (lower == box.lower) & _long(lower), (upper == box.upper) & _long(upper)
    room = ~none & (torch.where(long_lower, above, lower) <= torch.where(long_upper, below, upper))
    return Box(torch.where(long_lower & room, above, lower), torch.where(long_upper & room, below, upper))


def _long(value: Tensor) -> Tensor:
    """Where a number may have more decimals than the shortest text that means it: all but small multiples of 2⁻¹⁴."""
    scaled = value * 2**14
    return (scaled != scaled.round()) | (value.abs() >= 100)


def inside(x: Tensor, box: Box) -> Tensor:
    """The point of `box` (float64, from `inner_box`) nearest to x, coordinate by coordinate."""
    return torch.maximum(torch.minimum(x.double(), box.upper), box.lower)


def attack(
    graph: BoundGraph,
    problems: SubProblems,
    queries: Sequence[Query],
    replay: Replay,
    *,
    seed: int,
    effort: Effort | None = None,
    expired: Callable[[], bool] = lambda: False,
) -> dict[int, Witness]:
    """Witnesses by query number, for those queries whose attack succeeded.

    `graph` is the network in float32. Ends early when `expired()` says so, or when every query has its witness. What
    is drawn for one query does not depend on the others.
    """
    effort = effort or Effort()
    generators = [torch.Generator().manual_seed(seed) for _ in queries]
    found: dict[int, Witness] = {}
    numbers = effort.restarts * sum(node.size for node in graph.nodes)
    chunk = max(1, scaled(effort.numbers) // numbers)
    for first in range(0, len(problems), chunk):
        part = problems[torch.arange(first, min(first + chunk, len(problems)))]
        open_ = torch.tensor([int(owner) not in found for owner in part.owner])
        if not open_.any():
            continue
        part = part[open_]
        _attack_chunk(graph, part, queries, replay, generators, effort, found, expired)
        if expired():
            break
    return found


def _attack_chunk(
    graph: BoundGraph,
    problems: SubProblems,
    queries: Sequence[Query],
    replay: Replay,
    generators: Sequence[torch.Generator],
    effort: Effort,
    found: dict[int, Witness],
    expired: Callable[[], bool],
) -> None:
    box = inner_box(problems)
    low, high = box.lower.float().unsqueeze(1), box.upper.float().unsqueeze(1)
    width = high - low
    restarts = effort.restarts
    owners, counts = problems.owner.unique_consecutive(return_counts=True)
    random = torch.cat(
        [
            torch.rand(number, restarts, low.shape[2], generator=generators[owner])
            for owner, number in zip(owners.tolist(), counts.tolist(), strict=True)
        ]
    )
    x = low + random * width
    x[:, 0] = (low[:, 0] + high[:, 0]) / 2
    x = torch.maximum(torch.minimum(x, high), low)
    best, best_value = x.clone(), torch.full((len(x), restarts), float("inf"))
    device = graph_device(graph)
    for step in range(effort.steps + 1):
        x.requires_grad_(True)
        y = graph.forward(x.to(device).view(-1, *graph.input.shape)).flatten(1).cpu()
        value = problems.values(x, y.view(len(x), restarts, -1)).amax(2)
        better = value.detach() < best_value
        best_value = torch.where(better, value.detach(), best_value)
        best = torch.where(better.unsqueeze(2), x.detach(), best)
        if bool((best_value <= 0).any()) and _judge(problems, queries, replay, box, best, best_value, found):
            return
        if step == effort.steps or expired():
            return
        (gradient,) = torch.autograd.grad(value.sum(), x)
        size = 0.25 * (1 - step / effort.steps) + 0.005
        with torch.no_grad():
            x = torch.maximum(torch.minimum(x - size * width * gradient.sign(), high), low)
        left = torch.tensor([owner not in found for owner in problems.owner.tolist()])
        if not left.all():  # those that are decided need no more steps
            problems, box = problems[left], box[left]
            x, best, best_value = x[left], best[left], best_value[left]
            low, high, width = low[left], high[left], width[left]


def _judge(
    problems: SubProblems,
    queries: Sequence[Query],
    replay: Replay,
    box: Box,
    best: Tensor,
    value: Tensor,
    found: dict[int, Witness],
) -> bool:
    """Replay promising points; True when every query of these sub-problems has its witness."""
    for i in torch.nonzero((value <= 0).any(1)).flatten().tolist():
        owner = int(problems.owner[i])
        if owner in found:
            continue
        for j in torch.argsort(value[i])[:CANDIDATES].tolist():
            if value[i, j] > 0:
                break
            witness = replay.check(queries[owner], inside(best[i, j], box[i]).numpy())
            if witness is not None:
                found[owner] = witness
                break
            value[i, j] = float("inf")
    return all(int(owner) in found for owner in problems.owner)


def graph_device(graph: BoundGraph) -> torch.device:
    """The device on which the graph's numbers lie."""
    for node in graph.nodes:
        for name in ("weight", "bias"):
            value = getattr(node.operation, name, None)
            if isinstance(value, Tensor):
                return value.device
    return torch.device("cpu")
