"""Operators that leave numbers as they are, and those about shapes: Reshape, Transpose, Shape, Cast and their like."""

from __future__ import annotations

from math import prod

import numpy as np
from onnx import TensorProto

from secateur.pipeline.verify.graph.call import Call, Value
from secateur.pipeline.verify.graph.operators import parts


def identity(call: Call) -> list[Value]:
    return [call.variable()]


def dropout(call: Call) -> list[Value]:
    """Dropout in inference: the identity. Switched to training (its third input) it is no function at all."""
    training = call.constant(2) if len(call.arguments) > 2 else None
    if training is not None and np.any(training):
        raise call.refuse("training mode is not supported")
    return [call.variable()]


def cast(call: Call) -> list[Value]:
    if call.integer("to", 0) not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        raise call.refuse("only casts between float types are supported")
    return [call.variable()]


def cast_like(call: Call) -> list[Value]:
    like = call.operand(1)
    if not isinstance(like, int) and like.dtype not in (np.float32, np.float64):
        raise call.refuse("only casts between float types are supported")
    return [call.variable()]


def shape(call: Call) -> list[Value]:
    dimensions = call.shape()
    start, end = call.integer("start", 0), call.integer("end", len(dimensions))
    return [np.array(dimensions[start:end], dtype=np.int64)]


def size(call: Call) -> list[Value]:
    return [np.array(prod(call.shape()), dtype=np.int64)]


def constants_only(call: Call) -> list[Value]:
    """Of constants alone it would have been evaluated."""
    raise call.refuse("only supported where all its inputs are constant")


def reshape(call: Call) -> list[Value]:
    target = call.constant(1) if len(call.arguments) > 1 else np.array(call.integers("shape"))
    assert target is not None
    source = call.shape()
    allow_zero = call.integer("allowzero", 0)
    sizes = [int(n) if n != 0 or allow_zero else source[i] for i, n in enumerate(target.tolist())]
    return [parts.reshaped(call, call.variable(), sizes)]


def flatten(call: Call) -> list[Value]:
    axis, source = call.integer("axis", 1), call.shape()
    axis = axis + len(source) if axis < 0 else axis
    return [parts.reshaped(call, call.variable(), (prod(source[:axis]), prod(source[axis:])))]


def squeeze(call: Call) -> list[Value]:
    axes = _axes(call)
    source = call.shape()
    gone = (
        [axis for axis, n in enumerate(source) if n == 1] if axes is None else [a % len(source) for a in axes]
    )
    target = [n for axis, n in enumerate(source) if axis not in gone]
    return [parts.reshaped(call, call.variable(), target)]


def unsqueeze(call: Call) -> list[Value]:
    axes = _axes(call)
    assert axes is not None
    source = list(call.shape())
    rank = len(source) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        source.insert(axis, 1)
    return [parts.reshaped(call, call.variable(), source)]


def transpose(call: Call) -> list[Value]:
    rank = len(call.shape())
    return [parts.permuted(call, call.variable(), call.integers("perm") or list(range(rank))[::-1])]


def expand(call: Call) -> list[Value]:
    target = call.constant(1)
    assert target is not None
    result = np.broadcast_shapes(call.shape(), tuple(int(v) for v in target))
    return [parts.broadcast(call, call.variable(), result)]


def _axes(call: Call) -> list[int] | None:
    given = call.constant(1) if len(call.arguments) > 1 else None
    return [int(v) for v in given.reshape(-1)] if given is not None else call.integers("axes")
