"""The linear maps that the checker knows, on flat float64 vectors, one a row: what else is affine is made of these.

A map W has its product (`forward`: x ↦ xWᵀ, row by row), the product with its transpose (`transposed`: a ↦ aW), the map
of its absolute values |W|, and `terms`, the largest number of products that either of the two sums up in one number.
So both err by at most γ_terms times the same product of absolute values (see `lines`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from secateur.formats.query import Floats

Ints = NDArray[np.int64]


class Map(ABC):
    """See the module's docstring."""

    @property
    @abstractmethod
    def terms(self) -> int: ...

    @abstractmethod
    def forward(self, x: Floats) -> Floats:
        """(N, n_in) → (N, n_out)."""

    @abstractmethod
    def transposed(self, a: Floats) -> Floats:
        """(N, n_out) → (N, n_in)."""

    @abstractmethod
    def absolute(self) -> Map:
        """The map |W|."""


@dataclass(frozen=True)
class Gathered(Map):
    """y_j = factor_j · x_index(j), and 0 where the index is -1: moves numbers, repeats, scales, leaves out."""

    index: Ints
    factor: Floats
    size: int

    @property
    def terms(self) -> int:
        used = self.index[self.index >= 0]
        return int(np.bincount(used).max(initial=1))

    def forward(self, x: Floats) -> Floats:
        return np.where(self.index < 0, 0.0, x[:, self.index] * self.factor)

    def transposed(self, a: Floats) -> Floats:
        result = np.zeros((len(a), self.size))
        used = np.flatnonzero(self.index >= 0)
        scaled = a[:, used] * self.factor[used]
        if self.terms == 1:
            result[:, self.index[used]] = scaled
        else:
            np.add.at(result.T, self.index[used], scaled.T)
        return result

    def absolute(self) -> Gathered:
        return replace(self, factor=np.abs(self.factor))


@dataclass(frozen=True)
class Matrix(Map):
    """y = x @ weight on the last axis of x (…, k); weight (k, m)."""

    weight: Floats

    @property
    def terms(self) -> int:
        return int(max(self.weight.shape))

    def forward(self, x: Floats) -> Floats:
        result: Floats = x.reshape(-1, len(self.weight)) @ self.weight
        return result.reshape(len(x), -1)

    def transposed(self, a: Floats) -> Floats:
        result: Floats = a.reshape(-1, self.weight.shape[1]) @ self.weight.T
        return result.reshape(len(a), -1)

    def absolute(self) -> Matrix:
        return Matrix(np.abs(self.weight))


@dataclass(frozen=True)
class Convolution(Map):
    """ONNX's Conv without bias, in any number of dimensions.

    weight (groups, outputs a group, inputs a group, *kernel); `source` and `target` are shapes without the batch,
    (channels, *space); pads (before, after) a dimension.
    """

    weight: Floats
    source: tuple[int, ...]
    target: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]

    @property
    def terms(self) -> int:
        _, outputs, inputs, *kernel = self.weight.shape
        return int(max(outputs, inputs) * prod(kernel))

    def _window(self, offset: tuple[int, ...]) -> tuple[slice, ...]:
        """What one weight of the kernel meets of the padded input."""
        starts = [o * d for o, d in zip(offset, self.dilations, strict=True)]
        steps = zip(starts, self.strides, self.target[1:], strict=True)
        return (slice(None), slice(None), *(slice(s, s + step * (n - 1) + 1, step) for s, step, n in steps))

    def forward(self, x: Floats) -> Floats:
        groups = len(self.weight)
        padded = np.pad(x.reshape(len(x), *self.source), ((0, 0), (0, 0), *self.pads))
        result = np.zeros((len(x), groups, self.weight.shape[1], prod(self.target[1:])))
        for offset in np.ndindex(*self.weight.shape[3:]):
            met = padded[self._window(offset)].reshape(len(x), groups, self.weight.shape[2], -1)
            result += self.weight[(slice(None), slice(None), slice(None), *offset)] @ met
        return result.reshape(len(x), -1)

    def transposed(self, a: Floats) -> Floats:
        groups, _, inputs, *kernel = self.weight.shape
        space = [n + before + after for n, (before, after) in zip(self.source[1:], self.pads, strict=True)]
        padded = np.zeros((len(a), self.source[0], *space))
        rows = a.reshape(len(a), groups, self.weight.shape[1], -1)
        for offset in np.ndindex(*kernel):
            weight = self.weight[(slice(None), slice(None), slice(None), *offset)]
            met = weight.transpose(0, 2, 1) @ rows
            padded[self._window(offset)] += met.reshape(len(a), groups * inputs, *self.target[1:])
        inner = tuple(
            slice(before, before + n) for n, (before, _) in zip(self.source[1:], self.pads, strict=True)
        )
        return padded[(slice(None), slice(None), *inner)].reshape(len(a), -1)

    def absolute(self) -> Convolution:
        return replace(self, weight=np.abs(self.weight))
