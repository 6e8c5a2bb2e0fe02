"""What a graph can do without as its weights are: classes that are unread or constant, branches that are constant."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from secateur.pipeline.onnxgraph import attribute
from secateur.pipeline.prune.channels.edit import Edit
from secateur.pipeline.prune.channels.follow import Flow
from secateur.pipeline.prune.channels.groups import axes
from secateur.pipeline.prune.channels.ledger import Floats, Reading, Value
from secateur.pipeline.prune.channels.network import Network

Keep = NDArray[np.bool_]


@dataclass(frozen=True)
class Bias:
    """Where a layer's bias is: the node (by place) and input that hold it, and the factor it is multiplied by."""

    place: int
    index: int
    factor: float = 1.0


def bias_of(network: Network, place: int) -> Bias | None:
    """The bias that can take up a constant input of the node at `place`; None where there is none of its own, or where
    the node sees more than the constant (zeros at the border of a padded Conv)."""
    node = network.graph.node[place]
    if node.op_type == "Gemm":
        bias = Bias(place, 2, float(attribute(node, "beta", 1.0)))
    elif node.op_type == "Conv":
        if any(attribute(node, "pads", ())) or attribute(node, "auto_pad", "NOTSET").startswith("SAME"):
            return None
        bias = Bias(place, 2)
    elif node.op_type == "MatMul" and node.input[0] not in network.constants:
        following = network.readers.get(node.output[0], [])
        if len(following) != 1 or network.uses[node.output[0]] != 1 or following[0][0].op_type != "Add":
            return None
        after, index = following[0]
        bias = Bias(network.places[after.output[0]], 1 - index)
    else:
        return None
    holder = network.graph.node[bias.place]
    name = holder.input[bias.index] if bias.index < len(holder.input) else ""
    if name and (name not in network.tensors or network.uses[name] != 1):
        return None
    return bias if bias.factor else None


def needed(flow: Flow) -> Keep:
    """Which classes must stay: those that are pinned or read, unless by zeros, or as a constant that the reader's bias
    can take up. Of each axis that would become empty, the class with the fewest elements stays."""
    alive = np.zeros(int(flow.classes.max(initial=-1)) + 1, bool)
    alive[list(flow.pinned)] = True
    for reading in flow.ledger.readings:
        absorbed = reading.now == 0
        if bias_of(flow.network, reading.place) is not None:
            absorbed |= np.isfinite(reading.now)
        alive[flow.classes[reading.ids[_read(flow.network, reading) & ~absorbed]]] = True
    cost = _elements(flow)
    for classes in axes(flow):
        if not alive[classes].any():
            alive[classes[np.argmin(cost[classes])]] = True
    return alive


def _elements(flow: Flow) -> Floats:
    """How many elements of initializers go with each class."""
    cost = np.zeros(int(flow.classes.max(initial=-1)) + 1)
    for slot in flow.ledger.slots:
        if slot.tensor is not None:
            dims = flow.network.tensors[slot.tensor].dims
            np.add.at(cost, flow.classes[slot.ids], prod(dims) / dims[slot.axis])
    return cost


def _read(network: Network, reading: Reading) -> Keep:
    """Which positions of a reading have other weights than zero, in the shape of its ids."""
    if reading.slot is None:
        return np.ones(reading.ids.shape, bool)
    name = network.graph.node[reading.place].input[reading.slot.index]
    zero = network.zero(name, reading.slot.view_axis)
    if zero.size != reading.ids.size:  # the same positions of the weight read every group
        zero = np.broadcast_to(zero, reading.ids.shape)
    return ~zero.reshape(reading.ids.shape)


