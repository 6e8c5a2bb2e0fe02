"""One pass over the graph in its order: every operator says how the channels of its outputs depend on its inputs'."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.pipeline.onnxgraph import attribute, label, reads, subgraphs
from secateur.pipeline.prune.channels.call import Call, Rule, Taint, View
from secateur.pipeline.prune.channels.ledger import Indices, Ledger, Slot, Value
from secateur.pipeline.prune.channels.network import Network


@dataclass(frozen=True)
class Flow:
    """All that following a graph's channels has found."""

    network: Network
    ledger: Ledger
    values: dict[str, Value]
    taints: dict[str, Taint]
    classes: Indices
    pinned: dict[int, str]


def follow(network: Network, rules: dict[str, Rule], view: View) -> Flow:
    """Follow the channels of all layers; `pinned` maps classes to the reason why they stay."""
    ledger = Ledger()
    values: dict[str, Value] = {}
    taints: dict[str, Taint] = {}
    for place, node in enumerate(network.graph.node):
        if place in ledger.done:
            continue
        call = Call(node, place, network, ledger, values, taints, view)
        if node.output[0] in network.constants:
            continue
        if node.output[0] in network.static_names:
            taint = _tainted(call)
            if taint.ids:
                taints[node.output[0]] = taint
            for ids in taint.ids if len(node.output) > 1 else ():
                ledger.pin(ids, f"their number is taken apart by {label(node)}")
            continue
        if any(subgraphs(node)):
            for name in reads(node):
                call.pin(values.get(name, ()), "read inside")
            continue
        rule = rules.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is None:
            results = call.refuse("no rule for")
        else:
            results = rule(call)
        for index, name in enumerate(node.input):
            if name in taints and network.static[name].varies.any() and (node.op_type, index) not in _TARGETS:
                for ids in taints[name].ids:
                    ledger.pin(ids, f"their number and the batch size are read together by {label(node)}")
        for name, value in zip(node.output, results, strict=False):
            if name and value:
                values[name] = call.fit(value, network.shapes[name])
    _unite_shared(network, ledger)
    for name in network.outputs:
        for spread in values.get(name, ()):
            ledger.pin(spread.ids, "they are network outputs")
    classes = ledger.settle()
    pinned: dict[int, str] = {}
    for ids, reason in ledger.pins:
        for number in np.unique(classes[ids]).tolist():
            pinned.setdefault(number, reason)
    return Flow(network, ledger, values, taints, classes, pinned)


_TARGETS = {("Reshape", 1), ("Expand", 1), ("Resize", 3), ("ConstantOfShape", 0)}
"""Inputs that may hold a computed shape with sizes of live axes beside the batch: their rules repair it."""


def _tainted(call: Call) -> Taint:
    """Which elements of a static value are sizes of live axes."""
    node, name = call.node, call.node.output[0]
    shape = call.network.static[name].value.shape
    if node.op_type == "Shape":
        value = call.value(0)
        marks = np.zeros(len(call.shape(0)), bool)
        for spread in value:
            marks[list(spread.axes)] = True
        start, end = int(attribute(node, "start", 0)), attribute(node, "end", None)
        marks = marks[slice(start, end)]
        return Taint(marks, tuple(spread.ids for spread in value) if marks.any() else ())
    if node.op_type == "Size":
        return Taint(np.ones(shape, bool), tuple(spread.ids for spread in call.value(0)))
    found = {name: call.taints[name] for name in node.input if name in call.taints}
    ids = tuple(array for taint in found.values() for array in taint.ids)
    elements = np.ones(shape, bool)
    if node.op_type in ("Cast", "Identity", "Unsqueeze", "Squeeze") and node.input[0] in found:
        elements = found[node.input[0]].elements.reshape(shape)
    elif node.op_type == "Gather" and node.input[0] in found:
        indices = call.array(1)
        if indices is not None:
            elements = found[node.input[0]].elements[indices]
    elif node.op_type == "Concat":
        parts = [
            found[name].elements if name in found else np.zeros(call.network.shapes[name], bool)
            for name in node.input
        ]
        elements = np.concatenate(parts)
    elif node.op_type == "Slice" and node.input[0] in found:
        bounds = [call.array(index) for index in (1, 2, 4)]
        if len(node.input) > 2 and all(
            b is not None or not call.given(i) for b, i in zip(bounds, (1, 2, 4), strict=True)
        ):
            numbers = [None if bound is None else int(bound.reshape(-1)[0]) for bound in bounds]
            elements = found[node.input[0]].elements[slice(*numbers)]
    return Taint(elements, ids if elements.any() else ())


def _unite_shared(network: Network, ledger: Ledger) -> None:
    """Shared weights: what several layers read of one initializer goes for all of them, or not at all."""
    together: dict[tuple[str, int], list[Slot]] = {}
    for slot in ledger.slots:
        if slot.tensor is not None and slot.role in ("weight", "reader") and network.shared(slot.tensor):
            together.setdefault((slot.tensor, slot.axis), []).append(slot)
    for (tensor, _), slots in together.items():
        inputs = {(slot.place, slot.index) for slot in slots}
        reason = f"shared initializer '{tensor}'"
        if len(inputs) != network.final_uses[tensor]:
            for slot in slots:
                ledger.pin(slot.ids, reason)
        for slot in slots[1:]:
            ledger.unite(slots[0].ids, slot.ids)
