"""The operations of the bound graph: a few affine primitives, each with its transpose, and the nonlinear ones.

Every tensor leads with a batch dimension N (sub-problems, or sub-problems × specification rows); behind it stands
the tensor's shape in the ONNX graph, whose own batch dimension (1) is kept. An affine operation y = L(x) + b has

* `forward(*x)`: (N, *in) → (N, *out), with the offset b;
* `transpose(a)`: (N, *out) → one (N, *in) an input, the map Lᵀ; `transpose_rows` of (sub-problems, rows, *out);
* `offset(a)`: (N, *out) → (N,), the products ⟨a, b⟩, or None where b = 0;
* `linear(*x)`: L(x), without the offset;
* `absolute(*r)`: (N, *in) → (N, *out), |L| r, for interval radii and for magnitudes;
* `terms`: how many products and sums one output coordinate takes at most, forwards or transposed: the n in the
  rounding-error factor γ_n = n·u / (1 - n·u) (Higham, "Accuracy and Stability of Numerical Algorithms", 3.1).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import prod
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from secateur.pipeline.verify.graph.functions import Function

MANY_ROWS = 64
"""From so many rows a sub-problem on it pays to look whether most coefficients of a dense map are zero."""


@dataclass(frozen=True, eq=False)
class Operation:
    """What all operations share: conversion to another type of number and device."""

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        changes = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changes[item.name] = value.to(device, dtype if value.is_floating_point() else value.dtype)
        return replace(self, **changes)

    def forward(self, *x: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Input(Operation):
    """The graph's input; the box lies here."""


@dataclass(frozen=True, eq=False)
class Affine(Operation):
    """Base of the affine primitives; see the module's docstring."""

    @property
    def terms(self) -> int:
        return 2

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def transpose_rows(self, a: Tensor) -> tuple[Tensor, ...]:
        """`transpose` of rows (B, S, *out): one (B, S, *in) an input."""
        return tuple(result.unflatten(0, a.shape[:2]) for result in self.transpose(a.flatten(0, 1)))

    def offset(self, a: Tensor) -> Tensor | None:
        return None

    def linear(self, *x: Tensor) -> Tensor:
        """L(x): `forward` without the offset."""
        return self.forward(*x)

    def absolute(self, *r: Tensor) -> Tensor:
        return self.forward(*r)

    def magnitude(self, *r: Tensor) -> Tensor:
        """|L| r + |b|: bounds the sum of the absolute values of all terms of an output coordinate."""
        return self.absolute(*r)


