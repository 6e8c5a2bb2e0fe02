"""Rules of the operators that lay positions out anew: transpositions, reshapes, and what is given a shape."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import onnx
from onnx import helper

from secateur.pipeline.onnxgraph import attribute, label
from secateur.pipeline.prune.channels.call import Call
from secateur.pipeline.prune.channels.ledger import Fix, Repairs, Spread, Value
from secateur.pipeline.prune.channels.network import filled


def transpose(call: Call) -> list[Value]:
    rank = len(call.shape(0))
    perm = list(call.attribute("perm", range(rank)[::-1]))
    return [tuple(spread.moved(tuple(perm.index(axis) for axis in spread.axes)) for spread in call.value(0))]


def reshaped(call: Call) -> list[Value]:
    """Flatten, Unsqueeze: they follow by themselves."""
    return [_through(call, call.value(0), call.shape(0), call.result)]


def squeeze(call: Call) -> list[Value]:
    """Without axes, it would take an axis away that is left with one channel: that one is pinned."""
    value = call.value(0)
    if not call.given(1) and call.attribute("axes", None) is None:
        call.pin(value, "squeezed without axes by")
    return [_through(call, value, call.shape(0), call.result)]


def reshape(call: Call) -> list[Value]:
    """As `reshaped`; the target is written anew where a size in it changes."""
    if _shuffle(call):
        return []
    value = _through(call, call.value(0), call.shape(0), call.result)
    result, varies = call.result, call.network.varying[call.node.output[0]]
    name = call.node.input[1] if call.given(1) else ""
    target = call.array(1)
    computed = name in call.network.static
    if value and target is None and sum(varies) > 1:
        call.pin(value, "the target has several dimensions that depend on the batch in")

    def fix(edit: Repairs, node: onnx.NodeProto) -> None:
        sizes = edit.sizes(result, value)
        if sizes == result and not (computed and edit.changed(name)):
            return
        entries = [-1 if varies[axis] else size for axis, size in enumerate(sizes)]
        if target is not None and not computed:
            zero = not call.attribute("allowzero", 0)
            copied = edit.sizes(call.shape(0), call.value(0))
            for axis, entry in enumerate(int(entry) for entry in target):
                if entry == -1 or (entry == 0 and zero and copied[axis] == sizes[axis]):
                    entries[axis] = entry
                elif varies[axis]:
                    entries[axis] = 0
        edit.write(node, 1, np.array(entries, np.int64))

    if name:
        call.ledger.fix(call.place, fix)
    return [value]


def _shuffle(call: Call) -> bool:
    """A Reshape, Transpose and Reshape that only permute one axis (ShuffleNet): every channel may go by itself, for
    what is left of the permutation can be written as a Gather. Whether this is one; then all three are dealt with."""
    names = [call.node.output[0]]
    places = [call.place]
    for operator in ("Transpose", "Reshape"):
        readers = call.network.readers.get(names[-1], [])
        if len(readers) != 1 or call.network.uses[names[-1]] != 1:
            return False
        node, index = readers[0]
        if node.op_type != operator or index != 0:
            return False
        names.append(node.output[0])
        places.append(call.network.places[node.output[0]])
    shape, value = call.shape(0), call.value(0)
    if call.network.shapes[names[2]] != shape or len(value) != 1 or len(value[0].axes) != 1:
        return False
    spread, axis = value[0], value[0].axes[0]
    size = shape[axis]
    line = np.arange(size).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    split = np.broadcast_to(line, shape).reshape(call.network.shapes[names[0]])
    grid = split.transpose(attribute(call.network.graph.node[places[1]], "perm", None)).reshape(shape)
    order = np.moveaxis(grid, axis, 0).reshape(size, -1)
    if (order != order[:, :1]).any():
        return False
    permutation = order[:, 0]

    def fix(edit: Repairs, node: onnx.NodeProto) -> None:
        kept = edit.keep(spread.ids)
        if kept.all():
            return
        rank = np.cumsum(kept) - 1
        gather = helper.make_node("Gather", [node.input[0], ""], [names[2]], node.name, axis=axis)
        edit.write(gather, 1, rank[permutation[kept[permutation]]].astype(np.int64), f"{names[2]}_order")
        edit.insert(gather, places[2])
        for place in places:
            edit.discard(place)

    call.ledger.fix(call.place, fix)
    call.ledger.done |= set(places[1:])
    call.values[names[2]] = (spread.taken(permutation, axis),)
    return True


def _through(call: Call, value: Value, before: tuple[int, ...], after: tuple[int, ...]) -> Value:
    """Follow the position of every element from the shape `before` to `after`."""
    segments = _segments(before, after)
    results: list[Spread] = []
    for spread in value:
        touched = [s for s in segments if set(s[0]) & set(spread.axes)]
        old = range(touched[0][0].start, touched[-1][0].stop)
        new = range(touched[0][1].start, touched[-1][1].stop)
        at = [before[a] if a in spread.axes else 1 for a in old]
        wide, target = [before[a] for a in old], [after[a] for a in new]
        if not target:
            call.pin(spread, "squeezed by")
            continue
        moved = _laid(spread, tuple(new), at, wide, target)
        same = [a for i, a in enumerate(new) if (moved.ids == moved.ids.take([0], i)).all()]
        if len(same) == len(target):  # all positions are one channel's: leave it on the longest axis
            same.remove(max(same, key=after.__getitem__))
        for axis in same:
            moved = moved.dropped(axis)
        if any(set(moved.axes) & set(other.axes) for other in results):
            call.pin(moved, "merged with another axis of channels by")
            for other in results:
                if set(moved.axes) & set(other.axes):
                    call.pin(other, "merged with another axis of channels by")
            continue
        if len(moved.axes) > 1:
            call.ledger.grids.append(moved.ids)
        results.append(moved)
    return tuple(results)


def _laid(spread: Spread, axes: tuple[int, ...], at: list[int], wide: list[int], target: list[int]) -> Spread:
    """The spread's arrays over whole segments of axes (`at`: its shape there, `wide`: theirs), reshaped to `target`."""
    return spread.arranged(axes, lambda array: np.broadcast_to(array.reshape(at), wide).reshape(target))


