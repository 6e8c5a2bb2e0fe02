"""Normalisations: BatchNormalization (affine in inference), those that divide by a deviation, Softmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from secateur.pipeline.verify.graph.call import Call, Value, tensor
from secateur.pipeline.verify.graph.curves import Exp, Log, Reciprocal, Square, power
from secateur.pipeline.verify.graph.operations import Normalised, Scale
from secateur.pipeline.verify.graph.operators import parts
from secateur.pipeline.verify.graph.operators.reductions import reduction

EPSILON = float(np.float32(1e-5))
"""ONNX's default of `epsilon`, a float32 number."""


def batch_normalization(call: Call) -> list[Value]:
    """Two affine steps, x - mean and then scale/√(var + ε) and bias, so that each is exact but for rounding."""
    if call.integer("training_mode", 0):
        raise call.refuse("training mode is not supported")
    arrays = [call.constant(position) for position in range(1, 5)]
    shape = (1, -1) + (1,) * (len(call.shape(0)) - 2)
    scale, bias, mean, variance = (tensor(a).reshape(shape) for a in arrays if a is not None)
    weight = scale / torch.sqrt(variance + call.number("epsilon", EPSILON))
    centred = call.emit(Scale(None, -mean), call.variable(0))
    return [call.emit(Scale(weight, bias), centred)]


def layer_normalization(call: Call) -> list[Value]:
    rank = len(call.shape())
    axes = range(call.integer("axis", -1) % rank, rank)
    return [_scaled(call, _standardised(call, call.variable(), axes, centre=True))]


def rms_normalization(call: Call) -> list[Value]:
    rank = len(call.shape())
    axes = range(call.integer("axis", -1) % rank, rank)
    return [_scaled(call, _standardised(call, call.variable(), axes, centre=False))]


def instance_normalization(call: Call) -> list[Value]:
    rank = len(call.shape())
    return [
        _scaled(call, _standardised(call, call.variable(), range(2, rank), centre=True), spatial=rank - 2)
    ]


def group_normalization(call: Call) -> list[Value]:
    """Scale and bias belong to groups before opset 21, to channels from then on."""
    shape, groups = call.shape(), call.integer("num_groups", 1)
    grouped = parts.reshaped(call, call.variable(), (shape[0], groups, -1))
    inner = _standardised(call, grouped, [2], centre=True)
    if call.opset < 21:
        return [parts.reshaped(call, _scaled(call, inner, spatial=1), shape)]
    return [_scaled(call, parts.reshaped(call, inner, shape), spatial=len(shape) - 2)]


def softmax(call: Call) -> list[Value]:
    """softmax(x)_i = 1 / (1 + Σ_{j≠i} exp(x_j - x_i)), whose bounds stay within (0, 1].

    Wei, Wu, Wu, Chen, Barrett and Farchi 2023, "Convex bounds on the softmax function with applications to robustness
    verification", section 4; the term of j = i is the constant 1.
    """
    sums, shape, axes = _exponential_sums(call)
    if sums is None:
        return [_restored(call, 1.0, shape, axes)]
    shares = call.emit(Normalised(), parts.applied(call, Reciprocal(), sums))
    return [_restored(call, shares, shape, axes)]


def log_softmax(call: Call) -> list[Value]:
    """-log(1 + Σ_{j≠i} exp(x_j - x_i))."""
    sums, shape, axes = _exponential_sums(call)
    result = 0.0 if sums is None else parts.negated(call, parts.applied(call, Log(), sums))
    return [_restored(call, result, shape, axes)]


def reduce_log_sum_exp(call: Call) -> list[Value]:
    """x_1 + log(1 + Σ_{j>1} exp(x_j - x_1))."""
    axes, keep = reduction(call)
    shape = parts.reduced(call.shape(), axes, keep=keep)
    flat = parts.flattened(call, call.variable(), axes)
    *rest, count = call.shape_of(flat)
    first = parts.taken(call, flat, len(rest), [0])
    if count == 1:
        return [parts.reshaped(call, first, shape)]
    others = parts.taken(call, flat, len(rest), range(1, count))
    powers = parts.applied(call, Exp(), parts.plus(call, others, first, -1.0))
    logarithm = parts.applied(call, Log(), parts.summed(call, powers, [len(rest)], keep=True, bias=1.0))
    return [parts.reshaped(call, parts.plus(call, first, logarithm), shape)]


def _standardised(call: Call, source: int, axes: Sequence[int], *, centre: bool) -> int:
    """x / √(mean(x²) + ε) over `axes`, of x less its mean where `centre`."""
    if centre:
        source = parts.plus(call, source, parts.mean(call, source, axes, keep=True), -1.0)
    squares = parts.mean(call, parts.applied(call, Square(), source), axes, keep=True)
    # Called epsilon by every normalisation.
    variance = parts.scaled(call, squares, None, call.number("epsilon", EPSILON))
    return parts.times(call, source, parts.applied(call, power(-0.5), variance))


def _scaled(call: Call, source: int, spatial: int = 0) -> int:
    """With the node's scale and bias, which stand before `spatial` more axes."""
    arrays = [call.constant(position) for position in (1, 2)]
    scale, bias = (None if a is None else a.reshape(*a.shape, *(1,) * spatial) for a in arrays)
    return parts.scaled(call, source, scale, bias)


def _exponential_sums(call: Call) -> tuple[int | None, tuple[int, ...], list[int]]:
    """1 + Σ_{j≠i} exp(x_j - x_i) of the numbers of each row (…, n); None where rows have one number.

    Rows lie along `axis` or, before opset 13, along all axes from `axis` on: these are returned, with the shape that
    the result has when they are moved to the end.
    """
    shape = call.shape()
    rank = len(shape)
    axis = call.integer("axis", -1 if call.opset >= 13 else 1) % rank
    axes = [axis] if call.opset >= 13 else list(range(axis, rank))
    moved = (*(n for a, n in enumerate(shape) if a not in axes), *(shape[a] for a in axes))
    rows = parts.flattened(call, call.variable(), axes)
    *rest, count = call.shape_of(rows)
    if count == 1:
        return None, moved, axes
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    one, other = (parts.taken(call, rows, len(rest), [pair[k] for pair in pairs]) for k in (0, 1))
    powers = parts.applied(call, Exp(), parts.plus(call, other, one, -1.0))
    terms = parts.reshaped(call, powers, (*rest, count, count - 1))
    return parts.summed(call, terms, [len(rest) + 1], keep=False, bias=1.0), moved, axes


def _restored(call: Call, result: int | float, shape: tuple[int, ...], axes: list[int]) -> Value:
    """Rows put back where they came from; a number stands for a constant."""
    if not isinstance(result, int):
        return np.full(call.shape(), result)
    rank = len(shape)
    order = [axis for axis in range(rank) if axis not in axes] + axes
    return parts.permuted(call, parts.reshaped(call, result, shape), np.argsort(order).tolist())
