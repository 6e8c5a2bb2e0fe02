"""Rules of the operators that mix channels: convolutions, Gemm, MatMul. They read ids and make new ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from secateur.pipeline.onnxgraph import label, set_attribute
from secateur.pipeline.prune.channels.call import Call, Operand
from secateur.pipeline.prune.channels.ledger import Floats, Indices, Reading, Repairs, Spread, Value

Axes = tuple[str | int, ...]
"""Names of a value's axes."""

_MIXED = "another axis than the channels is mixed by"


def convolution(call: Call) -> list[Value]:
    """Conv and ConvTranspose, grouped and not, of any number of spatial dimensions."""
    weight = call.array(1)
    if weight is None or call.value(1):
        return call.refuse("the weight is computed at")
    value = call.without(call.value(0), range(2, len(call.shape(0))), _MIXED)
    groups = int(call.attribute("group", 1))
    transposed = call.node.op_type == "ConvTranspose"
    arriving = call.at(value, 1)
    if groups > 1:
        leaving = _grouped(call, arriving, groups, transposed)
    else:
        into, out = (0, 1) if transposed else (1, 0)
        if arriving is not None:
            read(call, 1, into, arriving)
        leaving = _leaving(call, out)
    return [(leaving, *(spread for spread in value if 1 not in spread.axes))]


def _leaving(call: Call, axis: int) -> Spread:
    """Fresh ids for a layer's output channels, along the axis of its weight (input 1) and its bias (input 2)."""
    size = call.shape(1)[axis]
    ids = call.ledger.fresh(size)
    call.slot(1, axis, ids, "weight")
    bias, masked = _bias(call, ids)
    dead = call.network.zero(call.node.input[1], axis)
    return Spread((1,), ids, np.where(dead, bias, np.nan), masked)


def _bias(call: Call, ids: Indices) -> tuple[Floats, Floats]:
    """The bias (input 2) and what it is when masked; it runs over `ids`."""
    size = len(ids)
    if not call.given(2):
        return np.zeros(size), np.zeros(size)
    bias = call.array(2)
    if bias is None:
        call.ledger.pin(ids, f"the bias is computed at {label(call.node)}")
        call.pin(call.value(2), "a computed bias of")
        return np.full(size, np.nan), np.full(size, np.nan)
    now = call.vector(2, bias.ndim - 1, size) * float(call.attribute("beta", 1.0))
    if bias.ndim and bias.shape[-1] == size:
        slot = call.slot(2, bias.ndim - 1, ids, "parameter")
        return now, np.zeros(size) if slot.role == "parameter" else now
    return now, now


def read(call: Call, index: int, axis: int, arriving: Spread) -> None:
    """The ids end here: they run over `axis` of the weight that comes by input `index`."""
    slot = call.slot(index, axis, arriving.ids, "reader")
    call.ledger.readings.append(Reading(call.place, slot, arriving.ids, arriving.now))


def _grouped(call: Call, arriving: Spread | None, groups: int, transposed: bool) -> Spread:
    """Depthwise, whole groups go (a channel and all that is made of it); otherwise the j-th channel of every group goes
    together, which leaves the fewest weights: both axes of the weight become shorter."""
    shape = call.shape(1)
    incoming = shape[0] // groups if transposed else shape[1]
    outgoing = shape[1] if transposed else shape[0] // groups
    if incoming == 1 and (arriving is not None or outgoing == 1):
        return _depthwise(call, arriving, (groups, outgoing), transposed)
    if arriving is not None:
        grid = arriving.ids.reshape(groups, incoming)
        each = call.ledger.unite_along(grid, 0)
        slot = call.slot(1, 0, arriving.ids, "reader") if transposed else call.slot(1, 1, each, "reader")
        now = arriving.now.reshape(groups, incoming)
        call.ledger.readings.append(Reading(call.place, slot, grid, now))
    ids = call.ledger.fresh(groups, outgoing)
    each = call.ledger.unite_along(ids, 0)
    if transposed:
        call.slot(1, 1, each, "weight")
        dead = np.tile(call.network.zero(call.node.input[1], 1), groups)
    else:
        call.slot(1, 0, ids.ravel(), "weight")
        dead = call.network.zero(call.node.input[1], 0)
    bias, masked = _bias(call, ids.ravel())
    return Spread((1,), ids.ravel(), np.where(dead, bias, np.nan), masked)


def _depthwise(call: Call, arriving: Spread | None, sizes: tuple[int, int], transposed: bool) -> Spread:
    """Every channel makes `sizes[1]` channels of its own."""
    groups, outgoing = sizes
    if arriving is None:
        ids, zero = call.ledger.fresh(groups), np.zeros(groups, bool)
        call.ledger.pin(ids, f"it convolves values that cannot shrink: {label(call.node)}")
    else:
        ids, zero = arriving.ids, arriving.now == 0
    leaving = np.repeat(ids, outgoing)
    call.slot(1, 0, ids if transposed else leaving, "weight")
    bias, masked = _bias(call, leaving)
    unread = call.network.zero(call.node.input[1], 0)
    dead = np.repeat(zero, outgoing) | (np.repeat(unread, outgoing) if transposed else unread)

    def fix(edit: Repairs, node: onnx.NodeProto) -> None:
        left = int(edit.keep(ids).sum())
        if left != groups:
            set_attribute(node, "group", left)

    call.ledger.fix(call.place, fix)
    return Spread((1,), leaving, np.where(dead, bias, np.nan), masked)


