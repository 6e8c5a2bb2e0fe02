"""Linear bounds by backward substitution (CROWN), with the Lagrangian terms of split constraints (β-CROWN).

A specification row is a linear function ⟨c, v⟩ of one node's value v. Substituting every nonlinear node by a linear
lower or upper bound, from that node back to the input, gives a linear function of the input that bounds it from below
on the sub-problem's region; its minimum over the box is the bound (Zhang et al. 2018, "Efficient neural network
robustness certification with general activation functions"; splits: Wang et al. 2021, "Beta-CROWN").

An upper bound of a row is minus the lower bound of the negated row, so that only lower bounds are coded.

Shapes: B sub-problems, S rows each; `rows` is (B, S, *node shape), a bound (B, S).

**Multipliers.** What may be chosen of the lines (slopes α) and of the split constraints (dual variables β) is one
tensor a node; see `relaxation`. The derivative of the bound by it comes from one forward propagation of the bound's
minimiser through the chosen lines (envelope theorem: the minimiser attains the bound).

**Rounding.** With `magnitudes` given, every step's rounding error is bounded and taken off the bound. At a node with
output coefficients A, computed coefficients Â of its inputs h differ from the exact AW by at most γ_n |A||W|, so the
substituted inequality is off by at most γ_n ⟨|A|, |W||h| + |b|⟩ ≤ γ_n ⟨|A|, M⟩, where M = `magnitudes` bounds
|W||h| + |b| on the region and is computed once. Each step then yields a valid inequality between real numbers for the
coefficients as computed, and the errors add up (γ_n: Higham 2002, section 3.1; n is doubled to absorb second-order
terms and the rounding of the sum of errors itself). Products that underflow lose at most FLOOR each, in a coefficient
that multiplies a value of at most the source's M.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.relaxation import Multipliers, Relaxations, products
from secateur.pipeline.verify.graph.bound_graph import FLOOR, BoundGraph, gamma
from secateur.pipeline.verify.graph.operations import Affine


@dataclass(frozen=True)
class Box:
    """Input boxes of B sub-problems: lower and upper (B, *input shape)."""

    lower: Tensor
    upper: Tensor

    def to(self, dtype: torch.dtype) -> Box:
        return Box(self.lower.to(dtype), self.upper.to(dtype))

    def __getitem__(self, keep: Tensor | slice | int) -> Box:
        return Box(self.lower[keep], self.upper[keep])

    def minimum(self, coefficient: Tensor) -> Tensor:
        """The least values (B, S) of linear functions with coefficients (B, S, *input shape)."""
        positive = coefficient.clamp(min=0)
        negative = coefficient - positive
        return products(positive, self.lower) + products(negative, self.upper)

    def minimiser(self, coefficient: Tensor) -> Tensor:
        """A corner of each box that attains the minimum, (B, S, *input shape)."""
        return torch.where(coefficient >= 0, self.lower.unsqueeze(1), self.upper.unsqueeze(1))


@dataclass
class Tape:
    """What one backward substitution leaves for its gradient and for branching.

    Per nonlinear node its relaxation's trace and the coefficient A (B, S, *shape) of its value; once the minimiser was
    propagated, the value of the node that was bounded.
    """

    traces: dict[int, Any] = field(default_factory=dict)
    coefficient: dict[int, Tensor] = field(default_factory=dict)
    value: Tensor | None = None


@dataclass(frozen=True)
class Linear:
    """A linear lower bound on the input: coefficient (B, S, *input shape), constant (B, S)."""

    coefficient: Tensor
    constant: Tensor

    def minimum(self, box: Box) -> Tensor:
        """The minimum over the boxes, (B, S)."""
        return self.constant + box.minimum(self.coefficient)

    def minimiser(self, box: Box) -> Tensor:
        """A corner of each box that attains the minimum, (B, S, *input shape)."""
        return box.minimiser(self.coefficient)


def backward(
    graph: BoundGraph,
    relaxations: Relaxations,
    start: int,
    rows: Tensor,
    multipliers: Multipliers | None = None,
    *,
    direct: Tensor | None = None,
    tape: Tape | None = None,
    magnitudes: dict[int, Tensor] | None = None,
) -> Linear:
    """The linear lower bound of ⟨rows, value of node `start`⟩ + ⟨direct, input⟩; see the module's docstring.

    Without `multipliers` the slopes are CROWN's adaptive ones. With `magnitudes` (from `root.magnitudes`) the bound is
    rigorous in floating point. A bound is valid only if the bounds behind `relaxations` are.
    """
    batch, count = rows.shape[:2]
    pending: dict[int, Tensor] = {start: rows}
    if direct is not None:
        pending[0] = rows + direct if start == 0 else direct
    constant = rows.new_zeros(batch, count)
    error = rows.new_zeros(batch, count)
    for position in range(start, 0, -1):
        a = pending.pop(position, None)
        if a is None:
            continue
        node = graph.nodes[position]
        operation = node.operation
        if magnitudes is not None and isinstance(operation, Affine) and operation.terms:
            error += gamma(node.size + 8 + operation.terms, a) * products(a.abs(), magnitudes[position])
        if isinstance(operation, Affine):
            offset = operation.offset(a.flatten(0, 1))
            if offset is not None:
                constant += offset.view(batch, count)
            results = operation.transpose_rows(a)
            if magnitudes is not None and operation.terms:
                lost = FLOOR * operation.terms
                error += sum(
                    lost * magnitudes[source].flatten(1).sum(1, keepdim=True) for source in node.inputs
                )
            for source, result in zip(node.inputs, results, strict=True):
                pending[source] = pending[source] + result if source in pending else result
        else:
            multiplier = None if multipliers is None else multipliers[position]
            relaxation = relaxations[position]
            if magnitudes is not None:
                factor = gamma(node.size + 8, a)
                own = relaxation.error(a, multiplier, factor)
                error += factor * products(a.abs(), magnitudes[position]) if own is None else own
            substitution = relaxation.substitute(a, multiplier, tape is not None)
            constant += substitution.shift
            if tape is not None:
                tape.traces[position] = substitution.trace
                tape.coefficient[position] = a
            for source, result in zip(node.inputs, substitution.coefficients, strict=True):
                pending[source] = pending[source] + result if source in pending else result
    coefficient = pending.get(0)
    if coefficient is None:  # the node does not depend on the input at all
        coefficient = rows.new_zeros(batch, count, *graph.input.shape)
    if magnitudes is not None:
        terms = graph.input.size + 8
        error += gamma(terms, rows) * products(coefficient.abs(), magnitudes[0])
        constant = constant - error * (1 + 1e-6) - gamma(8, rows) * constant.abs()
    return Linear(coefficient, constant)


def relaxed_values(
    graph: BoundGraph,
    relaxations: Relaxations,
    multipliers: Multipliers,
    tape: Tape,
    x: Tensor,
    until: int,
) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Arguments z (B, S, *shape) of every nonlinear node on the tape when x (B, S, *input shape) is propagated through
    the lines that the substitution chose. Yields (position, z) in order; the value of `until` stays on the tape."""
    batch, count = x.shape[:2]
    known: dict[int, Tensor] = {0: x.flatten(0, 1)}
    for position in range(1, until + 1):
        node = graph.nodes[position]
        if any(source not in known for source in node.inputs):
            continue
        if isinstance(node.operation, Affine):
            known[position] = node.operation.forward(*(known[source] for source in node.inputs))
        elif position in tape.traces:
            z = tuple(known[source].unflatten(0, (batch, count)) for source in node.inputs)
            yield position, z
            line = relaxations[position].line(tape.traces[position], multipliers[position], *z)
            known[position] = line.flatten(0, 1)
        for source in node.inputs:
            if graph.last_use[source] <= position:
                known.pop(source, None)
    tape.value = known[until].unflatten(0, (batch, count)) if until in known else None
