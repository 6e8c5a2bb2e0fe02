"""Pass: nodes that pass their input on go.

Cases: Identity; Dropout at inference (no training mode, mask output unread); Cast to the type that its input has. A
node between a graph input (or an initializer) and a graph output stays, since both names are the model's signature.
"""

from __future__ import annotations

from collections.abc import MutableSequence

import onnx
from onnx import numpy_helper

from secateur.pipeline import onnxgraph


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    return None if _removable(model.graph, _types(model)) else "no node that only passes its input on"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which readers read the node's input, or its maker makes the graph output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    types = _types(model)
    while removable := _removable(graph, types):
        node = removable[0]
        source, result = node.input[0], node.output[0]
        rest = [other for other in graph.node if other is not node]
        is_output = any(value.name == result for value in graph.output)
        old, new = (source, result) if is_output else (result, source)
        for other in rest:
            _rename(other.input, old, new)
            if is_output:
                _rename(other.output, old, new)
        kept = [value for value in graph.value_info if value.name not in (source, result)]
        onnxgraph.replace_nodes(graph, rest)
        del graph.value_info[:]
        graph.value_info.extend(kept)
    return copy


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Of the values that Cast nodes read."""
    casts = any(node.op_type == "Cast" for node in model.graph.node)
    return onnxgraph.element_types(model) if casts else {}


def _removable(graph: onnx.GraphProto, types: dict[str, int]) -> list[onnx.NodeProto]:
    made = onnxgraph.producers(graph)
    outputs = {value.name for value in graph.output}
    uses = onnxgraph.uses(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inner = {
        name
        for node in graph.node
        for sub in onnxgraph.subgraphs(node)
        for part in sub.node
        for name in onnxgraph.reads(part)
    }
    found = []
    for node in graph.node:
        if node.op_type not in ("Identity", "Dropout", "Cast") or {node.input[0], node.output[0]} & inner:
            continue
        if node.op_type == "Cast" and types.get(node.input[0]) != onnxgraph.attribute(node, "to"):
            continue
        if node.op_type == "Dropout":
            flag = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            computed = len(node.input) > 2 and node.input[2] and flag is None
            if computed or (flag is not None and numpy_helper.to_array(flag).any()):
                continue
        if any(uses[name] for name in node.output[1:]):
            continue
        fixed = node.input[0] not in made or node.input[0] in outputs
        if node.output[0] in outputs and fixed:
            continue
        found.append(node)
    return found