@dataclass(frozen=True, eq=False)
class Weighted(Affine):
    """Base of the maps with a weight tensor: what differs is how the weight is applied."""

    weight: Tensor
    bias: Tensor | None

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The map of x with this weight and bias."""
        raise NotImplementedError

    def forward(self, *x: Tensor) -> Tensor:
        return self.apply(x[0], self.weight, self.bias)

    def linear(self, *x: Tensor) -> Tensor:
        return self.apply(x[0], self.weight, None)

    def absolute(self, *r: Tensor) -> Tensor:
        return self.apply(r[0], self.weight.abs(), None)

    def magnitude(self, *r: Tensor) -> Tensor:
        return self.apply(r[0], self.weight.abs(), None if self.bias is None else self.bias.abs())


@dataclass(frozen=True, eq=False)
class Dense(Weighted):
    """y[..., o] = Σ_i weight[o, i]·x[..., i] + bias[o], on the last axis."""

    @property
    def terms(self) -> int:
        return max(self.weight.shape) + 2

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a @ self.weight,)

    def transpose_rows(self, a: Tensor) -> tuple[Tensor, ...]:
        """Without the neurons that are zero in all rows of a sub-problem, where that is most of them and it pays."""
        rows = a.flatten(1, -2)
        if rows.shape[1] < MANY_ROWS:
            return super().transpose_rows(a)
        used = (rows != 0).any(1)
        most = int(used.sum(1).max())
        if most > min(rows.shape[1], rows.shape[2] // 2):
            return super().transpose_rows(a)
        kept = torch.argsort(used.to(torch.int8), dim=1, descending=True)[:, :most]
        rows = rows.gather(2, kept.unsqueeze(1).expand(-1, rows.shape[1], -1))
        return ((rows @ self.weight[kept]).unflatten(1, a.shape[1:-1]),)

    def offset(self, a: Tensor) -> Tensor | None:
        return None if self.bias is None else (a @ self.bias).reshape(len(a), -1).sum(1)


@dataclass(frozen=True, eq=False)
class Sparse(Weighted):
    """As `Dense`, of vectors, with few weights that are not zero: `weight` and `transposed` in CSR layout."""

    transposed: Tensor

    @staticmethod
    def of(matrix: Tensor, bias: Tensor | None) -> Sparse:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR layout a beta feature
            return Sparse(matrix.to_sparse_csr(), bias, matrix.T.contiguous().to_sparse_csr())

    @property
    def terms(self) -> int:
        return max(self.weight.shape) + 2

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = (weight @ x.T).T
        return y if bias is None else y + bias

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (self.apply(a, self.transposed, None),)

    def offset(self, a: Tensor) -> Tensor | None:
        return None if self.bias is None else a @ self.bias


@dataclass(frozen=True, eq=False)
class Windowed(Weighted):
    """Base of convolutions over (N, 1, C, …): ONNX's NCHW with its batch of 1; one or two spatial axes."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def offset(self, a: Tensor) -> Tensor | None:
        return None if self.bias is None else a.flatten(3).sum(3).squeeze(1) @ self.bias

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve = functional.conv1d if weight.dim() == 3 else functional.conv2d
        y: Tensor = convolve(
            x.flatten(0, 1), weight, bias, self.stride, self.padding, self.dilation, self.groups
        )
        return y.unsqueeze(1)

    def _spread(self, x: Tensor, weight: Tensor, bias: Tensor | None, extra: tuple[int, ...]) -> Tensor:
        """The transposed convolution; `extra` is the size to add at the end of each spatial axis."""
        spread = functional.conv_transpose1d if weight.dim() == 3 else functional.conv_transpose2d
        y: Tensor = spread(
            x.flatten(0, 1), weight, bias, self.stride, self.padding, extra, self.groups, self.dilation
        )
        return y.unsqueeze(1)


@dataclass(frozen=True, eq=False)
class Convolution(Windowed):
    """ONNX Conv; `input_size` are the input's spatial sizes."""

    input_size: tuple[int, ...]

    @property
    def terms(self) -> int:
        return max(self.weight[0].numel(), self.weight.shape[0] * prod(self.weight.shape[2:])) + 2

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._convolved(x, weight, bias)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        extra = tuple(
            size - ((out - 1) * s - 2 * p + d * (k - 1) + 1)
            for size, out, s, p, d, k in zip(
                self.input_size,
                a.shape[3:],
                self.stride,
                self.padding,
                self.dilation,
                self.weight.shape[2:],
                strict=True,
            )
        )
        return (self._spread(a, self.weight, None, extra),)


@dataclass(frozen=True, eq=False)
class Deconvolution(Windowed):
    """ONNX ConvTranspose: the transpose of a convolution, with a bias of its own; `extra` is its output padding."""

    extra: tuple[int, ...]

    @property
    def terms(self) -> int:
        return self.weight.shape[0] * prod(self.weight.shape[2:]) + self.weight[0].numel() + 2

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._spread(x, weight, bias, self.extra)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (self._convolved(a, self.weight, None),)


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """y = weight ∘ x + bias, both broadcast to x's shape; either may be absent."""

    weight: Tensor | None
    bias: Tensor | None

    def _times(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return x if weight is None else x * weight

    def forward(self, *x: Tensor) -> Tensor:
        y = self._times(x[0], self.weight)
        return y if self.bias is None else y + self.bias

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (self._times(a, self.weight),)

    def offset(self, a: Tensor) -> Tensor | None:
        return None if self.bias is None else (a * self.bias).flatten(1).sum(1)

    def linear(self, *x: Tensor) -> Tensor:
        return self._times(x[0], self.weight)

    def absolute(self, *r: Tensor) -> Tensor:
        return self._times(r[0], None if self.weight is None else self.weight.abs())

    def magnitude(self, *r: Tensor) -> Tensor:
        y = self.absolute(*r)
        return y if self.bias is None else y + self.bias.abs()


@dataclass(frozen=True, eq=False)
class Reshape(Affine):
    """The same numbers in another shape."""

    source: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def terms(self) -> int:
        return 0

    def forward(self, *x: Tensor) -> Tensor:
        return x[0].reshape(len(x[0]), *self.target)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a.reshape(len(a), *self.source),)


