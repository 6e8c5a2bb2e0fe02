"""Parts that the operators' rules are made of: each appends to the bound graph and returns the new node's position.

An operand is a variable (a position in the bound graph) or a constant (an array). Products with a constant, sums and
moved numbers are affine; max, min and clip are sums of ReLUs, so that they are split where ReLUs are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.pipeline.verify.graph.call import Array, Call, Value, tensor
from secateur.pipeline.verify.graph.curves import Sigmoid, Square
from secateur.pipeline.verify.graph.functions import Function
from secateur.pipeline.verify.graph.gates import Swish
from secateur.pipeline.verify.graph.operations import (
    Dense,
    Elementwise,
    Permute,
    Product,
    Relu,
    Reshape,
    Scale,
    Select,
    Sum,
)

Numbers = NDArray[np.int64]
Shape = tuple[int, ...]


def numbered(call: Call, source: Value) -> Numbers:
    """The flat positions of a tensor's numbers, in its shape."""
    shape = call.shape_of(source)
    return np.arange(prod(shape)).reshape(shape)


def selected(call: Call, source: int, numbers: Numbers) -> int:
    """The numbers of `source` at these flat positions, 0 at -1, in the shape of `numbers`."""
    shape = call.shape_of(source)
    if numbers.size == prod(shape) and np.array_equal(numbers.reshape(-1), np.arange(numbers.size)):
        return reshaped(call, source, numbers.shape)
    index = torch.from_numpy(numbers.reshape(-1).astype(np.int64))
    return call.emit(Select(index, shape, numbers.shape), source)


def taken(call: Call, source: int, axis: int, places: Sequence[int] | Numbers) -> int:
    """The slices of `source` at `places` along `axis`."""
    return selected(call, source, np.take(numbered(call, source), np.asarray(places, dtype=np.int64), axis))


def broadcast(call: Call, source: int, target: Shape) -> int:
    """`source` repeated to the shape `target`."""
    if call.shape_of(source) == target:
        return source
    return selected(call, source, np.broadcast_to(numbered(call, source), target))


