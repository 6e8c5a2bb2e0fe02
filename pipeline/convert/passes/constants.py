"""Pass: constants become initializers.

Cases:
* a Constant node (tensor, number or list of numbers) becomes an initializer of the same name;
* a node all of whose inputs are constant is evaluated by onnxruntime, and its outputs become initializers.

Left alone: random operators, operators with sub-graphs, sparse and string constants, and DequantizeLinear (folding
it would turn a quantised model into a float one unasked).
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from secateur.formats.errors import UnsupportedError
from secateur.pipeline import onnxgraph, onnxrt

_KEPT = onnxgraph.RANDOM | {"Constant", "DequantizeLinear"}


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    if any(node.op_type == "Constant" for node in model.graph.node):
        return None
    return None if _foldable(model.graph) else "no constant sub-graph"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without Constant nodes and constant sub-graphs; value names are kept."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    _lift_constant_nodes(graph)
    chosen = _foldable(graph)
    made = {name for node in chosen for name in node.output if name}
    rest = [node for node in graph.node if not any(name in made for name in node.output)]
    needed = {name for node in rest for name in onnxgraph.reads(node)} | {v.name for v in graph.output}
    wanted = sorted(made & needed)
    values = _evaluate(copy, chosen, wanted) if wanted else {}
    if values is None:
        return copy
    onnxgraph.replace_nodes(graph, rest)
    graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in wanted)
    return copy


def _lift_constant_nodes(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        tensor = onnxgraph.constant_tensor(node)
        if tensor is None:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    onnxgraph.replace_nodes(graph, kept)


def _foldable(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes that depend on constants only, in order. Initializers that are also inputs may be overridden."""
    overridable = {value.name for value in graph.input}
    known = {tensor.name for tensor in graph.initializer} - overridable
    chosen = []
    for node in graph.node:
        if node.op_type in _KEPT or any(onnxgraph.subgraphs(node)):
            continue
        if node.input and all(name in known for name in node.input if name):
            chosen.append(node)
            known.update(node.output)
    return chosen


def _evaluate(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], wanted: list[str]
) -> dict[str, NDArray[np.generic]] | None:
    """The values `wanted`, by running `nodes` alone; None when onnxruntime cannot."""
    part = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = model.graph.name
    read = {name for node in nodes for name in onnxgraph.reads(node)}
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(t for t in model.graph.initializer if t.name in read)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    try:
        results = onnxrt.session(part).run(wanted, {})
    except UnsupportedError:
        return None
    return dict(zip(wanted, results, strict=True))
