"""Physical removal: constants are cut along their slots, nodes that hold numbers of positions are repaired."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from secateur.pipeline import onnxgraph
from secateur.pipeline.convert.passes import dead
from secateur.pipeline.prune.channels.follow import Flow
from secateur.pipeline.prune.channels.ledger import Indices, Slot, Spread, Value
from secateur.pipeline.prune.channels.network import Array, Shape

Keep = NDArray[np.bool_]


class Edit:
    """A copy of a model on its way to fewer channels, and what repairs of its nodes may ask and write."""

    def __init__(self, flow: Flow, alive: Keep) -> None:
        self._flow = flow
        self._alive = alive[flow.classes]
        self._uses = onnxgraph.uses(flow.network.graph)
        self._written: dict[str, Array] = {}
        self._before: dict[int, list[onnx.NodeProto]] = {}
        self._gone: set[int] = set()
        self.model = onnx.ModelProto()
        _copy(flow.network.model, self.model, {"graph"})
        _copy(flow.network.graph, self.model.graph, {"initializer", "value_info"})

    # --- for repairs

    def keep(self, ids: Indices) -> Keep:
        """Which of the positions stay, in the shape of `ids`."""
        return self._alive[ids]

    def along(self, spread: Spread, axis: int) -> Keep:
        """Which positions along one of the spread's axes stay."""
        others = tuple(i for i, other in enumerate(spread.axes) if other != axis)
        return np.asarray(self._alive[spread.ids].any(axis=others))

    def sizes(self, shape: Shape, value: Value) -> Shape:
        """The shape without the positions that go."""
        sizes = list(shape)
        for spread in value:
            for axis in spread.axes:
                sizes[axis] = int(self.along(spread, axis).sum())
        return tuple(sizes)

    def changed(self, name: str) -> bool:
        """Whether a static value counts positions of which some go."""
        taint = self._flow.taints.get(name)
        return taint is not None and not all(self._alive[ids].all() for ids in taint.ids)

    def write(self, node: onnx.NodeProto, index: int, array: Array, wish: str | None = None) -> None:
        """Give the node a constant input: in place where nobody else reads the initializer, else a new one (called
        `wish`, where that is free)."""
        name = node.input[index] if index < len(node.input) else ""
        tensor = self._flow.network.tensors.get(name)
        if tensor is None or self._uses[name] > 1 or name in self._flow.network.inputs:
            if name:
                self._uses[name] -= 1
            name = self.unused(wish or f"{name or node.name or node.output[0]}_shrunk")
            node.input.extend([""] * (index + 1 - len(node.input)))
            node.input[index] = name
        self._written[name] = np.asarray(array, order="C")

    def unused(self, wish: str) -> str:
        """A value name not in use yet."""
        name, number = onnxgraph.unused_name(self._flow.network.graph, wish), 1
        while name in self._written:
            name, number = onnxgraph.unused_name(self._flow.network.graph, f"{wish}_{number}"), number + 1
        return name

    def insert(self, node: onnx.NodeProto, place: int) -> None:
        """Put a new node before the one at `place` of the original graph."""
        self._before.setdefault(place, []).append(node)

    def discard(self, place: int) -> None:
        """Take out the node at `place` of the original graph."""
        self._gone.add(place)

    @staticmethod
    def drop_attribute(node: onnx.NodeProto, name: str) -> None:
        kept = [entry for entry in node.attribute if entry.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)

    # --- the whole

    def run(self) -> onnx.ModelProto:
        cuts, copies = self._cuts()
        nodes = list(self.model.graph.node)
        network = self._flow.network
        for (place, index), axes in copies.items():
            name = network.graph.node[place].input[index]
            array = network.array(name)
            if array is not None and not all(keep.all() for keep in axes.values()):
                self.write(nodes[place], index, _cut(array, axes))
        for place, fix in self._flow.ledger.fixes:
            fix(self, nodes[place])
        self._freeze()
        graph = self.model.graph
        for tensor in network.graph.initializer:
            kept = cuts.get(tensor.name, {})
            array = self._written.pop(tensor.name, None)
            if array is None and all(keep.all() for keep in kept.values()):
                graph.initializer.add().CopyFrom(network.tensor(tensor.name))
                continue
            array = network.array(tensor.name) if array is None else array
            assert array is not None
            array = _cut(array, kept)
            graph.initializer.add().CopyFrom(numpy_helper.from_array(array, tensor.name))
        graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in self._written.items())
        order: list[onnx.NodeProto] = []
        for place, node in enumerate(nodes):
            order += self._before.get(place, [])
            if place not in self._gone:
                order.append(node)
        onnxgraph.replace_nodes(graph, order)
        self._resize_inputs()
        dead.sweep(graph)
        return self.model

    def _cuts(self) -> tuple[dict[str, dict[int, Keep]], dict[tuple[int, int], dict[int, Keep]]]:
        """What stays of initializers, by axis; and of inputs that need a constant of their own."""
        network = self._flow.network
        cuts: dict[str, dict[int, Keep]] = {}
        copies: dict[tuple[int, int], dict[int, Keep]] = {}
        for slot in self._flow.ledger.slots:
            keep = self._alive[slot.ids]
            if in_place(self._flow, slot):
                cuts.setdefault(str(slot.tensor), {})[slot.axis] = keep
            else:
                copies.setdefault((slot.place, slot.index), {})[slot.view_axis] = keep
        for key in list(copies):  # an input that shares one axis needs a copy of its own for all
            name = network.graph.node[key[0]].input[key[1]]
            constant = network.constants.get(name)
            if constant is not None and constant.tensor in cuts:
                for view_axis, axis in enumerate(constant.axes):
                    if axis in cuts[constant.tensor]:
                        copies[key].setdefault(view_axis, cuts[constant.tensor][axis])
        return cuts, copies

    def _freeze(self) -> None:
        """Numbers of positions that nodes compute from shapes keep their value."""
        network = self._flow.network
        for place, node in enumerate(network.graph.node):
            name = node.output[0] if node.output else ""
            static = network.static.get(name)
            if static is not None and not static.varies.any() and self.changed(name):
                self._written[name] = static.value
                self._gone.add(place)

    def _resize_inputs(self) -> None:
        """Initializers that are also inputs (IR version 3) declare their shape there, too."""
        shapes = {tensor.name: list(tensor.dims) for tensor in self.model.graph.initializer}
        for value in self.model.graph.input:
            if value.name in shapes:
                for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=False):
                    dim.dim_value = size


def in_place(flow: Flow, slot: Slot) -> bool:
    """Whether the slot's initializer itself is cut: it is read here only, or everywhere alike (weights)."""
    if slot.tensor is None or slot.axis < 0:
        return False
    return slot.role in ("weight", "reader") or not flow.network.shared(slot.tensor)


def _cut(array: Array, axes: dict[int, Keep]) -> Array:
    for axis, keep in axes.items():
        if not keep.all():
            array = np.compress(keep, array, axis=axis)
    return np.asarray(array, order="C")


def _copy(source: Any, target: Any, skip: set[str]) -> None:
    """Copy a message's fields but some (which may be large)."""
    for descriptor, value in source.ListFields():
        if descriptor.name in skip:
            continue
        if descriptor.is_repeated:
            getattr(target, descriptor.name).extend(value)
        elif descriptor.message_type is not None:
            getattr(target, descriptor.name).CopyFrom(value)
        else:
            setattr(target, descriptor.name, value)
