"""Rules of the operators that join and part axes, or make them longer: Concat, Split, Slice, Gather, Pad, Tile."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from numpy.typing import NDArray

from secateur.pipeline.onnxgraph import label, set_attribute
from secateur.pipeline.prune.channels.call import Call, Operand
from secateur.pipeline.prune.channels.ledger import Floats, Indices, Repairs, Spread, Value
from secateur.pipeline.prune.channels.network import Array


def _inside(call: Call, axis: int) -> Value:
    return tuple(spread for spread in call.value(0) if axis not in spread.axes)


def concat(call: Call) -> list[Value]:
    """Ids one after the other along the axis; on other axes the parts are united."""
    shape = call.result
    axis = int(call.attribute("axis")) % len(shape)
    parts = [call.operand(index, len(shape)) for index in range(len(call.node.input))]
    along = [call.at(part.spreads, axis) for part in parts]
    others = [
        Operand(
            (*part.shape[:axis], 1, *part.shape[axis + 1 :]),
            tuple(spread for spread in part.spreads if axis not in spread.axes),
        )
        for part in parts
    ]
    flat = (*shape[:axis], 1, *shape[axis + 1 :])
    value = call.join(others, flat, lambda *each: np.where(_equal(each), each[0], np.nan))
    if all(spread is None for spread in along):
        return [value]
    for i, (spread, part) in enumerate(zip(along, parts, strict=True)):
        if spread is None:
            size = part.shape[axis]
            fixed = np.full(size, part.uniform)
            along[i] = beside = Spread((axis,), call.ledger.fresh(size), fixed, fixed)
            call.pin(beside, "stands beside channels in")
    return [(_joined([spread for spread in along if spread is not None], axis), *value)]


def _equal(each: tuple[Floats, ...]) -> NDArray[np.bool_]:
    return np.asarray(np.logical_and.reduce([each[0] == other for other in each]))


def split(call: Call) -> list[Value]:
    """Sizes given (by attribute or input) or equal: they are written out when positions go."""
    axis = int(call.attribute("axis", 0)) % len(call.shape(0))
    names = list(call.node.output)
    sizes = [call.network.shapes[name][axis] for name in names]
    spread = next((s for s in call.value(0) if axis in s.axes), None)
    rest = _inside(call, axis)
    if spread is None:
        return [rest for _ in names]
    starts = np.cumsum([0, *sizes])
    parts = [spread.taken(np.arange(start, end), axis) for start, end in pairwise(starts)]

    def fix(edit: Repairs, node: onnx.NodeProto) -> None:
        left = [int(edit.along(part, axis).sum()) for part in parts]
        if left == sizes:
            return
        if call.network.opset < 13:
            set_attribute(node, "split", left)
        else:
            edit.drop_attribute(node, "num_outputs")
            edit.write(node, 1, np.array(left, np.int64))

    call.ledger.fix(call.place, fix)
    return [(part, *rest) for part in parts]


def slice_(call: Call) -> list[Value]:
    """A range of positions, in steps of one along live axes."""
    rank = len(call.shape(0))
    old = call.network.opset < 10
    given = [
        call.attribute(name, None) if old else call.array(index)
        for index, name in ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps"))
    ]
    starts, ends, axes, steps = (None if v is None else [int(i) for i in v] for v in given)
    if any(v is None and call.given(index) for index, v in enumerate((starts, ends, axes, steps), 1)):
        return call.refuse("computed positions of")
    if starts is None or ends is None:
        return call.refuse("positions are missing in")
    axes = [axis % rank for axis in (axes or range(len(starts)))]
    steps = steps or [1] * len(starts)
    value = call.value(0)
    bounds: dict[int, tuple[int, int, Spread]] = {}
    for entry, (axis, start, end, step) in enumerate(zip(axes, starts, ends, steps, strict=True)):
        positions = np.arange(call.shape(0)[axis])[slice(start, _end(end, step), step)]
        if len(positions) == call.shape(0)[axis]:
            continue
        spread = next((s for s in value if axis in s.axes), None)
        if spread is None:
            continue
        if step != 1 or not len(positions):
            spread_after = call.forbid(spread, axis, "positions are picked in steps by")
            part = spread_after if axis not in spread_after.axes else spread_after.taken(positions, axis)
        else:
            bounds[entry] = (int(positions[0]), int(positions[-1]) + 1, spread)
            part = spread.taken(positions, axis)
        value = tuple(part if s is spread else s for s in value)

    def fix(edit: Repairs, node: onnx.NodeProto) -> None:
        first, last = list(starts), list(ends)
        for entry, (start, end, spread) in bounds.items():
            kept = np.concatenate([[0], np.cumsum(edit.along(spread, axes[entry]))])
            first[entry], last[entry] = int(kept[start]), int(kept[end])
        for index, name, entries, before in ((1, "starts", first, starts), (2, "ends", last, ends)):
            if entries != before and old:
                set_attribute(node, name, entries)
            elif entries != before:
                edit.write(node, index, np.array(entries, np.int64))

    if bounds:
        call.ledger.fix(call.place, fix)
    return [value]


def _end(end: int, step: int) -> int | None:
    """An end far below zero with a negative step means: through the first."""
    return None if step < 0 and end < -(2**30) else end


def gather(call: Call) -> list[Value]:
    """Constant positions along an axis; a table's rows picked by computed indices."""
    shape, constant = call.shape(0), call.array(0) is not None
    axis = int(call.attribute("axis", 0)) % len(shape)
    value = call.produce(0) if constant else call.value(0)
    call.pin(call.value(1), "used as positions by")
    rank = len(call.shape(1))
    spread = next((s for s in value if axis in s.axes), None)
    indices = call.array(1)
    if spread is not None and (indices is None or indices.ndim != 1):
        if indices is not None and len(spread.axes) > 1:
            spread_after = call.drop(spread, axis)
            value = tuple(spread_after if s is spread else s for s in value)
        elif indices is not None and indices.size == 1:
            _scalar(call, spread, int(indices.reshape(())) % shape[axis], indices)
            value = tuple(s for s in value if s is not spread)
        else:
            value = call.without(value, [axis], "picked from by")
            value = tuple(s for s in value if axis not in s.axes)
        spread = None
    if spread is not None and indices is not None:
        positions = np.asarray(indices, np.intp) % shape[axis]
        part = spread.taken(positions, axis)

        def fix(edit: Repairs, node: onnx.NodeProto) -> None:
            kept = edit.along(spread, axis)
            if not kept.all():
                rank_of = np.cumsum(kept) - 1
                edit.write(node, 1, rank_of[positions[kept[positions]]].astype(np.int64))

        call.ledger.fix(call.place, fix)
        value = tuple(part if s is spread else s for s in value)
    moved = (
        s.moved(tuple(a + rank - 1 if a > axis or (a == axis and rank == 0) else a for a in s.axes))
        for s in value
    )
    return [tuple(moved)]


