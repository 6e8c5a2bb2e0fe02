"""Linear bounds by backward substitution (CROWN), with the Lagrangian terms of split constraints (β-CROWN).

A specification row is a linear function ⟨c, v⟩ of one node's value v. Substituting every ReLU by a linear lower or
upper bound, from that node back to the input, gives a linear function of the input that bounds it from below on the
sub-problem's region; its minimum over the box is the bound (Zhang et al. 2018, "Efficient neural network robustness
certification with general activation functions"; splits: Wang et al. 2021, "Beta-CROWN").

An upper bound of a row is minus the lower bound of the negated row, so that only lower bounds are coded.

Shapes: B sub-problems, S rows each; `rows` is (B, S, *node shape), a bound (B, S).

**Multipliers.** A neuron is unstable (its bounds straddle zero, and it is not split) and then has a lower slope
α ∈ [0, 1], or it is split (sign σ = ±1: the constraint σz ≥ 0) and then has a dual variable β ≥ 0, or it is stable
and has neither. So one tensor `multiplier` per ReLU holds α and β. With A the coefficient of the ReLU's output,
A⁺ and A⁻ its positive and negative parts, `active` the indicator of active neurons, (s, t) the upper line:

    coefficient of z = A⁺·active + A⁻·s + multiplier·G,   G = A⁺·unstable - σ,   constant += ⟨A⁻, t⟩

and the derivative of the bound with respect to the multiplier is G·z̃, where z̃ is the neuron's value when the
minimiser of the bound is propagated forwards through the chosen lines (envelope theorem: the bound is piecewise
linear in each multiplier, and the minimiser attains it).

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
from functools import cached_property

import torch
from torch import Tensor

from secateur.pipeline.verify.graph import FLOOR, BoundGraph, gamma, unit
from secateur.pipeline.verify.operations import Affine, Input, Relu


@dataclass(frozen=True)
class Box:
    """Input boxes of B sub-problems: lower and upper (B, *input shape)."""

    lower: Tensor
    upper: Tensor

    def to(self, dtype: torch.dtype) -> Box:
        return Box(self.lower.to(dtype), self.upper.to(dtype))

    def __getitem__(self, keep: Tensor | slice | int) -> Box:
        return Box(self.lower[keep], self.upper[keep])


@dataclass(frozen=True)
class Relaxation:
    """The lines that replace one ReLU on [lower, upper] (B, *shape); all fields (B, 1, *shape).

    `active`: 1 where the neuron is active; `unstable`: 1 where it is unstable; `sign`: σ of its split, or 0;
    `slope`, `intercept`: the upper line (s, t); `initial`: the slope α of CROWN's adaptive rule.
    """

    active: Tensor
    unstable: Tensor
    slope: Tensor
    intercept: Tensor
    initial: Tensor
    sign: Tensor | None

    @cached_property
    def adaptive(self) -> Tensor:
        """The lower line's slope where α is CROWN's own."""
        return self.active + self.unstable * self.initial

    @staticmethod
    def of(lower: Tensor, upper: Tensor, sign: Tensor | None = None) -> Relaxation:
        """The relaxation for bounds (B, *shape) and split signs σ (B, *shape, in {-1, 0, 1}, or None).

        A split neuron counts as active (σ = 1) or inactive (σ = -1) whatever its bounds: the constraint is kept by
        its β. The intercept is rounded up far enough that the line lies above the ReLU at both ends in exact
        arithmetic: 8u(u - l) covers the rounding of the slope and of the product.
        """
        low, high = lower.clamp(max=0), upper.clamp(min=0)
        width = high - low
        tiny = torch.finfo(lower.dtype).tiny
        slope = high / width.clamp(min=tiny)
        intercept = -slope * low + 8 * unit(lower) * width + FLOOR
        unstable = (lower < 0) & (upper > 0)
        active = lower >= 0
        if sign is not None:
            unstable = unstable & (sign == 0)
            active = (active & (sign == 0)) | (sign > 0)
        slope = torch.where(unstable, slope, active.to(lower.dtype))
        intercept = torch.where(unstable, intercept, intercept.new_zeros(()))
        initial = ((high > -low) & unstable).to(lower.dtype)
        split = None if sign is None else sign.unsqueeze(1).to(lower.dtype)
        parts = (active.to(lower.dtype), unstable.to(lower.dtype), slope, intercept, initial)
        a, n, s, t, i = (part.unsqueeze(1) for part in parts)
        return Relaxation(a, n, s, t, i, split)


Relaxations = dict[int, Relaxation]
"""A relaxation per ReLU node of the graph, by position."""

Multipliers = dict[int, Tensor]
"""α and β per ReLU node, (B, S or 1, *shape)."""


@dataclass
class Tape:
    """What one backward substitution leaves for its gradient: G and the sign of A per ReLU, both (B, S, *shape)."""

    gain: dict[int, Tensor] = field(default_factory=dict)
    positive: dict[int, Tensor] = field(default_factory=dict)
    coefficient: dict[int, Tensor] = field(default_factory=dict)
    value: Tensor | None = None


@dataclass(frozen=True)
class Linear:
    """A linear lower bound on the input: coefficient (B, S, *input shape), constant (B, S)."""

    coefficient: Tensor
    constant: Tensor

    def minimum(self, box: Box) -> Tensor:
        """The minimum over the boxes, (B, S)."""
        positive = self.coefficient.clamp(min=0)
        negative = self.coefficient - positive
        return self.constant + products(positive, box.lower) + products(negative, box.upper)

    def minimiser(self, box: Box) -> Tensor:
        """A corner of each box that attains the minimum, (B, S, *input shape)."""
        return torch.where(self.coefficient >= 0, box.lower.unsqueeze(1), box.upper.unsqueeze(1))


def products(a: Tensor, values: Tensor) -> Tensor:
    """The sums ⟨a, values⟩ over a node's shape, (B, S), of coefficients (B, S, *shape) and values (B or 1, *shape)."""
    return (a.flatten(2) @ values.flatten(1).unsqueeze(2)).squeeze(2)


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
        if magnitudes is not None and not (isinstance(operation, Affine) and operation.terms == 0):
            terms = node.size + 8 + (operation.terms if isinstance(operation, Affine) else 0)
            error += gamma(terms, a) * products(a.abs(), magnitudes[position])
        if isinstance(operation, Affine):
            flat = a.flatten(0, 1)
            offset = operation.offset(flat)
            if offset is not None:
                constant += offset.view(batch, count)
            results = operation.transpose(flat)
            if magnitudes is not None and operation.terms:
                lost = FLOOR * operation.terms
                error += sum(
                    lost * magnitudes[source].flatten(1).sum(1, keepdim=True) for source in node.inputs
                )
            for source, result in zip(node.inputs, results, strict=True):
                result = result.unflatten(0, (batch, count))
                pending[source] = pending[source] + result if source in pending else result
        else:
            assert isinstance(operation, Relu)
            result, shift = _substitute(relaxations[position], a, position, multipliers, tape)
            constant += shift
            (source,) = node.inputs
            pending[source] = pending[source] + result if source in pending else result
    coefficient = pending.get(0)
    if coefficient is None:  # the node does not depend on the input at all
        coefficient = rows.new_zeros(batch, count, *graph.input.shape)
    if magnitudes is not None:
        terms = graph.input.size + 8
        error += gamma(terms, rows) * products(coefficient.abs(), magnitudes[0])
        constant = constant - error * (1 + 1e-6) - gamma(8, rows) * constant.abs()
    return Linear(coefficient, constant)


