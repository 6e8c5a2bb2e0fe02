"""Pass: what no output depends on goes.

Cases: nodes none of whose outputs is read; initializers nobody reads; inferred shapes of values that are gone.
Graph inputs stay, read or not: they are the model's signature.
"""

from __future__ import annotations

import onnx

from secateur.pipeline import onnxgraph


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    nodes, names = _alive(model.graph)
    if len(nodes) < len(model.graph.node) or any(t.name not in names for t in model.graph.initializer):
        return None
    return "everything is used"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without unused nodes and initializers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    sweep(copy.graph)
    return copy


def sweep(graph: onnx.GraphProto) -> None:
    """As `rewrite`, in place."""
    nodes, names = _alive(graph)
    onnxgraph.replace_nodes(graph, nodes)
    unused = {tensor.name for tensor in graph.initializer} - names
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in unused:
            del graph.initializer[index]
    inputs = [value for value in graph.input if value.name not in unused]
    infos = [value for value in graph.value_info if value.name in names]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(inputs)
    graph.value_info.extend(infos)


def _alive(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], set[str]]:
    names = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if any(name in names for name in node.output):
            nodes.append(node)
            names.update(onnxgraph.reads(node))
            names.update(name for name in node.output if name)
    return nodes[::-1], names