def gemm(call: Call) -> list[Value]:
    if call.array(1) is None or call.value(1):
        return call.refuse("the weight is computed at")
    mixed = 0 if call.attribute("transA", 0) else 1
    value = call.value(0)
    arriving = call.at(value, mixed)
    transposed = bool(call.attribute("transB", 0))
    if arriving is not None:
        read(call, 1, 1 if transposed else 0, arriving)
    rows = tuple(spread.moved((0,)) for spread in value if mixed not in spread.axes)
    if rows and call.given(2) and call.shape(2)[:-1] not in ((), (1,)):
        call.pin(rows, "a bias for each row at")
    return [(_leaving(call, 0 if transposed else 1), *rows)]


def matmul(call: Call) -> list[Value]:
    left, right = call.array(0), call.array(1)
    if right is not None and right.ndim == 2 and left is None:
        return [_linear(call, 1)]
    if left is not None and left.ndim == 2 and right is None and len(call.shape(1)) > 1:
        return [_linear(call, 0)]
    if left is not None or right is not None or min(len(call.shape(0)), len(call.shape(1))) < 2:
        return call.refuse("the constant is no matrix at")
    batches = tuple(range(len(call.result) - 2))
    left_axes, right_axes = (batches[len(batches) + 2 - len(call.shape(i)) :] for i in (0, 1))
    return [
        _product(
            call, ((*left_axes, "row", "sum"), (*right_axes, "sum", "column")), (*batches, "row", "column")
        )
    ]


def einsum(call: Call) -> list[Value]:
    """A product of two activations, by an equation that names every axis once in each term: sums over axes that both
    have, or one alone."""
    terms, arrow, out = str(call.attribute("equation")).replace(" ", "").partition("->")
    first, comma, second = terms.partition(",")
    plain = all(term.isalpha() and len(set(term)) == len(term) for term in (first, second, out or "a"))
    if not (arrow and comma and plain) or "," in second:
        return call.refuse("no rule for the equation of")
    if call.array(0) is not None or call.array(1) is not None:
        return call.refuse("a constant operand of")
    return [_product(call, (tuple(first), tuple(second)), tuple(out))]


def _linear(call: Call, weight: int) -> Value:
    """A product with a constant matrix: x W mixes the last axis of x, W x the one before."""
    rank, shape = len(call.result), call.shape(weight)
    mixed, into, out = (rank - 1, 0, 1) if weight == 1 else (rank - 2, 1, 0)
    value = call.value(1 - weight)
    arriving = call.at(value, mixed)
    if arriving is not None:
        read(call, weight, into, arriving)
    ids = call.ledger.fresh(shape[out])
    call.slot(weight, out, ids, "weight")
    dead = call.network.zero(call.node.input[weight], out)
    leaving = Spread((mixed,), ids, np.where(dead, 0.0, np.nan), np.zeros(len(ids)))
    return (leaving, *(spread for spread in value if mixed not in spread.axes))


def _product(call: Call, terms: tuple[Axes, Axes], out: Axes) -> Value:
    """A product of two activations whose axes are named: an axis of both that is summed over unites their ids, an axis
    of both that stays (a batch) does, too."""
    named = [dict(zip(names, call.shape(i), strict=True)) for i, names in enumerate(terms)]
    kept = [axis for axis in out if isinstance(axis, int) or all(axis in names for names in terms)]
    both = [axis for axis in terms[0] if axis in terms[1] and axis not in out]
    sides = []
    for i, names in enumerate(terms):
        value = call.value(i)
        alone = [names.index(axis) for axis in names if axis not in out and axis not in both]
        value = tuple(s for s in call.without(value, alone, "summed over by") if not set(alone) & set(s.axes))
        batches = [names.index(axis) for axis in kept if axis in names]
        for axis in both:
            value = tuple(_choose(call, spread, names.index(axis), batches) for spread in value)
        sides.append(value)
    for axis in both:
        _contract(call, *(call.at(side, names.index(axis)) for side, names in zip(sides, terms, strict=True)))
    operands = []
    for side, names, sizes in zip(sides, terms, named, strict=True):
        left = [s for s in side if not any(names[axis] in both for axis in s.axes)]
        spreads = tuple(s.moved(tuple(out.index(names[axis]) for axis in s.axes)) for s in left)
        operands.append(Operand(tuple(sizes.get(axis, 1) for axis in out), spreads))
    value = call.join(operands, call.result, lambda a, b: np.where((a == 0) | (b == 0), 0.0, np.nan))
    if call.view == "heads":
        for spread in value:
            if all(out[axis] in kept for axis in spread.axes):
                call.ledger.heads.append(spread.ids)
    return value


def _choose(call: Call, spread: Spread, mixed: int, batches: Sequence[int]) -> Spread:
    """Ids on a batch axis and on the summed axis at once (heads and their features): the view says which of
    them can go."""
    if mixed in spread.axes and set(batches) & set(spread.axes) and call.view == "heads":
        return call.drop(spread, mixed)
    if mixed in spread.axes:
        for axis in [axis for axis in spread.axes if axis != mixed]:
            spread = call.drop(spread, axis)
    return spread


def _contract(call: Call, left: Spread | None, right: Spread | None) -> None:
    found = [side for side in (left, right) if side is not None]
    if len(found) < 2:
        for side in found:
            call.pin(side, "multiplied with values that cannot shrink by")
        return
    call.ledger.unite(found[0].ids, found[1].ids)
    masked = (found[0].masked == 0) | (found[1].masked == 0)
    call.ledger.pin(found[0].ids[~masked], f"they are not zero when masked at {label(call.node)}")
    now = np.where((found[0].now == 0) | (found[1].now == 0), 0.0, np.nan)
    call.ledger.readings.append(Reading(call.place, None, found[0].ids, now))
