"""Bounds of every node on input boxes: intervals, tightened before each nonlinear node by CROWN or α-CROWN.

Everything here ends in float64 with rounding errors accounted for, so that later stages may build on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.crown import Box, backward
from secateur.pipeline.verify.bounding.forward import Lines, through_affine, through_nonlinear
from secateur.pipeline.verify.bounding.optimise import optimise
from secateur.pipeline.verify.bounding.relaxation import Relaxations, Schedule
from secateur.pipeline.verify.bounding.smooth import interval, relax
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, affine_interval, gamma
from secateur.pipeline.verify.graph.operations import Affine, Dense, Relu
from secateur.pipeline.verify.memory import scaled

CHUNK_NUMBERS = 2_000_000
"""How many numbers one chunk of specification rows may hold a layer: bounds the memory of wide layers. Twice as many
took a third longer on dense layers, most of it for fresh pages."""

DEAREST, DEAREST_BESIDE = 2_000_000_000, 1_000_000_000
"""Rows × numbers of all nodes before, a sub-problem. From there on intervals have to do for the arguments of smooth
functions, of which attention has tens of thousands; the other number is for any node where `forward` bounds are there.
"""

DEAREST_ASCENT = 50_000_000
"""From there on slopes are not optimised for a node: every step costs two substitutions."""

PROBED, PROBE, WORTHWHILE = 20_000_000, 12, 0.92
"""From there on so many rows, spread over the node, are bounded first, and the others where these shrank their
intervals to this share in sum: on attention the arguments of exponentials are as tight by intervals alone."""

FEW, WIDE = 8, 512
"""Up to so many inputs linear bounds are propagated forwards through a network one of whose nodes is so wide."""


@dataclass(frozen=True)
class NodeBounds:
    """Bounds of every node over B boxes: position → (lower, upper), each (B, *shape), float64."""

    box: Box
    values: dict[int, tuple[Tensor, Tensor]]

    def relaxations(self, graph: BoundGraph, dtype: torch.dtype = torch.float64) -> Relaxations:
        return {
            p: relax(node.operation, [_as(self.values[source], dtype) for source in node.inputs])
            for p in graph.nonlinear
            for node in (graph.nodes[p],)
        }

    def preactivations(self, graph: BoundGraph) -> dict[int, tuple[Tensor, Tensor]]:
        """The bounds of every ReLU's argument, by the ReLU's position."""
        return {p: self.values[graph.preactivation(p)] for p in graph.relus}

    def __getitem__(self, keep: Tensor) -> NodeBounds:
        return NodeBounds(
            self.box[keep], {p: (low[keep], high[keep]) for p, (low, high) in self.values.items()}
        )


def bound_nodes(
    graph: BoundGraph,
    box: Box,
    method: str = "crown",
    *,
    search: BoundGraph | None = None,
    schedule: Schedule | None = None,
    magnitudes: dict[int, Tensor] | None = None,
    known: dict[int, tuple[Tensor, Tensor]] | None = None,
    expired: Callable[[], bool] = lambda: False,
) -> NodeBounds:
    """Bounds of every node of `graph` (float64) over `box`.

    `method` is "ibp" (intervals alone), "crown" or "alpha-crown". The last optimises slopes on `search` (the same
    graph in float32, or `graph` itself) and then evaluates them in float64. `magnitudes` (of a larger box, so that
    they hold here too) saves computing them, and is needed for a folded graph, whose weights carry errors of their own.
    `known` are bounds of nodes that hold already: they are intersected with, and what they decide is not bounded anew.
    Once `expired()`, what is left is bounded by intervals alone, as is what intervals bound exactly. Where the input
    has few dimensions and the network is wide, linear bounds are propagated forwards too (see `forward`), and leave to
    `tighten` what is cheap.
    """
    values: dict[int, tuple[Tensor, Tensor]] = {0: (box.lower, box.upper)}
    relaxations: Relaxations = {}
    fast: Relaxations = {}
    magnitude = {0: torch.maximum(box.lower.abs(), box.upper.abs())} if magnitudes is None else magnitudes
    forwards = method != "ibp" and graph.elementwise and graph.input.size <= FEW
    forwards = forwards and max(node.size for node in graph.nodes) >= WIDE
    lines = {0: Lines.of(box)} if forwards else {}
    for position in range(1, len(graph.nodes)):
        node = graph.nodes[position]
        pairs = [values[source] for source in node.inputs]
        if not isinstance(node.operation, Affine):
            relaxations[position] = relax(node.operation, pairs)
            if search is not None and method == "alpha-crown":
                dtype = search_dtype(search)
                fast[position] = relax(node.operation, [_as(pair, dtype) for pair in pairs])
            low, high = interval(node.operation, pairs)
            if forwards:
                sources = [lines[source] for source in node.inputs]
                lines[position] = through_nonlinear(relaxations[position], sources)
                forget(lines, graph, position)
            values[position] = low, high
            if magnitudes is None:
                magnitude[position] = (
                    _largest(pairs[0]) if isinstance(node.operation, Relu) else _largest((low, high))
                )
            continue
        here = node.operation.magnitude(*map(_largest, pairs))
        if magnitudes is None:
            magnitude[position] = here
        else:  # of folded weights as well as of this step, on bounds that may be looser than the larger box's
            here = here + magnitude[position]
        low, high = affine_interval(node.operation, pairs, here)
        if forwards:
            sources = [lines[source] for source in node.inputs]
            extra = None if magnitudes is None else magnitudes[position]
            lines[position] = through_affine(node.operation, sources, extra)
            least, most = lines[position].range()
            low, high = torch.fmax(low, least), torch.fmin(high, most)
            forget(lines, graph, position)
        if position in graph.bounded:
            if known is not None and position in known:
                least, most = known[position]
                low, high = torch.fmax(low, least), torch.fmin(high, most)
            if method != "ibp" and position not in graph.exact and not expired():
                ascent = (
                    Ascent(search, fast, schedule)
                    if method == "alpha-crown" and search and schedule
                    else None
                )
                low, high = tighten(
                    graph,
                    (low, high),
                    relaxations,
                    magnitude,
                    box,
                    position,
                    ascent,
                    everything=graph.bounded[position],
                    dearest=DEAREST_BESIDE if forwards else DEAREST if graph.bounded[position] else None,
                    expired=expired,
                )
        values[position] = low, high
    return NodeBounds(box, values)


def forget(lines: dict[int, Lines], graph: BoundGraph, position: int) -> None:
    """Drop the lines that no node after `position` reads."""
    for source in graph.nodes[position].inputs:
        if graph.last_use[source] <= position:
            lines.pop(source, None)


def _as(pair: tuple[Tensor, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return pair[0].to(dtype), pair[1].to(dtype)


def _largest(pair: tuple[Tensor, Tensor]) -> Tensor:
    return torch.maximum(pair[0].abs(), pair[1].abs())


def cost(graph: BoundGraph) -> int:
    """Rows × numbers of all nodes before, of all nodes that `bound_nodes` tightens: how much work that may be."""
    sizes = [node.size for node in graph.nodes]
    before = list(accumulate(sizes))
    dear = [2 * sizes[p] * before[p] for p in graph.bounded]
    return sum(work for work in dear if work <= DEAREST)


def magnitudes(graph: BoundGraph, bounds: NodeBounds) -> dict[int, Tensor]:
    """For every node the M of `crown`'s rounding argument, (B, *shape)."""
    result: dict[int, Tensor] = {}
    for position, node in enumerate(graph.nodes):
        largest = [_largest(bounds.values[source]) for source in node.inputs]
        if isinstance(node.operation, Affine):
            result[position] = node.operation.magnitude(*largest)
        elif isinstance(node.operation, Relu):
            result[position] = largest[0]
        else:
            result[position] = _largest(bounds.values[position])
    return result


