"""Sums over axes, and what is made of them: ReduceSum, ReduceMean, norms, CumSum, averages over windows."""

from __future__ import annotations

from math import prod

import numpy as np
import torch

from secateur.pipeline.verify.graph.call import Call, Value
from secateur.pipeline.verify.graph.curves import Root, Square
from secateur.pipeline.verify.graph.operations import Convolution
from secateur.pipeline.verify.graph.operators import parts
from secateur.pipeline.verify.graph.operators.windows import paddings, pooling_windows


def reduction(call: Call) -> tuple[list[int], bool]:
    """The axes (an attribute or an input; sorted) of a reducing node, and whether they are kept with size 1."""
    given = call.constant(1) if len(call.arguments) > 1 else None
    axes = [int(v) for v in given.reshape(-1)] if given is not None else call.integers("axes")
    rank = len(call.shape())
    if not axes:
        axes = [] if call.integer("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in axes), bool(call.integer("keepdims", 1))


def reduce_sum(call: Call) -> list[Value]:
    axes, keep = reduction(call)
    return [parts.summed(call, call.variable(), axes, keep=keep) if axes else call.variable()]


def reduce_mean(call: Call) -> list[Value]:
    axes, keep = reduction(call)
    return [parts.mean(call, call.variable(), axes, keep=keep) if axes else call.variable()]


def reduce_l1(call: Call) -> list[Value]:
    axes, keep = reduction(call)
    return [parts.summed(call, parts.leaky(call, call.variable(), -1.0), axes, keep=keep)]


def reduce_sum_square(call: Call) -> list[Value]:
    axes, keep = reduction(call)
    return [parts.summed(call, parts.applied(call, Square(), call.variable()), axes, keep=keep)]


def reduce_l2(call: Call) -> list[Value]:
    (squares,) = reduce_sum_square(call)
    assert isinstance(squares, int)
    return [parts.applied(call, Root(), squares)]


def cumulative_sum(call: Call) -> list[Value]:
    given = call.constant(1)
    assert given is not None
    axis = int(given.item()) % len(call.shape())
    size = call.shape()[axis]
    matrix = torch.tril(
        torch.ones(size, size, dtype=torch.float64), -1 if call.integer("exclusive", 0) else 0
    )
    return [parts.along(call, call.variable(), axis, matrix.T if call.integer("reverse", 0) else matrix)]


def average_pool(call: Call) -> list[Value]:
    """A depthwise convolution with equal weights; where padding is not counted, rescaled by what is inside."""
    if call.integer("ceil_mode", 0):
        return [_average_of_windows(call)]
    kernel = call.integers("kernel_shape")
    if kernel is None or len(kernel) not in (1, 2):
        raise call.refuse("only one- and two-dimensional pooling is supported")
    shape = call.shape()
    stride = call.integers("strides") or [1] * len(kernel)
    dilation = call.integers("dilations") or [1] * len(kernel)
    begin, end = paddings(call, shape[2:], kernel, stride, dilation)
    source = parts.padded(call, call.variable(), [0, 0, *begin], [0, 0, *end])
    inner, channels = call.shape_of(source)[2:], shape[1]
    ones = torch.ones(channels, 1, *kernel, dtype=torch.float64)
    nothing = (0,) * len(kernel)
    summing = Convolution(ones, None, tuple(stride), nothing, tuple(dilation), channels, inner)
    total = call.emit(summing, source)
    count = torch.tensor(float(prod(kernel)), dtype=torch.float64)
    if any(begin + end) and not call.integer("count_include_pad", 0):
        inside = np.pad(np.ones(shape[2:]), list(zip(begin, end, strict=True)))
        count = summing.forward(torch.from_numpy(np.broadcast_to(inside, (1, 1, channels, *inner)).copy()))[0]
    return [parts.scaled(call, total, (1 / count).numpy())]


def _average_of_windows(call: Call) -> int:
    """The mean over windows that may reach beyond the end, an axis at a time."""
    if call.integer("count_include_pad", 0):
        raise call.refuse("ceil_mode with count_include_pad is not supported")
    result = call.variable()
    for axis, windows in enumerate(pooling_windows(call), 2):
        matrix = torch.zeros(len(windows), call.shape()[axis], dtype=torch.float64)
        for row, window in enumerate(windows):
            matrix[row, window] = 1 / len(window)
        result = parts.along(call, result, axis, matrix)
    return result


def global_average_pool(call: Call) -> list[Value]:
    return [parts.mean(call, call.variable(), range(2, len(call.shape())), keep=True)]
