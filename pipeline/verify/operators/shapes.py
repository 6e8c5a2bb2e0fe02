"""Operators that move numbers: shapes, slices, joins, paddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from onnx import TensorProto

from secateur.pipeline.verify.call import Call, Value
from secateur.pipeline.verify.operations import Concat, Permute, Reshape, Select


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


def shape(call: Call) -> list[Value]:
    dimensions = call.shape()
    start, end = call.integer("start", 0), call.integer("end", len(dimensions))
    return [np.array(dimensions[start:end], dtype=np.int64)]


def reshape(call: Call) -> list[Value]:
    target = call.constant(1) if len(call.arguments) > 1 else np.array(call.integers("shape"))
    assert target is not None
    source = call.shape()
    allow_zero = call.integer("allowzero", 0)
    sizes = [int(n) if n != 0 or allow_zero else source[i] for i, n in enumerate(target.tolist())]
    return [_reshaped(call, tuple(np.empty(source, dtype=np.int8).reshape(sizes).shape))]


def flatten(call: Call) -> list[Value]:
    axis, source = call.integer("axis", 1), call.shape()
    axis = axis + len(source) if axis < 0 else axis
    return [_reshaped(call, (int(np.prod(source[:axis])), int(np.prod(source[axis:]))))]


def squeeze(call: Call) -> list[Value]:
    axes = _axes(call)
    source = call.shape()
    if axes is None:
        return [_reshaped(call, tuple(n for n in source if n != 1))]
    gone = {axis % len(source) for axis in axes}
    return [_reshaped(call, tuple(n for axis, n in enumerate(source) if axis not in gone))]


def unsqueeze(call: Call) -> list[Value]:
    axes = _axes(call)
    assert axes is not None
    source = list(call.shape())
    rank = len(source) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        source.insert(axis, 1)
    return [_reshaped(call, tuple(source))]


def transpose(call: Call) -> list[Value]:
    rank = len(call.shape())
    axes = call.integers("perm") or list(range(rank))[::-1]
    return [call.emit(Permute(tuple(axes)), call.variable())]


def concat(call: Call) -> list[Value]:
    if not all(isinstance(value, int) for value in call.arguments):
        raise call.refuse("joining variables and constants is not supported")
    axis = call.integer("axis", 0) % len(call.shape())
    sizes = tuple(call.shape(i)[axis] for i in range(len(call.arguments)))
    return [call.emit(Concat(axis, sizes), *(call.variable(i) for i in range(len(call.arguments))))]


def slice_(call: Call) -> list[Value]:
    rank = len(call.shape())
    if call.opset < 10:
        starts, ends, axes, steps = (
            call.integers("starts"),
            call.integers("ends"),
            call.integers("axes"),
            None,
        )
        assert starts is not None
        assert ends is not None
    else:
        arrays = [call.constant(i) for i in range(1, len(call.arguments))] + [None] * 4
        lists = [None if a is None else [int(v) for v in a.reshape(-1)] for a in arrays[:4]]
        starts, ends, axes, steps = lists[0] or [], lists[1] or [], lists[2], lists[3]
    keys = [slice(None)] * rank
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = steps[i] if steps else 1
        stop = None if step < 0 and end < -call.shape()[axes[i] if axes else i] else end
        keys[axes[i] if axes else i] = slice(start, stop, step)
    return [_selected(call, _numbered(call)[tuple(keys)])]


def gather(call: Call) -> list[Value]:
    indices = call.constant(1)
    assert indices is not None
    return [_selected(call, np.take(_numbered(call), indices.astype(np.int64), axis=call.integer("axis", 0)))]


def split(call: Call) -> list[Value]:
    axis = call.integer("axis", 0) % len(call.shape())
    given = call.constant(1) if len(call.arguments) > 1 else None
    listed = [int(v) for v in given.reshape(-1)] if given is not None else call.integers("split")
    if listed is None:
        count, size = len(call.node.output), call.shape()[axis]
        part = -(-size // count)
        listed = [min(part, size - part * i) for i in range(count)]
    parts = np.split(_numbered(call), np.cumsum(listed)[:-1], axis=axis)
    return [_selected(call, part) for part in parts]


def pad(call: Call) -> list[Value]:
    rank = len(call.shape())
    given = call.constant(1) if len(call.arguments) > 1 else np.array(call.integers("pads"))
    value = call.constant(2) if len(call.arguments) > 2 else np.array(call.number("value", 0.0))
    if call.text("mode", "constant") != "constant" or (value is not None and np.any(value)):
        raise call.refuse("only padding with zeros is supported")
    assert given is not None
    pads = [int(v) for v in given.reshape(-1)]
    axes_given = call.constant(3) if len(call.arguments) > 3 else None
    axes = [int(v) % rank for v in axes_given.reshape(-1)] if axes_given is not None else list(range(rank))
    if min(pads) < 0:
        raise call.refuse("negative padding is not supported")
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[len(axes) + i]
    return [zero_pad(call, call.variable(), before, after)]


def expand(call: Call) -> list[Value]:
    target = call.constant(1)
    assert target is not None
    result = np.broadcast_shapes(call.shape(), tuple(int(v) for v in target))
    return [broadcast(call, call.variable(), result)]


def broadcast(call: Call, source: int, target: tuple[int, ...]) -> int:
    """The node `source` repeated to the shape `target`."""
    known = call.builder.nodes[source].shape
    if known == target:
        return source
    numbers = np.broadcast_to(np.arange(int(np.prod(known))).reshape(known), target)
    return call.emit(Select(torch.from_numpy(numbers.reshape(-1).copy()), known, target), source)


def zero_pad(call: Call, source: int, before: Sequence[int], after: Sequence[int]) -> int:
    known = call.builder.nodes[source].shape
    numbers = np.pad(
        np.arange(int(np.prod(known))).reshape(known),
        list(zip(before, after, strict=True)),
        constant_values=-1,
    )
    return call.emit(Select(torch.from_numpy(numbers.reshape(-1)), known, numbers.shape), source)


def _numbered(call: Call) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The flat positions of the first argument's elements, in its shape."""
    dimensions = call.shape()
    return np.arange(int(np.prod(dimensions))).reshape(dimensions)


def _selected(call: Call, numbers: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> int:
    index = torch.from_numpy(numbers.reshape(-1).copy())
    return call.emit(Select(index, call.shape(), numbers.shape), call.variable())


def _reshaped(call: Call, target: tuple[int, ...]) -> int:
    return call.emit(Reshape(call.shape(), target), call.variable())


def _axes(call: Call) -> list[int] | None:
    given = call.constant(1) if len(call.arguments) > 1 else None
    return [int(v) for v in given.reshape(-1)] if given is not None else call.integers("axes")