def _substitute(
    relaxation: Relaxation, a: Tensor, position: int, multipliers: Multipliers | None, tape: Tape | None
) -> tuple[Tensor, Tensor]:
    negative = a.clamp(max=0)
    positive = a - negative
    shift = products(negative, relaxation.intercept.squeeze(1))
    if multipliers is None and relaxation.sign is None and tape is None:
        return torch.addcmul(positive * relaxation.adaptive, negative, relaxation.slope), shift
    gain = positive * relaxation.unstable
    if relaxation.sign is not None:
        gain = gain - relaxation.sign
    result = torch.addcmul(positive * relaxation.active, negative, relaxation.slope)
    if multipliers is not None:
        result = torch.addcmul(result, gain, multipliers[position])
    else:
        result = torch.addcmul(result, positive * relaxation.unstable, relaxation.initial)
    if tape is not None:
        tape.gain[position] = gain
        tape.positive[position] = a >= 0
        tape.coefficient[position] = a
    return result, shift


def relaxed_values(
    graph: BoundGraph,
    relaxations: Relaxations,
    multipliers: Multipliers,
    tape: Tape,
    x: Tensor,
    until: int,
) -> Iterator[tuple[int, Tensor]]:
    """Pre-activations z̃ (B, S, *shape) of every ReLU on the tape when x (B, S, *input shape) is propagated through
    the lines that the substitution chose. Yields (position, z̃) in order; the value of `until` stays on the tape."""
    batch, count = x.shape[:2]
    known: dict[int, Tensor] = {0: x.flatten(0, 1)}
    for position in range(1, until + 1):
        node = graph.nodes[position]
        if any(source not in known for source in node.inputs):
            continue
        if isinstance(node.operation, Relu):
            z = known[node.inputs[0]].unflatten(0, (batch, count))
            relaxation = relaxations[position]
            if position not in tape.gain:
                continue
            yield position, z
            lower = relaxation.active + relaxation.unstable * multipliers[position]
            line = torch.where(
                tape.positive[position], lower * z, relaxation.slope * z + relaxation.intercept
            )
            known[position] = line.flatten(0, 1)
        else:
            assert not isinstance(node.operation, Input)
            known[position] = node.operation.forward(*(known[source] for source in node.inputs))
        for source in node.inputs:
            if graph.last_use[source] <= position:
                known.pop(source, None)
    tape.value = known[until].unflatten(0, (batch, count)) if until in known else None
