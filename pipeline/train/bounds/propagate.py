"""Boxes sent forward through a trace (IBP), and linear functions sent back (CROWN)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from secateur.pipeline.train.bounds.rules import Affine, Relu
from secateur.pipeline.train.bounds.trace import Node, Trace


@dataclass(frozen=True)
class Interval:
    """Bounds of one node, [N, *shape]: centre ± radius."""

    centre: Tensor
    radius: Tensor

    @staticmethod
    def of(lower: Tensor, upper: Tensor) -> Interval:
        return Interval((lower + upper) / 2, (upper - lower) / 2)

    @cached_property
    def lower(self) -> Tensor:
        return self.centre - self.radius

    @cached_property
    def upper(self) -> Tensor:
        return self.centre + self.radius


Intervals = tuple[Interval, ...]
"""Of every node of a trace."""

_TINY = 1e-12


def ball(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Raw pixels x [N, …] ± ε, within [0, 1]."""
    return (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)


def intervals(trace: Trace, lower: Tensor, upper: Tensor) -> Intervals:
    """Bounds of all nodes over the boxes [lower, upper], each [N, *input shape]: interval bound propagation in centre
    and radius (Gowal et al. 2018, 1810.12715, section 3)."""
    found: list[Interval] = []
    for node in trace.nodes:
        sources = [found[source] for source in node.inputs]
        if node.operation is None:
            found.append(Interval.of(lower, upper))
        elif isinstance(node.operation, Affine):
            centre = node.operation.forward(*(source.centre for source in sources))
            found.append(Interval(centre, node.operation.absolute(*(source.radius for source in sources))))
        else:
            (source,) = sources
            found.append(
                Interval.of(node.operation.forward(source.lower), node.operation.forward(source.upper))
            )
    return tuple(found)


def interval_rows(trace: Trace, known: Intervals, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds [N, S] of linear functions rows [N, S, outputs] of the outputs, by intervals: the rows are merged with
    the last affine layers ("elision of the last layer", Gowal et al. 2018, section 3)."""
    found = _backward(trace, known, rows, relax=False)
    return found.constant - found.radius, found.constant + found.radius


def crown_rows(trace: Trace, known: Intervals, rows: Tensor) -> Tensor:
    """Lower bounds [N, S] of linear functions rows [N, S, outputs] of the outputs, by linear relaxations backwards
    (CROWN: Zhang et al. 2018, 1811.00866), the bounds of all pre-activations being `known`.

    With those of IBP this is CROWN-IBP (Zhang et al. 2020, 1906.06316). An unstable ReLU's lower line has slope 1 where
    u > −l, else 0. Monotone functions but the ReLU count as their intervals.
    """
    found = _backward(trace, known, rows, relax=True)
    return found.constant - found.radius


@dataclass
class _Sum:
    """What rows come to: a number, and how far it may be off, each [N, S]."""

    constant: Tensor
    radius: Tensor


def _backward(trace: Trace, known: Intervals, rows: Tensor, *, relax: bool) -> _Sum:
    size, count = rows.shape[:2]
    total = _Sum(rows.new_zeros(size, count), rows.new_zeros(size, count))
    pending = {trace.output: rows.reshape(size, count, *trace.nodes[trace.output].value.shape[1:])}
    for position in range(trace.output, -1, -1):
        if position not in pending:
            continue
        coefficient, node = pending.pop(position), trace.nodes[position]
        if isinstance(node.operation, Affine):
            if not node.operation.linear:
                zeros = [torch.zeros_like(trace.nodes[source].value[:1]) for source in node.inputs]
                total.constant = total.constant + _dot(coefficient, node.operation.forward(*zeros))
            passed = zip(node.inputs, _transposed(trace, node, coefficient), strict=True)
        elif relax and isinstance(node.operation, Relu):
            (source,) = node.inputs
            down, intercept = _through_relu(coefficient, known[source].lower, known[source].upper)
            total.constant = total.constant + intercept
            passed = zip((source,), (down,), strict=True)
        else:  # the input, or a function that counts as its interval
            total.constant = total.constant + _dot(coefficient, known[position].centre)
            total.radius = total.radius + _dot(coefficient.abs(), known[position].radius)
            continue
        for source, part in passed:
            pending[source] = pending[source] + part if source in pending else part
    return total


def _through_relu(coefficient: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients [N, S, *shape] of max(0, x) as those of x, and what they add, [N, S], for a lower bound."""
    unstable = (low < 0) & (high > 0)
    active = (low >= 0).to(low.dtype)
    least, most = low.clamp(max=0), high.clamp(min=0)
    chord = most / (most - least).clamp(min=_TINY)
    upper = torch.where(unstable, chord, active)
    lower = torch.where(unstable, (high > -low).to(low.dtype), active)
    offset = torch.where(unstable, -chord * least, torch.zeros_like(low))
    # Not of clamped halves: a coefficient of 0, common in pruned networks, would count in both gradients.
    slope = torch.where(coefficient > 0, lower.unsqueeze(1), upper.unsqueeze(1))
    return coefficient * slope, _dot(coefficient.clamp(max=0), offset)


def _transposed(trace: Trace, node: Node, coefficient: Tensor) -> list[Tensor]:
    """Coefficients [N, S, *shape] of an affine node's value as those of its inputs."""
    assert isinstance(node.operation, Affine)
    size, count = coefficient.shape[:2]
    rows = coefficient.flatten(0, 1)
    shapes = [torch.Size((len(rows), *trace.nodes[source].value.shape[1:])) for source in node.inputs]
    if node.operation.transposed is not None:
        (shape,) = shapes
        parts = [node.operation.transposed(rows, shape)]
    else:
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            zeros = [rows.new_zeros(shape).requires_grad_() for shape in shapes]
            value = node.operation.forward(*zeros)
        parts = list(torch.autograd.grad(value, zeros, rows, create_graph=wanted))
    return [part.reshape(size, count, *shape[1:]) for part, shape in zip(parts, shapes, strict=True)]


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Σ over *shape of first [N, S, *shape] · second [N or 1, *shape]: [N, S]."""
    return (first.flatten(2) @ second.flatten(1).unsqueeze(2)).squeeze(2)
