"""Functions x·g(x) whose stationary points have no closed form: Gelu and Swish, solved by Newton's method.

Between neighbouring points of inflection f' is monotone, so that f' = s has one solution there at most, and a table of
f' says between which of its points. Whatever x̂ in that cell a few steps of Newton's method arrive at, the extreme of
f - s·x in the cell differs from its value at x̂ by |f'(x̂) - s| times the cell's width at most, since |f' - s| only
falls from x̂ towards the solution. That much is allowed for (`doubt`): soundness does not rest on convergence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from secateur.pipeline.verify.graph.functions import Function

CELLS, STEPS = 1024, 5


class Gate(Function):
    """Base: a subclass gives f, f' and f'', and where f'' = 0."""

    split_at = 0.0
    turn: ClassVar[float]
    """The points of inflection are -turn and turn."""
    reach: ClassVar[float]
    """Below -reach f, f' and f'' are zero as good as exactly, and above reach f is x."""

    def derivative(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def curvature(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        found = []
        for points, values in _tables(self, slope.dtype, slope.device):
            place = torch.searchsorted(values, slope.contiguous()).clamp(1, CELLS)
            ends = torch.stack([points[place - 1], points[place]])
            low, high = ends.amin(0), ends.amax(0)
            x = (low + high) / 2
            for _ in range(STEPS):
                x = x - (self.derivative(x) - slope) / self.curvature(x)
                x = torch.where(x.isnan(), low, x.clamp(low, high))
            solved = (slope >= values[0]) & (slope <= values[-1])
            found.append(torch.where(solved, x, math.nan))
        return found

    def doubt(self, slope: Tensor, point: Tensor) -> Tensor | None:
        width = 2 * self.reach / CELLS  # no cell is wider
        missed = (self.derivative(point) - slope).abs() * width
        return torch.where(point.isnan(), 0.0, missed)


@lru_cache(maxsize=16)
def _tables(gate: Gate, dtype: torch.dtype, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """For each piece between points of inflection CELLS + 1 points and f' there, in rising order of f'."""
    tables = []
    # f' rises in the middle piece and falls in the outer ones, which are gone through backwards.
    for first, last in ((-gate.turn, -gate.reach), (-gate.turn, gate.turn), (gate.reach, gate.turn)):
        points = torch.linspace(first, last, CELLS + 1, dtype=torch.float64).to(dtype).to(device)
        tables.append((points, gate.derivative(points).cummax(0).values))
    return tables


@dataclass(frozen=True)
class Gelu(Gate):
    """x·Φ(x), Φ the normal distribution; f' = Φ + x·φ, f'' = φ·(2 - x²) (Hendrycks and Gimpel 2016)."""

    turn, reach = math.sqrt(2), 37.0
    error = 128.0  # the relative error of erfc grows with x²

    def __call__(self, x: Tensor) -> Tensor:
        y = 0.5 * x * torch.erfc(-x * math.sqrt(0.5))
        return torch.where(x == -math.inf, 0.0, y)

    def derivative(self, x: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-x * math.sqrt(0.5)) + x * self._density(x)

    def curvature(self, x: Tensor) -> Tensor:
        return self._density(x) * (2 - x * x)

    def _density(self, x: Tensor) -> Tensor:
        return torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Swish(Gate):
    """x·σ(x); f' = σ·(1 + x·(1 - σ)), f'' = σ·(1 - σ)·(2 + x·(1 - 2σ)) (Ramachandran, Zoph and Le 2017)."""

    turn, reach = 2.3993572805154674, 700.0

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(x == -math.inf, 0.0, x * torch.sigmoid(x))

    def derivative(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x)
        return gate * (1 + x * torch.sigmoid(-x))

    def curvature(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x)
        return gate * torch.sigmoid(-x) * (2 + x * (1 - 2 * gate))