@dataclass(frozen=True, eq=False)
class Permute(Affine):
    """ONNX Transpose: `axes` are those of the ONNX tensor (without the batch N)."""

    axes: tuple[int, ...]

    @property
    def terms(self) -> int:
        return 0

    def forward(self, *x: Tensor) -> Tensor:
        return x[0].permute(0, *(axis + 1 for axis in self.axes))

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        inverse = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return (a.permute(0, *(axis + 1 for axis in inverse)),)


@dataclass(frozen=True, eq=False)
class Select(Affine):
    """y.flat[i] = x.flat[index[i]], or 0 where index[i] is -1: Slice, Gather, Split, Pad and Expand."""

    index: Tensor
    source: tuple[int, ...]
    target: tuple[int, ...]

    @cached_property
    def terms(self) -> int:
        uses = torch.bincount(self.index[self.index >= 0].flatten(), minlength=1)
        return int(uses.max()) + 2

    def forward(self, *x: Tensor) -> Tensor:
        flat = functional.pad(x[0].flatten(1), (0, 1))
        return flat[:, self.index].reshape(len(flat), *self.target)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        size = prod(self.source)
        flat = a.new_zeros(len(a), size + 1)
        flat.index_add_(1, torch.where(self.index < 0, size, self.index), a.flatten(1))
        return (flat[:, :size].reshape(len(a), *self.source),)


@dataclass(frozen=True, eq=False)
class Sum(Affine):
    """y = Σ_k signs[k]·x_k, all of one shape."""

    signs: tuple[float, ...]

    @property
    def terms(self) -> int:
        return len(self.signs)

    def forward(self, *x: Tensor) -> Tensor:
        total = x[0] if self.signs[0] == 1 else x[0] * self.signs[0]
        for sign, term in zip(self.signs[1:], x[1:], strict=True):
            total = torch.add(total, term, alpha=sign)
        return total

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return tuple(a if sign == 1 else a * sign for sign in self.signs)

    def absolute(self, *r: Tensor) -> Tensor:
        return torch.stack([abs(sign) * term for sign, term in zip(self.signs, r, strict=True)]).sum(0)


@dataclass(frozen=True, eq=False)
class Concat(Affine):
    """ONNX Concat along `axis` of the ONNX tensor; `sizes` are the inputs' sizes there."""

    axis: int
    sizes: tuple[int, ...]

    @property
    def terms(self) -> int:
        return 0

    def forward(self, *x: Tensor) -> Tensor:
        return torch.cat(x, self.axis + 1)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        return torch.split(a, list(self.sizes), self.axis + 1)


@dataclass(frozen=True, eq=False)
class Relu(Operation):
    """max(x, 0). Other piecewise linear functions are sums of these (see `operators.piecewise`)."""

    def forward(self, *x: Tensor) -> Tensor:
        return x[0].clamp(min=0)


@dataclass(frozen=True, eq=False)
class Elementwise(Operation):
    """y = f(x), coordinate by coordinate."""

    function: Function

    def forward(self, *x: Tensor) -> Tensor:
        return self.function.guided(x[0]) if x[0].requires_grad else self.function(x[0])


@dataclass(frozen=True, eq=False)
class Product(Operation):
    """y = x₀ ∘ x₁, two variables of one shape, coordinate by coordinate."""

    def forward(self, *x: Tensor) -> Tensor:
        return x[0] * x[1]


@dataclass(frozen=True, eq=False)
class Bilinear(Operation):
    """y = x₀·x₁, two variables: stacks of matrices (…, n, d) and (…, d, m) with the same leading axes."""

    def forward(self, *x: Tensor) -> Tensor:
        return x[0] @ x[1]


@dataclass(frozen=True, eq=False)
class Normalised(Operation):
    """y = x, of whose numbers it is known that they sum to 1 along the last axis."""

    def forward(self, *x: Tensor) -> Tensor:
        return x[0]
