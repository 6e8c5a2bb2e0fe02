"""Averages and sums: AveragePool, GlobalAveragePool, ReduceMean, ReduceSum."""

from __future__ import annotations

from math import prod

import numpy as np
import torch

from secateur.pipeline.verify.call import Call, Value
from secateur.pipeline.verify.operations import Convolution, Dense, Permute, Reshape, Scale
from secateur.pipeline.verify.operators.linear import paddings
from secateur.pipeline.verify.operators.shapes import zero_pad


def average_pool(call: Call) -> list[Value]:
    """A depthwise convolution with equal weights; where padding is not counted, rescaled by what is inside."""
    kernel = call.integers("kernel_shape")
    if kernel is None or len(kernel) not in (1, 2):
        raise call.refuse("only one- and two-dimensional pooling is supported")
    if call.integer("ceil_mode", 0):
        raise call.refuse("ceil_mode is not supported")
    shape = call.shape()
    stride = call.integers("strides") or [1] * len(kernel)
    dilation = call.integers("dilations") or [1] * len(kernel)
    begin, end = paddings(call, shape[2:], tuple(kernel), stride, dilation)
    source = (
        zero_pad(call, call.variable(), [0, 0, *begin], [0, 0, *end]) if any(begin + end) else call.variable()
    )
    padded = tuple(n + b + e for n, b, e in zip(shape[2:], begin, end, strict=True))
    channels = shape[1]
    ones = torch.ones(channels, 1, *kernel, dtype=torch.float64)
    nothing = (0,) * len(kernel)
    summing = Convolution(ones, None, tuple(stride), nothing, tuple(dilation), channels, padded)
    total = call.emit(summing, source)
    if any(begin + end) and not call.integer("count_include_pad", 0):
        inside = torch.zeros(1, 1, channels, *padded, dtype=torch.float64)
        window = [slice(b, b + n) for b, n in zip(begin, shape[2:], strict=True)]
        inside[:, :, :, window[0], window[1] if len(window) > 1 else ...] = 1
        count = summing.forward(inside)[0]
    else:
        count = torch.tensor(float(prod(kernel)), dtype=torch.float64)
    return [call.emit(Scale(1 / count, None), total)]


def global_average_pool(call: Call) -> list[Value]:
    return [_reduced(call, list(range(2, len(call.shape()))), keep=True, mean=True)]


def reduce_mean(call: Call) -> list[Value]:
    return [_reduction(call, mean=True)]


def reduce_sum(call: Call) -> list[Value]:
    return [_reduction(call, mean=False)]


def _reduction(call: Call, mean: bool) -> int:
    given = call.constant(1) if len(call.arguments) > 1 else None
    axes = [int(v) for v in given.reshape(-1)] if given is not None else call.integers("axes")
    rank = len(call.shape())
    if not axes:
        if call.integer("noop_with_empty_axes", 0):
            return call.variable()
        axes = list(range(rank))
    return _reduced(
        call, sorted(axis % rank for axis in axes), keep=bool(call.integer("keepdims", 1)), mean=mean
    )


def _reduced(call: Call, axes: list[int], keep: bool, mean: bool) -> int:
    shape = call.shape()
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    count = prod(shape[axis] for axis in axes)
    moved = call.emit(Permute((*rest, *axes)), call.variable())
    flat = call.emit(
        Reshape(tuple(shape[a] for a in (*rest, *axes)), (*(shape[a] for a in rest), count)), moved
    )
    total = call.emit(Dense(torch.ones(1, count, dtype=torch.float64), None), flat)
    if mean:
        total = call.emit(Scale(torch.from_numpy(np.array(1.0 / count)), None), total)
    target = (
        tuple(1 if a in axes else n for a, n in enumerate(shape)) if keep else tuple(shape[a] for a in rest)
    )
    return call.emit(Reshape((*(shape[a] for a in rest), 1), target), total)
