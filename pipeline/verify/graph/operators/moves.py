"""Operators that pick, repeat and join numbers: Slice, Gather, Concat, Split, Pad, Tile, Where and their like."""

from __future__ import annotations

import numpy as np

from secateur.formats.errors import UnsupportedError
from secateur.pipeline.verify.graph import constants
from secateur.pipeline.verify.graph.call import Call, Value
from secateur.pipeline.verify.graph.operations import Concat, Sum
from secateur.pipeline.verify.graph.operators import parts


def moved(call: Call) -> list[Value]:
    """An operator that moves the numbers of its first input and does nothing else; its other inputs are constant."""
    others = [call.constant(position) for position in range(1, len(call.arguments))]
    try:
        numbers = constants.moved(call.node, call.shape(), others, call.opset)
    except UnsupportedError as error:
        raise call.refuse(str(error)) from None
    return [parts.selected(call, call.variable(), numbers)]


def concat(call: Call) -> list[Value]:
    """Variables are joined first; places for constants are left open, and the constants added there."""
    axis = call.integer("axis", 0) % len(call.shape())
    variables = [value for value in call.arguments if isinstance(value, int)]
    sizes = tuple(call.shape_of(value)[axis] for value in variables)
    joined = call.emit(Concat(axis, sizes), *variables) if len(variables) > 1 else variables[0]
    if len(variables) == len(call.arguments):
        return [joined]
    pieces = iter(np.split(parts.numbered(call, joined), np.cumsum(sizes)[:-1], axis=axis))
    numbers, fixed = [], []
    for position in range(len(call.arguments)):
        value = call.operand(position)
        if isinstance(value, int):
            numbers.append(next(pieces))
            fixed.append(np.zeros(call.shape_of(value)))
        else:
            numbers.append(np.full(value.shape, -1))
            fixed.append(np.asarray(value, np.float64))
    return [parts.filled(call, joined, np.concatenate(numbers, axis), np.concatenate(fixed, axis))]


def slice_(call: Call) -> list[Value]:
    rank = len(call.shape())
    if call.opset < 10:
        starts, ends, axes = call.integers("starts"), call.integers("ends"), call.integers("axes")
        steps = None
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
    return [parts.selected(call, call.variable(), parts.numbered(call, call.variable())[tuple(keys)])]


def gather(call: Call) -> list[Value]:
    indices = call.constant(1)
    assert indices is not None
    return [parts.taken(call, call.variable(), call.integer("axis", 0), indices.astype(np.int64))]


def split(call: Call) -> list[Value]:
    axis = call.integer("axis", 0) % len(call.shape())
    given = call.constant(1) if len(call.arguments) > 1 else None
    listed = [int(v) for v in given.reshape(-1)] if given is not None else call.integers("split")
    if listed is None:
        count, size = len(call.node.output), call.shape()[axis]
        part = -(-size // count)
        listed = [min(part, size - part * i) for i in range(count)]
    numbers = np.split(parts.numbered(call, call.variable()), np.cumsum(listed)[:-1], axis=axis)
    return [parts.selected(call, call.variable(), part) for part in numbers]


def pad(call: Call) -> list[Value]:
    """With a constant, or with numbers of the tensor itself (reflect, edge, wrap); negative padding cuts off."""
    if call.text("mode", "constant") != "constant":
        return moved(call)
    given = call.constant(1) if len(call.arguments) > 1 else np.array(call.integers("pads"))
    assert given is not None
    pads = [int(v) for v in given.reshape(-1)]
    listed = call.constant(3) if len(call.arguments) > 3 else None
    rank = len(call.shape())
    axes = [int(v) % rank for v in listed.reshape(-1)] if listed is not None else list(range(rank))
    widths = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[len(axes) + i])
    numbers = parts.numbered(call, call.variable())
    cut = tuple(slice(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(call.shape(), widths, strict=True))
    numbers, added = numbers[cut], [(max(0, a), max(0, b)) for a, b in widths]
    numbers = np.pad(numbers, added, constant_values=-1)
    value = call.constant(2) if len(call.arguments) > 2 else np.array(call.number("value", 0.0))
    fill = 0.0 if value is None else float(value.item())
    return [parts.filled(call, call.variable(), numbers, np.float64(fill))]


def where(call: Call) -> list[Value]:
    """With a constant condition: both branches with zeros in place of the other's numbers, and their sum."""
    condition = call.constant(0)
    assert condition is not None
    branches = [call.operand(1), call.operand(2)]
    target = np.broadcast_shapes(condition.shape, *(call.shape_of(value) for value in branches))
    chosen = np.broadcast_to(condition.astype(bool), target)
    masks = [chosen, ~chosen]
    found = [
        parts.selected(call, value, np.where(mask, np.broadcast_to(parts.numbered(call, value), target), -1))
        for value, mask in zip(branches, masks, strict=True)
        if isinstance(value, int)
    ]
    fixed = [
        np.where(mask, np.asarray(value, np.float64), 0.0)
        for value, mask in zip(branches, masks, strict=True)
        if not isinstance(value, int)
    ]
    if fixed:
        return [parts.scaled(call, found[0], None, fixed[0])] if found else [np.where(chosen, *branches)]
    return [call.emit(Sum((1.0, 1.0)), *found)]
