"""Bounds of clauses and outputs from the bounds of a network's nodes, rigorous, without any search."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.crown import backward
from secateur.pipeline.verify.bounding.optimise import optimise
from secateur.pipeline.verify.bounding.relaxation import Multipliers, Schedule
from secateur.pipeline.verify.bounding.root import NodeBounds, magnitudes
from secateur.pipeline.verify.bounding.specification import SubProblems
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, gamma


def specification(
    graph: BoundGraph, problems: SubProblems, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Rows (P, S, *output shape), direct rows (P, S, *input shape) or None, and constants (P, S)."""
    rows = problems.outputs.to(device, dtype).unflatten(2, graph.nodes[graph.output].shape)
    direct = problems.inputs
    if direct is not None:
        direct = direct.to(device, dtype).unflatten(2, graph.input.shape)
    return rows, direct, problems.constant.clamp(min=torch.finfo(dtype).min / 4).to(device, dtype)


def clause_bounds(
    graph: BoundGraph, fast: BoundGraph, problems: SubProblems, nodes: NodeBounds, schedule: Schedule | None
) -> tuple[Tensor, Tensor]:
    """Rigorous bounds (P,) of clauses, the best of their rows, and the inputs (P, n_in) that minimise those.

    `nodes` are the bounds of `graph` (float64) on each one's box (B = P). With a schedule, slopes are optimised first
    on `fast`, the same graph in float32.
    """
    device = nodes.box.lower.device
    multipliers: Multipliers | None = None
    if schedule is not None:
        rows, direct, constant = specification(graph, problems, torch.float32, device)
        multipliers = optimise(
            fast,
            nodes.relaxations(graph, torch.float32),
            nodes.box.to(torch.float32),
            graph.output,
            rows,
            schedule,
            direct=direct,
            constant=constant,
            stop_above=0.0,
        ).multipliers
    rows, direct, constant = specification(graph, problems, torch.float64, device)
    exact = None if multipliers is None else {p: m.double() for p, m in multipliers.items()}
    linear = backward(
        graph,
        nodes.relaxations(graph),
        graph.output,
        rows,
        exact,
        direct=direct,
        magnitudes=magnitudes(graph, nodes),
    )
    bound = linear.minimum(nodes.box) + constant
    bound = bound - gamma(8, bound) * (bound.abs() + constant.abs())
    best, row = bound.max(1)
    x = linear.minimiser(nodes.box)[torch.arange(len(row), device=row.device), row]
    return best.cpu(), x.flatten(1).cpu()


def output_bounds(graph: BoundGraph, nodes: NodeBounds, *, linear: bool) -> tuple[Tensor, Tensor]:
    """Bounds (n_out,) of the outputs on the first box: intervals, tightened by CROWN when `linear`."""
    output, device = graph.output, nodes.box.lower.device
    low, high = (side[:1].flatten().cpu() for side in nodes.values[output])
    if linear:
        size, shape = graph.nodes[output].size, graph.nodes[output].shape
        identity = torch.eye(size, dtype=torch.float64, device=device)
        rows = torch.cat([identity, -identity]).unflatten(1, shape).unsqueeze(0)
        first = nodes[torch.zeros(1, dtype=torch.long, device=device)]
        coarse = magnitudes(graph, first)
        bound = backward(graph, first.relaxations(graph), output, rows, magnitudes=coarse)
        lower, upper = bound.minimum(first.box)[0].cpu().split(size)
        low, high = torch.fmax(low, lower), torch.fmin(high, -upper)
    return low, high


def interval_clause_bounds(problems: SubProblems, lower: Tensor, upper: Tensor) -> Tensor:
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
