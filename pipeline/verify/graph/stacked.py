"""Maps of several instances side by side, so that one batch holds sub-problems of all of them.

The rows of a batch are vectors padded with zeros to the longest instance's; each is mapped by its own instance's map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor

from secateur.pipeline.verify.graph.operations import Affine, Dense, Sparse, Weighted

Map = Dense | Sparse | None
"""One instance's map of vectors; None: zero."""


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
class Beside(Affine):
    """The instances' own maps, one product each: nothing is copied. `sizes`: of padded outputs and inputs."""

    maps: tuple[Map, ...]
    sizes: tuple[int, int]
    parts: Parts | None = None

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return replace(self, maps=tuple(m and m.to(dtype, device) for m in self.maps))

    @property
    def terms(self) -> int:
        return max((m.terms for m in self.maps if m is not None), default=0)

    def forward(self, *x: Tensor) -> Tensor:
        return self._each(x[0], 1, lambda own, rows: own.forward(rows))

    def linear(self, *x: Tensor) -> Tensor:
        return self._each(x[0], 1, lambda own, rows: own.linear(rows))

    def absolute(self, *r: Tensor) -> Tensor:
        return self._each(r[0], 1, lambda own, rows: own.absolute(rows))

    def magnitude(self, *r: Tensor) -> Tensor:
        return self._each(r[0], 1, lambda own, rows: own.magnitude(rows))

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (self._each(a, 0, lambda own, rows: own.transpose(rows)[0]),)

    def offset(self, a: Tensor) -> Tensor | None:
        if all(m is None or m.bias is None for m in self.maps):
            return None
        result = a.new_zeros(len(a))
        for own, rows in self._slices(len(a)):
            if own.bias is not None:
                result[rows] = a[rows, : len(own.bias)] @ own.bias
        return result

    def _each(self, x: Tensor, source: int, mapped: Callable[[Dense | Sparse, Tensor], Tensor]) -> Tensor:
        """Every row of x mapped by its own instance, from side `source` of the maps to the other."""
        result = x.new_zeros(len(x), self.sizes[1 - source])
        for own, rows in self._slices(len(x)):
            result[rows, : own.weight.shape[1 - source]] = mapped(own, x[rows, : own.weight.shape[source]])
        return result

    def _slices(self, count: int) -> list[tuple[Dense | Sparse, slice]]:
        """The maps that are not zero, and which of so many rows are theirs."""
        assert self.parts is not None
        times = count // max(1, len(self.parts.owner))
        ends = accumulate(self.parts.counts)
        return [
            (own, slice((end - rows) * times, end * times))
            for own, rows, end in zip(self.maps, self.parts.counts, ends, strict=True)
            if own is not None and rows
        ]


@dataclass(frozen=True, eq=False)
class Stacked(Weighted):
    """The maps as one tensor: weight (I, out, in), bias (I, out) or None. Rows are moved into as many slots an
    instance, all of which are one product: on a GPU."""

    parts: Parts | None = None

    @staticmethod
    def of(maps: Sequence[Map], sizes: tuple[int, int], like: Tensor) -> Stacked:
        """Padded to `sizes` (out, in), of the type and on the device of `like`."""
        weight = like.new_zeros(len(maps), *sizes)
        bias = like.new_zeros(len(maps), sizes[0])
        for i, own in enumerate(maps):
            if own is not None:
                weight[i, : own.weight.shape[0], : own.weight.shape[1]] = own.weight.to_dense()
                if own.bias is not None:
                    bias[i, : len(own.bias)] = own.bias
        return Stacked(weight, None if all(m is None or m.bias is None for m in maps) else bias)

    @property
    def terms(self) -> int:
        return max(self.weight.shape[1:]) + 2

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert self.parts is not None
        parts = self.parts.repeated(len(x) // max(1, len(self.parts.owner)))
        most = max(parts.counts, default=0)
        starts = torch.tensor([0, *accumulate(parts.counts)][:-1], device=x.device)
        slot = parts.owner * most + torch.arange(len(x), device=x.device) - starts[parts.owner]
        slots = x.new_zeros(len(parts.counts) * most, x.shape[1]).index_copy(0, slot, x)
        y = slots.unflatten(0, (len(parts.counts), most)) @ weight.transpose(1, 2)
        if bias is not None:
            y = y + bias.unsqueeze(1)
        picked: Tensor = y.flatten(0, 1)[slot]
        return picked

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (self.apply(a, self.weight.transpose(1, 2), None),)

    def offset(self, a: Tensor) -> Tensor | None:
        if self.bias is None or self.parts is None:
            return None
        owner = self.parts.repeated(len(a) // max(1, len(self.parts.owner))).owner
        return (a * self.bias[owner]).sum(1)