def fold(flow: Flow, alive: Keep, edit: Edit) -> None:
    """Add what the constants of classes that go contribute to the biases of their readers, in float64, rounded once."""
    changes: dict[Bias, tuple[int, Floats]] = {}
    for reading in flow.ledger.readings:
        bias = bias_of(flow.network, reading.place)
        gone = ~alive[flow.classes[reading.ids]] & np.isfinite(reading.now) & (reading.now != 0)
        if reading.slot is None or bias is None or not (gone & _read(flow.network, reading)).any():
            continue
        changes[bias] = (
            reading.place,
            _contribution(flow.network, reading, np.where(gone, reading.now, 0.0)),
        )
    for bias, (place, change) in changes.items():
        layer, holder = flow.network.graph.node[place], edit.model.graph.node[bias.place]
        if layer.op_type == "Gemm":
            change = change * float(attribute(layer, "alpha", 1.0))
        change = change / bias.factor
        old = flow.network.array(holder.input[bias.index]) if bias.index < len(holder.input) else None
        if old is not None and old.shape[-1:] == change.shape:  # cut with its outputs, as all constants are
            edit.write(holder, bias.index, (old.astype(np.float64) + change).astype(old.dtype))
            continue
        weight = flow.network.array(layer.input[1])
        assert weight is not None
        leaving = next(s for s in flow.ledger.slots if s.place == place and s.role == "weight")
        fresh = (change if old is None else old.astype(np.float64) + change).astype(weight.dtype)
        wish = f"{holder.name or holder.output[0]}.bias"
        edit.write(holder, bias.index, fresh[..., edit.keep(leaving.ids)], wish)


def _contribution(network: Network, reading: Reading, values: Floats) -> Floats:
    """What constant inputs add to each output of a layer, [outputs]."""
    assert reading.slot is not None
    weight = network.array(network.graph.node[reading.place].input[reading.slot.index])
    assert weight is not None
    columns = np.moveaxis(weight, reading.slot.view_axis, 0)  # [inputs, outputs, *kernel]
    rows = values.reshape(-1, columns.shape[0])  # [groups, inputs of one]
    outputs = columns.shape[1] // len(rows)
    parts = []
    for group, row in enumerate(rows):
        chosen = np.flatnonzero(row)
        part = columns[chosen, group * outputs : (group + 1) * outputs].astype(np.float64)
        parts.append(np.tensordot(row[chosen], part, axes=1).reshape(outputs, -1).sum(axis=1))
    return np.concatenate(parts)


# --- branches ------------------------------------------------------------------------------------------------


def drop_constant_branches(flow: Flow, edit: Edit) -> bool:
    """Do without what computes an operand of Add, Sub or Mul that is the same for every input; whether there is one.

    An Add of zeros disappears (as behind a residual branch whose last layer is zero); other constants become an
    initializer. The other operand must have the full shape of the result.
    """
    network = flow.network
    changed = False
    for place, node in enumerate(network.graph.node):
        if node.op_type not in ("Add", "Sub", "Mul") or node.output[0] in network.static_names:
            continue
        for index in (1, 0):
            value = flow.values.get(node.input[index], ())
            other, result = network.shapes[node.input[1 - index]], network.shapes[node.output[0]]
            rank = len(network.shapes[node.input[index]])
            if len(value) != 1 or len(value[0].axes) != 1 or other != result or rank != len(result):
                continue
            dtype = _dtype(flow, value)
            if (
                dtype is None
                or not np.isfinite(value[0].now).all()
                or node.input[1 - index] in network.constants
            ):
                continue
            if not value[0].now.any() and (node.op_type == "Add" or (node.op_type == "Sub" and index == 1)):
                _bypass(network, edit, place, 1 - index)
            else:
                at = [1] * rank
                at[value[0].axes[0]] = -1
                edit.write(edit.model.graph.node[place], index, value[0].now.reshape(at).astype(dtype))
            changed = True
            break
    return changed


def _bypass(network: Network, edit: Edit, place: int, index: int) -> None:
    """Have readers of a node's output read its input instead."""
    node = edit.model.graph.node[place]
    readers = network.readers.get(node.output[0], [])
    if node.output[0] in network.outputs or any(position < 0 for _, position in readers):
        node.op_type = "Identity"
        del node.input[1 - index]
        return
    for reader, position in readers:
        edit.model.graph.node[network.places[reader.output[0]]].input[position] = node.input[index]
    edit.discard(place)


def _dtype(flow: Flow, value: Value) -> np.dtype[np.generic] | None:
    """The type of a value, from a weight that makes it."""
    numbers = np.unique(flow.classes[value[0].ids])
    for slot in flow.ledger.slots:
        if slot.role == "weight" and np.isin(flow.classes[slot.ids], numbers).any():
            array = flow.network.array(flow.network.graph.node[slot.place].input[slot.index])
            return None if array is None else array.dtype
    return None