def _segments(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[range, range]]:
    """The shortest runs of axes with the same number of elements on both sides."""
    segments = []
    i = j = 0
    while i < len(before) or j < len(after):
        first, second = i, j
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while prod(before[first:i]) != prod(after[second:j]):
            if (prod(before[first:i]) < prod(after[second:j]) and i < len(before)) or j == len(after):
                i += 1
            else:
                j += 1
        segments.append((range(first, i), range(second, j)))
    return segments


# --- shapes as inputs ----------------------------------------------------------------------------------------


def expand(call: Call) -> list[Value]:
    """Repeats axes of one position. Where an axis is live, the target says one, which leaves it as it is."""
    rank = len(call.result)
    value = call.join([call.operand(0, rank)], call.result, lambda x: x)
    shift = rank - call.shape(1)[0]
    live = {axis - shift: 1 for spread in value for axis in spread.axes if axis >= shift}
    call.ledger.fix(call.place, _target(call, 1, value, lambda edit: live))
    return [value]


def constant_of_shape(call: Call) -> list[Value]:
    """One number everywhere: each position is like any other, and may go with what is added to it."""
    number, varies = float(filled(call.node).reshape(())), call.network.varying[call.node.output[0]]
    value = tuple(
        Spread((axis,), call.ledger.fresh(size), np.full(size, number), np.full(size, number))
        for axis, size in enumerate(call.result)
        if size > 1 and not varies[axis]
    )
    live = {spread.axes[0] for spread in value}

    def sizes(edit: Repairs) -> dict[int, int]:
        after = edit.sizes(call.result, value)
        return {axis: after[axis] for axis in live}

    call.ledger.fix(call.place, _target(call, 0, value, sizes))
    return [value]