def _scalar(call: Call, spread: Spread, position: int, indices: Array) -> None:
    """A single position is picked: it stays, and its number is corrected."""
    call.ledger.pin(spread.ids[[position]], f"picked by {label(call.node)}")

    def fix(edit: Repairs, node: onnx.NodeProto) -> None:
        number = int(edit.keep(spread.ids)[:position].sum())
        if number != position:
            edit.write(node, 1, np.full(indices.shape, number, np.int64))

    call.ledger.fix(call.place, fix)


def pad(call: Call) -> list[Value]:
    """New positions along a live axis are channels that hold the padding's constant; they can go, too."""
    given = _padding(call)
    if given is None:
        return call.refuse("computed padding of")
    amounts, axes, fill = given
    half, old = len(amounts) // 2, call.network.opset < 11
    constant = call.attribute("mode", "constant") == "constant"
    value = call.value(0)
    added: list[tuple[int, Indices]] = []
    for entry, axis in enumerate(axes):
        before, after = amounts[entry], amounts[entry + half]
        if not before and not after:
            continue
        spread = next((s for s in value if s.axes == (axis,)), None)
        value = tuple(s for s in value if s is not spread)
        if constant:  # elsewhere, the border differs from a constant inside, unless it is the same
            value = tuple(s.mapped(lambda x: np.where(x == fill, x, np.nan)) for s in value)
        value = call.without(value, [axis], "padded by")
        if spread is not None and constant and min(before, after) >= 0:
            ends = [
                Spread((axis,), call.ledger.fresh(n), np.full(n, fill), np.full(n, fill))
                for n in (before, after)
            ]
            added += [(entry, ends[0].ids), (entry + half, ends[1].ids)]
            value = (*value, _joined([ends[0], spread, ends[1]], axis))
        elif spread is not None:
            call.pin(spread, "padded by")

    def fix(edit: Repairs, node: onnx.NodeProto) -> None:
        left = list(amounts)
        for entry, ids in added:
            left[entry] = int(edit.keep(ids).sum())
        if left != amounts and old:
            set_attribute(node, "pads", left)
        elif left != amounts:
            edit.write(node, 1, np.array(left, np.int64))

    if added:
        call.ledger.fix(call.place, fix)
    return [value]


def _padding(call: Call) -> tuple[list[int], list[int], float] | None:
    """Amounts before and after each of some axes, and the constant (NaN where it is computed)."""
    rank = len(call.shape(0))
    if call.network.opset < 11:
        return list(call.attribute("pads")), list(range(rank)), float(call.attribute("value", 0.0))
    amounts, fill, axes = call.array(1), call.array(2), call.array(3)
    if amounts is None or (axes is None and call.given(3)):
        return None
    number = float(fill.reshape(())) if fill is not None else np.nan if call.given(2) else 0.0
    chosen = list(range(rank)) if axes is None else [int(axis) % rank for axis in axes]
    return [int(amount) for amount in amounts], chosen, number


def _joined(pieces: list[Spread], axis: int) -> Spread:
    """Spreads on one axis, one after the other."""
    ids, now, masked = ([getattr(piece, name) for piece in pieces] for name in ("ids", "now", "masked"))
    return Spread((axis,), np.concatenate(ids), np.concatenate(now), np.concatenate(masked))


def tile(call: Call) -> list[Value]:
    repeats = call.array(1)
    if repeats is None:
        return call.refuse("computed repeats of")
    value = call.value(0)
    for axis, times in enumerate(int(times) for times in repeats):
        for spread in value:
            if times > 1 and spread.axes == (axis,):
                longer = spread.arranged((axis,), lambda array: np.tile(array, times))  # noqa: B023
                value = tuple(longer if s is spread else s for s in value)
            elif times > 1 and axis in spread.axes:
                short = call.drop(spread, axis)
                value = tuple(short if s is spread else s for s in value)
    return [value]
