"""What bounds alone say of the balls about images: who is proved robust, and how tight they are.

The ladder: intervals (IBP), CROWN, α-CROWN. Each method's bounds of the ReLUs' arguments lie within the ones before,
and what one proves counts as proved by the next, so that what is proved grows from rung to rung. All bounds carry the
engine's rounding margins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from secateur.formats.query import Query
from secateur.pipeline.verify.bounding.clause_bounds import clause_bounds, output_bounds, specification
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.relaxation import products
from secateur.pipeline.verify.bounding.root import NodeBounds, bound_nodes, cost, magnitudes
from secateur.pipeline.verify.bounding.specification import SubProblems, subproblems
from secateur.pipeline.verify.engine import DEAREST_SLOPES, OUTPUT_SCHEDULE, ROOT_SCHEDULE, Engine
from secateur.pipeline.verify.graph.bound_graph import FLOOR, BoundGraph, gamma
from secateur.pipeline.verify.graph.operations import Affine
from secateur.pipeline.verify.region.fold import fold_and_bound

METHODS = ("ibp", "crown", "alpha-crown")


@dataclass
class Tightness:
    """Sums over images of what the bounds of ReLUs' arguments come to, a layer, and of the outputs' mean width."""

    layers: dict[str, int] = field(default_factory=dict)
    images: int = 0
    unstable: list[float] = field(default_factory=list)
    instability: list[float] = field(default_factory=list)
    width: list[float] = field(default_factory=list)
    logits: float = 0.0

    def add(self, graph: BoundGraph, nodes: NodeBounds, lower: Tensor, upper: Tensor) -> None:
        """Take in the bounds of one image (B = 1), and those of its outputs."""
        sides = [(low[0], high[0]) for low, high in nodes.preactivations(graph).values()]
        open_ = [(low < 0) & (high > 0) for low, high in sides]
        sums = (
            [float(part.sum()) for part in open_],
            [float((-low * high)[part].sum()) for (low, high), part in zip(sides, open_, strict=True)],
            [float((high - low).sum()) for low, high in sides],
        )
        self.layers = {graph.nodes[p].name: graph.nodes[p].size for p in graph.relus}
        for mine, more in zip((self.unstable, self.instability, self.width), sums, strict=True):
            mine[:] = [old + new for old, new in zip(mine or [0.0] * len(more), more, strict=True)]
        self.logits += float((upper - lower).mean())
        self.images += 1

    def columns(self, method: str) -> dict[str, Any]:
        """As `formats.measurements` has them. A network without ReLUs has no ratio and no width of them."""
        neurons = list(self.layers.values())
        found: dict[str, Any] = {f"{method}_logit_width": self.logits / self.images}
        for name, sums in (("unstable_ratio", self.unstable), ("width", self.width)):
            shares = [total / self.images / count for total, count in zip(sums, neurons, strict=True)]
            found[f"{method}_layer_{name}"] = shares
            if neurons:
                found[f"{method}_{name}"] = sum(sums) / self.images / sum(neurons)
        mean = [total / self.images for total in self.instability]
        found |= {f"{method}_layer_instability": mean, f"{method}_instability": sum(mean)}
        return found | {"layer": list(self.layers), "layer_neurons": neurons}


def climb(
    engine: Engine, query: Query, methods: Sequence[str], tightness: Mapping[str, Tightness] | None = None
) -> str | None:
    """The first of `methods`, in the order of `METHODS`, that proves a query with one region (as robustness properties
    have), if any. `tightness` takes in the bounds by those of the methods that it names, whatever they prove.

    α-CROWN optimises the slopes of all nodes, where these are not too many, and those of the clauses (Xu et al., "Fast
    and complete", ICLR 2021).
    """
    own, wanted = engine.engine_for(query), tightness or {}
    problems = subproblems([query])
    assert len(problems.boxes.lower) == 1, "the bounds of one box say nothing of another"
    nodes, found = None, None
    for method in methods:
        if found and method not in wanted:
            break
        nodes = _nodes(own, own.shaped(problems.boxes), method, nodes)
        if method in wanted:
            sides = output_bounds(own.graph, nodes, linear=method != "ibp")
            wanted[method].add(own.graph, nodes, *sides)
        if found is None and bool((_margins(own, nodes, problems, method) > 0).all()):
            found = method
    return found


def _nodes(engine: Engine, box: Box, method: str, known: NodeBounds | None) -> NodeBounds:
    """Bounds of all nodes on the one box, within `known` ones. A network that folds is folded meanwhile: faster."""
    graph = engine.graph
    if method == "ibp":
        return bound_nodes(graph, box, "ibp")
    if graph.foldable:
        schedule = ROOT_SCHEDULE if method == "alpha-crown" else None
        return fold_and_bound(graph, box, schedule, known=known)[1]
    if cost(graph) > DEAREST_SLOPES:
        method = "crown"
    values = None if known is None else {p: known.values[p] for p in graph.bounded}
    return bound_nodes(graph, box, method, search=engine.fast, schedule=ROOT_SCHEDULE, known=values)


def _margins(engine: Engine, nodes: NodeBounds, problems: SubProblems, method: str) -> Tensor:
    """Bounds (P,) of clauses on the one box of `nodes`."""
    bounds = interval_margins(engine.graph, nodes, problems)
    if method == "ibp":
        return bounds
    schedule = OUTPUT_SCHEDULE if method == "alpha-crown" else None
    each = nodes[torch.zeros(len(problems), dtype=torch.long, device=engine.device)]
    linear, _ = clause_bounds(engine.graph, engine.fast, problems, each, schedule)
    return torch.fmax(bounds, linear)


def interval_margins(graph: BoundGraph, nodes: NodeBounds, problems: SubProblems) -> Tensor:
    """Bounds (P,) of clauses, the best of their rows, from the intervals `nodes` (B = 1) of the last nonlinear nodes.

    The affine operations behind these are first joined with the rows: a difference of outputs is bounded as one, not
    as that of two intervals (Gowal et al. 2018, "On the effectiveness of interval bound propagation", section 3). The
    rounding argument is that of `bounding.crown`.
    """
    rows, direct, constant = specification(graph, problems, torch.float64, nodes.box.lower.device)
    largest = magnitudes(graph, nodes)
    pending = {graph.output: rows.flatten(0, 1).unsqueeze(0)}
    if direct is not None:
        flat = direct.flatten(0, 1).unsqueeze(0)
        pending[0] = pending[0] + flat if 0 in pending else flat
    count = next(iter(pending.values())).shape[1]
    bound = constant.reshape(1, count).clone()
    scale, error = bound.abs(), torch.zeros_like(bound)
    terms = len(graph.nodes) + 8
    for position in range(graph.output, -1, -1):
        a = pending.pop(position, None)
        if a is None:
            continue
        node = graph.nodes[position]
        operation = node.operation
        if position and isinstance(operation, Affine):
            if operation.terms:
                error += gamma(node.size + 8 + operation.terms, a) * products(a.abs(), largest[position])
                lost = sum(float(largest[source].sum()) for source in node.inputs)
                error += FLOOR * operation.terms * lost
            offset = operation.offset(a.flatten(0, 1))
            if offset is not None:
                bound += offset.view(1, count)
                scale += offset.view(1, count).abs()
            for source, result in zip(node.inputs, operation.transpose_rows(a), strict=True):
                pending[source] = pending[source] + result if source in pending else result
        else:
            low, high = nodes.values[position]
            bound += products(a.clamp(min=0), low) + products(a.clamp(max=0), high)
            size = torch.maximum(low.abs(), high.abs())
            term = products(a.abs(), size)
            scale += term
            error += gamma(node.size + 8, a) * term
    total = bound - error * (1 + 1e-6) - gamma(terms, bound) * scale
    best = total.view(problems.constant.shape).amax(1).cpu()
    return torch.where(best.isnan(), -math.inf, best)
