"""What a domain's own bound says of its neurons.

A linear lower bound ⟨a, x⟩ + c of a clause's rows on a domain (split constraints' terms included: `crown`) that is not
positive everywhere refutes nothing, but where it is positive: whatever satisfies the clause lies in the half-space
⟨a, x⟩ + c ≤ 0. With a linear lower bound ⟨A, x⟩ + b ≤ z of a neuron's argument, the least of z over what is left of
the box is at least

    max over λ ≥ 0 of  min over the box of ⟨A + λa, x⟩ + b + λc

and every λ gives a valid bound; a few steps of bisection on the sign of the inner minimiser's ⟨a, x⟩ + c find a good
one. Zhou et al. 2025, "Clip-and-Verify: linear constraint-driven domain clipping for accelerating neural network
verification"; with the clause's constraint also Kotha et al. 2023, "Provably bounding neural network preimages".

**Rounding.** All in float64, by the box's centre and radius. With X the largest |x| in the box, evaluating the minimum
for one λ errs by at most γ_n (⟨|A| + λ|a|, X⟩ + |b| + λ|c|), n twice the number of inputs and some. It is taken off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.crown import Linear, backward
from secateur.pipeline.verify.graph.bound_graph import gamma
from secateur.pipeline.verify.memory import scaled
from secateur.pipeline.verify.search.problem import Problem

STEPS = 4
"""Values of λ tried for every neuron, besides 0."""

CHUNK_NUMBERS = 100_000
"""How many numbers one chunk of domains × neurons × inputs may hold."""


class Tightening:
    """Bounds of all neurons' arguments, domain by domain, from the half-spaces of domains' bounds."""

    def __init__(self, problem: Problem) -> None:
        folded, layout = problem.folded, problem.layout
        graph = folded.graph
        signs = torch.zeros(1, layout.total, dtype=torch.int8, device=problem.rows.device)
        relaxations = problem.relaxations(signs.new_zeros(1, dtype=torch.long), signs, torch.float64)
        parts = []
        for position, size in layout.sizes.items():
            unit = torch.eye(size, dtype=torch.float64, device=signs.device)
            rows = torch.stack([unit, -unit]).unsqueeze(0).flatten(1, 2)
            source = graph.preactivation(position)
            linear = backward(graph, relaxations, source, rows, magnitudes=folded.magnitudes)
            parts.append((linear.coefficient[0].unflatten(0, (2, size)), linear.constant[0].view(2, size)))
        # Of every argument z, and of every -z: (2U, n) and (2U,).
        self._coefficient = torch.cat([coefficient for coefficient, _ in parts], 1).flatten(0, 1)
        self._constant = torch.cat([constant for _, constant in parts], 1).flatten()
        low, high = folded.box.lower[0], folded.box.upper[0]
        self._centre, self._radius = (low + high) / 2, (high - low) / 2
        self._largest = torch.maximum(folded.box.lower.abs(), folded.box.upper.abs())[0]
        self._size = self._coefficient.abs() @ self._largest + self._constant.abs()

    def bounds(self, linear: Linear) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds (B, U) of arguments where linear bounds (B, 1, n) of clauses are not positive."""
        rows, inputs = self._coefficient.shape
        chunk = max(1, scaled(CHUNK_NUMBERS) // (rows * inputs))
        a, c = linear.coefficient.squeeze(1), linear.constant.squeeze(1)
        pieces = [self._least(*pair) for pair in zip(a.split(chunk), c.split(chunk), strict=True)]
        lower, upper = torch.cat(pieces).chunk(2, 1)
        return lower, -upper

    def _least(self, a: Tensor, c: Tensor) -> Tensor:
        """The bounds (B, 2U) for half-spaces a (B, n), c (B,)."""
        normal, shift = a.unsqueeze(1), c.unsqueeze(1) + (a @ self._centre).unsqueeze(1)
        own = self._constant + self._coefficient @ self._centre
        sides = (a * self._radius).unsqueeze(2)
        size = (a.abs() @ self._largest + c.abs()).unsqueeze(1)
        rate = gamma(2 * a.shape[1] + 32, a)
        # λ beyond this turns every coefficient's sign into that of a.
        end = self._coefficient.abs().amax(1) / a.abs().amax(1, keepdim=True).clamp(min=1e-12)
        start = torch.zeros_like(end)
        multiplier = start
        best = torch.full_like(end, -torch.inf)
        for _ in range(STEPS + 1):
            coefficient = self._coefficient + multiplier.unsqueeze(2) * normal
            value = own + multiplier * shift - coefficient.abs() @ self._radius
            best = torch.fmax(best, value - rate * (self._size + multiplier * size))
            outside = shift > (coefficient.sign() @ sides).squeeze(2)
            start, end = torch.where(outside, multiplier, start), torch.where(outside, end, multiplier)
            multiplier = (start + end) / 2
        return best
