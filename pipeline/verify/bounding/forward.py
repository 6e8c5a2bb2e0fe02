"""Linear bounds propagated forwards, for boxes of few dimensions.

Every node's value lies between two linear functions of the input, which are carried through the network: with K inputs
that is K + 1 forward passes for the bounds of all nodes, where substituting backwards takes a pass for every neuron of
every layer (Singh et al. 2019, "An abstract domain for certifying neural networks"; forward mode as in Xu et al. 2020,
"Automatic perturbation analysis for scalable robustness certification and beyond"). The input is written
x = c + r ∘ t with t in [-1, 1]^K, so that a line's range is its constant ± the sum of its absolute coefficients.

**Rounding.** A line through an affine node with weights W is off, for all t at once, by at most γ_n |W| S + γ_n |b|,
where S is the sum of the absolute coefficients and constants of the lines that enter; that is taken off the lower
line's constant and added to the upper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.relaxation import Relaxation
from secateur.pipeline.verify.graph.bound_graph import FLOOR, gamma, unit
from secateur.pipeline.verify.graph.operations import Affine, Select


@dataclass(frozen=True)
class Lines:
    """Linear bounds of one node: (K + 1, B, *shape), the coefficients of t and, last, the constant."""

    lower: Tensor
    upper: Tensor

    def size(self) -> Tensor:
        """(B, *shape): a bound of all absolute coefficients and constants of either line together."""
        return torch.maximum(self.lower.abs(), self.upper.abs()).sum(0)

    def range(self) -> tuple[Tensor, Tensor]:
        """What the lines say of the node: bounds (B, *shape)."""
        low, high = self.lower[-1], self.upper[-1]
        below, above = self.lower[:-1].abs().sum(0), self.upper[:-1].abs().sum(0)
        factor = gamma(len(self.lower) + 8, low)
        return low - below - factor * (low.abs() + below), high + above + factor * (high.abs() + above)

    @staticmethod
    def of(box: Box) -> Lines:
        """The input itself."""
        centre = (box.lower + box.upper) / 2
        radius = torch.maximum(box.upper - centre, centre - box.lower) * (1 + 4 * unit(centre))
        flat = torch.diag_embed(radius.flatten(1)).movedim(1, 0)
        lines = torch.cat([flat.unflatten(2, centre.shape[1:]), centre.unsqueeze(0)])
        return Lines(lines, lines)


def through_affine(operation: Affine, sources: Sequence[Lines], magnitude: Tensor | None) -> Lines:
    """The lines of an affine node; `magnitude` (1 or B, *shape) is that of weights that carry errors of their own."""
    count = len(sources[0].lower)

    def apply(function: str, parts: Sequence[Tensor]) -> Tensor:
        result: Tensor = getattr(operation, function)(*(part.flatten(0, 1) for part in parts))
        return torch.unflatten(result, 0, (count, -1))

    if operation.terms == 0 or isinstance(operation, Select):  # moves numbers only: exact
        return Lines(
            apply("forward", [s.lower for s in sources]), apply("forward", [s.upper for s in sources])
        )
    same = all(source.lower is source.upper for source in sources)
    middle = apply("linear", [s.lower if same else (s.lower + s.upper) / 2 for s in sources])
    sizes = [source.size() for source in sources]
    error = operation.magnitude(*(2 * size for size in sizes))
    error = (
        gamma(4 * operation.terms + 16, error) * (error if magnitude is None else error + magnitude) + FLOOR
    )
    bias = operation.forward(*(torch.zeros_like(size[:1]) for size in sizes))
    spread = None if same else apply("absolute", [(s.upper - s.lower) / 2 for s in sources])
    lower, upper = (middle.clone(), middle) if spread is None else (middle - spread, middle + spread)
    lower[-1] += bias - error
    upper[-1] += bias + error
    return Lines(lower, upper)


def through_nonlinear(relaxation: Relaxation, sources: Sequence[Lines]) -> Lines:
    """The lines of a nonlinear node whose arguments have the lines `sources`."""
    results = []
    for sign, (coefficients, constant) in zip((1.0, -1.0), relaxation.lines(), strict=True):
        line: Tensor | None = None
        error = constant.abs()
        for coefficient, source in zip(coefficients, sources, strict=True):
            # Of the lower line: positive coefficients take the lower line of the argument; above the other way round.
            first, second = (source.lower, source.upper) if sign > 0 else (source.upper, source.lower)
            term = coefficient.clamp(min=0) * first + coefficient.clamp(max=0) * second
            line = term if line is None else line + term
            error = error + coefficient.abs() * source.size()
        assert line is not None
        line[-1] += constant - sign * (gamma(16, error) * error + FLOOR)
        results.append(line)
    return Lines(*results)
