"""Functions with jumps. Between jumps they are constant, so that only ends, jumps and their one-sided limits count."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.pipeline.verify.graph.functions import Function


class Step(Function):
    """Base of these: an attack goes by the gradient of a line as steep as the function is on the whole ("straight
    through", Bengio, Léonard and Courville 2013), within a typical distance of where it stands."""

    def guided(self, x: Tensor) -> Tensor:
        scale = x.detach().abs().mean().clamp(min=torch.finfo(x.dtype).tiny)
        line = (x / scale).clamp(-2, 2)
        return self(x.detach()) + (line - line.detach())


class Sign(Step):
    """-1, 0 or 1; it jumps at 0."""

    split_at, image = 0.0, (-1.0, 1.0)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.sign(x)

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return [torch.zeros_like(slope)]

    def limits(self, lower: Tensor, upper: Tensor) -> list[tuple[Tensor, Tensor]]:
        inside = (lower <= 0) & (upper >= 0)
        return [
            _pair(self, lower, inside & (lower < 0), torch.zeros_like(lower), -1.0),
            _pair(self, lower, inside & (upper > 0), torch.zeros_like(lower), 1.0),
        ]


class Floor(Step):
    """The next whole number below or at x. Of its jumps in [l, u] only the first and the last can be extreme."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.floor(x)

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return []

    def limits(self, lower: Tensor, upper: Tensor) -> list[tuple[Tensor, Tensor]]:
        pairs = []
        for jump in (lower.floor() + 1, upper.floor()):
            inside = (jump > lower) & (jump <= upper)
            pairs += [_pair(self, lower, inside, jump, value) for value in (jump - 1, jump)]
        return pairs


class Round(Step):
    """The nearest whole number, halves to the even one; it jumps at the halves. As for `Floor`, few of them count."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.round(x)

    def stationary(self, slope: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return []

    def limits(self, lower: Tensor, upper: Tensor) -> list[tuple[Tensor, Tensor]]:
        pairs = []
        for jump in ((lower + 0.5).floor() + 0.5, (upper - 0.5).ceil() - 0.5):  # of those strictly inside
            inside = (jump > lower) & (jump < upper)
            pairs += [_pair(self, lower, inside, jump, value) for value in (jump - 0.5, jump + 0.5)]
        for end, step in ((lower, 0.5), (upper, -0.5)):  # a jump at an end has one side
            jumps = ((end - 0.5) == (end - 0.5).floor()) & (lower < upper)
            pairs.append(_pair(self, lower, jumps, end, end + step))
        return pairs


def _pair(
    function: Function, lower: Tensor, inside: Tensor, jump: Tensor, value: Tensor | float
) -> tuple[Tensor, Tensor]:
    """The limit `value` at `jump` where that lies inside, else the lower end."""
    return torch.where(inside, jump, lower), torch.where(inside, value, function(lower))