def resize(call: Call) -> list[Value]:
    """Resize and Upsample, by scales or by sizes; live axes keep theirs."""
    scaled = [a for a, (old, new) in enumerate(zip(call.shape(0), call.result, strict=True)) if old != new]
    value = call.fit(call.without(call.value(0), scaled, "resized by"), call.result)
    if call.attribute("mode", "nearest") != "nearest" or (call.given(1) and call.network.opset > 10):
        value = tuple(s.mapped(lambda x: np.where(x == 0, 0.0, np.nan)) for s in value)
    if call.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        value = call.without(value, range(len(call.result)), "cropped by")
    if call.given(3):
        axes = [axis % len(call.result) for axis in call.attribute("axes", range(len(call.result)))]
        live = {axes.index(a): a for spread in value for a in spread.axes if a in axes}

        def sizes(edit: Repairs) -> dict[int, int]:
            after = edit.sizes(call.result, value)
            return {entry: after[axis] for entry, axis in live.items()}

        call.ledger.fix(call.place, _target(call, 3, value, sizes))
    return [value]


def _target(call: Call, index: int, value: Value, entries: Callable[[Repairs], dict[int, int]]) -> Fix:
    """The repair of an input that holds a shape: `entries` are numbers to put into it when sizes change. Where it is
    computed from the batch, this is done by a Mul and an Add behind the computation."""
    name = call.node.input[index]
    taint = call.taints.get(name)
    if taint is not None and (taint.elements & call.network.static[name].varies).any():
        for ids in taint.ids:
            call.ledger.pin(ids, f"their number times the batch size is read by {label(call.node)}")

    def fix(edit: Repairs, node: onnx.NodeProto) -> None:
        if edit.sizes(call.result, value) == call.result and not edit.changed(name):
            return
        new = entries(edit)
        known = call.network.array(name)
        if known is not None:
            array = known.copy()
            for entry, number in new.items():
                array[entry] = number
            edit.write(node, index, array)
            return
        static = call.network.static[name]
        if taint is not None:
            counted = np.flatnonzero(taint.elements & ~static.varies)
            new = {int(entry): int(static.value[entry]) for entry in counted} | new
        factor, term = np.ones_like(static.value), np.zeros_like(static.value)
        for entry, number in new.items():
            factor[entry], term[entry] = 0, number
        result = name
        for operator, constant in (("Mul", factor), ("Add", term)):
            patch = helper.make_node(operator, [result, ""], [edit.unused(f"{name}_{operator.lower()}")])
            edit.write(patch, 1, constant, f"{patch.output[0]}_by")
            edit.insert(patch, call.place)
            result = patch.output[0]
        node.input[index] = result

    return fix


# --- blocks of channels --------------------------------------------------------------------------------------


def depth_to_space(call: Call) -> list[Value]:
    """Blocks of b x b channels become one channel: they go together."""
    value = call.without(call.value(0), (2, 3), "laid out anew by")
    spread, block = call.at(value, 1), int(call.attribute("blocksize"))
    rest = tuple(s for s in value if 1 not in s.axes)
    if spread is None:
        return [rest]
    first = call.attribute("mode", "DCR") == "DCR"
    shape = (block * block, -1) if first else (-1, block * block)
    grid = spread.arranged((0, 1), lambda array: array.reshape(shape))
    return [(call.drop(grid, 0 if first else 1).moved((1,)), *rest)]


def space_to_depth(call: Call) -> list[Value]:
    """One channel becomes b x b, each a run of all channels."""
    value = call.without(call.value(0), (2, 3), "laid out anew by")
    spread, block = call.at(value, 1), int(call.attribute("blocksize"))
    rest = tuple(s for s in value if 1 not in s.axes)
    if spread is None:
        return [rest]
    return [(spread.arranged((1,), lambda array: np.tile(array, block * block)), *rest)]