def search_dtype(graph: BoundGraph) -> torch.dtype:
    """The number type of a graph's weights (float64 when it has none)."""
    for node in graph.nodes:
        for name in ("weight", "bias"):
            value = getattr(node.operation, name, None)
            if isinstance(value, Tensor):
                return value.dtype
    return torch.float64


@dataclass(frozen=True)
class Ascent:
    """How slopes are optimised: on which (fast) graph, with which relaxations there, in how many steps."""

    graph: BoundGraph
    relaxations: Relaxations
    schedule: Schedule


def tighten(
    graph: BoundGraph,
    interval: tuple[Tensor, Tensor],
    relaxations: Relaxations,
    magnitude: dict[int, Tensor],
    box: Box,
    source: int,
    ascent: Ascent | None = None,
    *,
    everything: bool = False,
    dearest: int | None = None,
    expired: Callable[[], bool] = lambda: False,
) -> tuple[Tensor, Tensor]:
    """Bounds `interval` (B, *shape) of node `source`, intersected with linear bounds of its unstable neurons (or, with
    `everything`, of all that vary).

    `relaxations` are of the nonlinear nodes before it, `magnitude` as in `crown.backward`; with an ascent, slopes are
    optimised where that is not too dear. What would cost more than `dearest`, comes after `expired()`, or gains little
    going by a few neurons (see `PROBED`) stays as it is.
    """
    low, high = (bound.flatten(1).clone() for bound in interval)
    batch = len(low)
    unstable = (low < high) if everything else (low < 0) & (high > 0)
    most = int(unstable.sum(1).max())
    if most == 0:
        return interval
    # Per sub-problem its own unstable neurons, first; the rest of the columns repeats stable ones harmlessly.
    neurons = torch.argsort(unstable.to(torch.int8), dim=1, descending=True, stable=True)[:, :most]
    sizes = [node.size for node in graph.nodes[: source + 1]]
    work = 2 * most * sum(sizes)
    if dearest is not None and work > dearest:
        return interval
    if work > DEAREST_ASCENT:
        ascent = None
    widest = max(sizes)
    chunk = max(1, scaled(CHUNK_NUMBERS) // (2 * batch * widest))
    chunks = list(neurons.split(chunk, 1))
    probing = work > PROBED and most > PROBE
    if probing:
        chunks.insert(0, neurons[:, torch.linspace(0, most - 1, PROBE, device=neurons.device).long()])
    for number, chosen in enumerate(chunks):
        if expired():
            break
        rows = signed_rows(graph, source, chosen, magnitude)
        multipliers = None
        if ascent is not None:
            dtype = search_dtype(ascent.graph)
            best = optimise(
                ascent.graph,
                ascent.relaxations,
                box.to(dtype),
                rows.start,
                rows.rows.to(dtype),
                ascent.schedule,
                expired=expired,
            )
            multipliers = {p: m.to(low.dtype) for p, m in best.multipliers.items()}
        linear = backward(graph, relaxations, rows.start, rows.rows, multipliers, magnitudes=magnitude)
        lower, upper = rows.added(linear.minimum(box)).split(chosen.shape[1], 1)
        # Where numbers overflow the linear bound is NaN, and says nothing: fmax keeps the other.
        before = (high - low).gather(1, chosen)
        low.scatter_(1, chosen, torch.fmax(low.gather(1, chosen), lower))
        high.scatter_(1, chosen, torch.fmin(high.gather(1, chosen), -upper))
        # Of infinite intervals the share is NaN, and all are bounded.
        if probing and number == 0:
            after = (high - low).gather(1, chosen)
            if float(after.sum() / before.sum()) > WORTHWHILE:
                break
    shape = graph.nodes[source].shape
    return low.unflatten(1, shape), high.unflatten(1, shape)


@dataclass(frozen=True)
class Rows:
    """Rows ±e_i of a node's neurons i, as rows (B, 2K, *shape) of node `start` and constants (B, 2K), which may be
    off by `error`."""

    start: int
    rows: Tensor
    constant: Tensor | None = None
    error: Tensor | None = None

    def added(self, bound: Tensor) -> Tensor:
        """Bounds (B, 2K) of the rows' linear part with the constants added, rounded down."""
        if self.constant is None or self.error is None:
            return bound
        slack = gamma(8, bound) * (bound.abs() + self.constant.abs())
        return bound + self.constant - self.error * (1 + 1e-6) - slack


def signed_rows(graph: BoundGraph, source: int, chosen: Tensor, magnitude: dict[int, Tensor]) -> Rows:
    """The rows of the neurons `chosen` (B, K) of node `source`, both signs.

    Of a dense map they are its weights: the first, and often largest, product of a substitution is with a unit matrix,
    and is left out. Its margin for rounding is the one that `crown.backward` would take.
    """
    node = graph.nodes[source]
    operation = node.operation
    if isinstance(operation, Dense) and len(operation.weight) == node.size:
        (start,) = node.inputs
        weight = operation.weight[chosen].unflatten(2, graph.nodes[start].shape)
        bias = weight.new_zeros(()) if operation.bias is None else operation.bias[chosen]
        bias = bias.expand(chosen.shape)
        error = gamma(node.size + 8 + operation.terms, weight) * magnitude[source].flatten(1).expand(
            len(chosen), -1
        ).gather(1, chosen)
        return Rows(
            start, torch.cat([weight, -weight], 1), torch.cat([bias, -bias], 1), torch.cat([error, error], 1)
        )
    rows = torch.zeros(*chosen.shape, node.size, dtype=magnitude[source].dtype, device=chosen.device)
    rows.scatter_(2, chosen.unsqueeze(2), 1.0)
    return Rows(source, torch.cat([rows, -rows], 1).unflatten(2, node.shape))
