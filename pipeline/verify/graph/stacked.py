"""Dense maps of several instances side by side, so that one batch holds sub-problems of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from secateur.pipeline.verify.graph.operations import Weighted


@dataclass(frozen=True)
class Parts:
    """Whose the rows of a batch are: `owner` (B,), ascending; `counts`: how many each instance has."""

    owner: Tensor
    counts: tuple[int, ...]

    @staticmethod
    def of(owner: Tensor, instances: int) -> Parts:
        """Waits for the device once."""
        return Parts(owner, tuple(torch.bincount(owner, minlength=instances).tolist()))

    def repeated(self, times: int) -> Parts:
        """Of a batch in which every row stands so many times, one after the other."""
        if times == 1:
            return self
        return Parts(self.owner.repeat_interleave(times), tuple(times * count for count in self.counts))


@dataclass(frozen=True, eq=False)
class Stacked(Weighted):
    """As `Dense`, of vectors: weight (I, out, in), bias (I, out) or None; the rows of a batch use their instance's.

    Instances of fewer neurons are padded with zeros. On the CPU each instance's rows are one product; elsewhere
    (`padded`) rows are moved into as many slots an instance, all of which are one product.
    """

    parts: Parts | None = None
    padded: bool = field(default=False)

    @property
    def terms(self) -> int:
        return max(self.weight.shape[1:]) + 2

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert self.parts is not None
        parts = self.parts.repeated(len(x) // max(1, len(self.parts.owner)))
        if self.padded:
            return _in_slots(x, weight, bias, parts)
        result = x.new_empty(len(x), weight.shape[1])
        ends = list(accumulate(parts.counts))
        for i, (count, end) in enumerate(zip(parts.counts, ends, strict=True)):
            if count:
                result[end - count : end] = functional.linear(
                    x[end - count : end], weight[i], None if bias is None else bias[i]
                )
        return result

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (self.apply(a, self.weight.transpose(1, 2), None),)

    def offset(self, a: Tensor) -> Tensor | None:
        if self.bias is None or self.parts is None:
            return None
        owner = self.parts.repeated(len(a) // max(1, len(self.parts.owner))).owner
        return (a * self.bias[owner]).sum(1)


def _in_slots(x: Tensor, weight: Tensor, bias: Tensor | None, parts: Parts) -> Tensor:
    most = max(parts.counts, default=0)
    starts = torch.tensor([0, *accumulate(parts.counts)][:-1], device=x.device)
    slot = parts.owner * most + torch.arange(len(x), device=x.device) - starts[parts.owner]
    slots = x.new_zeros(len(parts.counts) * most, x.shape[1]).index_copy(0, slot, x)
    y = slots.unflatten(0, (len(parts.counts), most)) @ weight.transpose(1, 2)
    if bias is not None:
        y = y + bias.unsqueeze(1)
    picked: Tensor = y.flatten(0, 1)[slot]
    return picked