def padded(call: Call, source: int, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> int:
    """`source` with so many slices of `value` before and after it on each axis."""
    widths = list(zip(before, after, strict=True))
    if not any(map(any, widths)):
        return source
    numbers = np.pad(numbered(call, source), widths, constant_values=-1)
    return filled(call, source, numbers, np.float64(value))


def filled(call: Call, source: int, numbers: Numbers, value: NDArray[np.generic] | np.generic) -> int:
    """As `selected`, with `value` (broadcast) in place of 0 at -1."""
    found = selected(call, source, numbers)
    if not np.any(value):
        return found
    return scaled(call, found, None, np.where(numbers < 0, value, 0.0))


def reshaped(call: Call, source: int, target: Sequence[int]) -> int:
    """`source` in the shape `target`; -1 is filled in."""
    shape = call.shape_of(source)
    full = np.empty(shape, np.int8).reshape(tuple(target)).shape
    return source if shape == full else call.emit(Reshape(shape, full), source)


def permuted(call: Call, source: int, axes: Sequence[int]) -> int:
    return source if list(axes) == sorted(axes) else call.emit(Permute(tuple(axes)), source)


def scaled(call: Call, source: int, weight: Array | float | None, bias: Array | float | None = None) -> int:
    """weight ∘ source + bias; both are broadcast to the shape of `source`."""
    return call.emit(Scale(_constant(weight), _constant(bias)), source)


def negated(call: Call, source: int) -> int:
    return scaled(call, source, -1.0)


def along(call: Call, source: int, axis: int, matrix: Tensor, bias: Tensor | None = None) -> int:
    """`matrix` (out, in) applied to the vectors of `source` along `axis`."""
    rank = len(call.shape_of(source))
    swap = list(range(rank))
    swap[axis], swap[-1] = swap[-1], swap[axis]
    inner = call.emit(Dense(matrix.contiguous(), bias), permuted(call, source, swap))
    return permuted(call, inner, swap)


def summed(
    call: Call, source: int, axes: Sequence[int], *, keep: bool, factor: float = 1.0, bias: float = 0.0
) -> int:
    """factor · (the sum over `axes`) + bias; the axes stay with size 1 where `keep`."""
    shape = call.shape_of(source)
    gathered = flattened(call, source, axes)
    count = call.shape_of(gathered)[-1]
    offset = torch.full((1,), bias, dtype=torch.float64) if bias else None
    total = call.emit(Dense(torch.full((1, count), factor, dtype=torch.float64), offset), gathered)
    return reshaped(call, total, reduced(shape, axes, keep=keep))


def mean(call: Call, source: int, axes: Sequence[int], *, keep: bool) -> int:
    count = prod(call.shape_of(source)[axis] for axis in axes)
    return summed(call, source, axes, keep=keep, factor=1.0 / count)


def flattened(call: Call, source: int, axes: Sequence[int]) -> int:
    """`source` with `axes` moved to the end and made one."""
    shape = call.shape_of(source)
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    moved = permuted(call, source, (*rest, *axes))
    return reshaped(call, moved, (*(shape[a] for a in rest), prod(shape[a] for a in axes)))


def reduced(shape: Shape, axes: Sequence[int], *, keep: bool) -> Shape:
    """The shape that a reduction over `axes` leaves."""
    if keep:
        return tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def applied(call: Call, function: Function, source: int) -> int:
    return call.emit(Elementwise(function), source)


def plus(call: Call, left: Value, right: Value, sign: float = 1.0) -> int:
    """left + sign·right, broadcast; at least one is a variable."""
    target = np.broadcast_shapes(call.shape_of(left), call.shape_of(right))
    if isinstance(left, int) and isinstance(right, int):
        return call.emit(Sum((1.0, sign)), broadcast(call, left, target), broadcast(call, right, target))
    if isinstance(left, int):
        return scaled(call, broadcast(call, left, target), None, sign * np.asarray(right, np.float64))
    assert isinstance(right, int)
    return scaled(call, broadcast(call, right, target), None if sign == 1 else sign, left)


def times(call: Call, left: Value, right: Value) -> int:
    """left ∘ right, broadcast; at least one is a variable. What is known to be one function becomes that."""
    if isinstance(left, int) and isinstance(right, int):
        function = _known_product(call, left, right)
        if function is not None:
            return applied(call, function, left)
        function = _known_product(call, right, left)
        if function is not None:
            return applied(call, function, right)
    target = np.broadcast_shapes(call.shape_of(left), call.shape_of(right))
    if isinstance(left, int) and isinstance(right, int):
        return call.emit(Product(), broadcast(call, left, target), broadcast(call, right, target))
    if isinstance(left, int):
        return scaled(call, broadcast(call, left, target), right)
    assert isinstance(right, int)
    return scaled(call, broadcast(call, right, target), left)


def _known_product(call: Call, source: int, factor: int) -> Function | None:
    """x·x and x·σ(x), which are bounded far better as one function than as a product."""
    if source == factor:
        return Square()
    node = call.builder.nodes[factor]
    sigmoid = isinstance(node.operation, Elementwise) and isinstance(node.operation.function, Sigmoid)
    return Swish() if sigmoid and node.inputs == (source,) else None


def maximum(call: Call, left: Value, right: Value) -> int:
    """max(a, b) = a + relu(b - a), a the constant if there is one; at least one is a variable."""
    if isinstance(left, int):
        left, right = right, left
    return plus(call, left, relu(call, plus(call, right, left, -1.0)))


def minimum(call: Call, left: Value, right: Value) -> int:
    """min(a, b) = a - relu(a - b), a the constant if there is one; at least one is a variable."""
    if isinstance(left, int):
        left, right = right, left
    return plus(call, left, relu(call, plus(call, left, right, -1.0)), -1.0)


def leaky(call: Call, source: int, slope: Array | float) -> int:
    """slope·x + (1 - slope)·relu(x): a ReLU with a slope (broadcast) below zero; |x| for -1."""
    slopes = np.asarray(slope, np.float64)
    positive = scaled(call, relu(call, source), 1 - slopes)
    return plus(call, scaled(call, source, slopes), positive)


def relu(call: Call, source: int) -> int:
    return call.emit(Relu(), source)


def _constant(value: Array | float | None) -> Tensor | None:
    return None if value is None else tensor(np.asarray(value))
