"""Small questions to an ONNX graph: who reads a value, who makes it, what an attribute says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from secateur.formats import onnx_parts

DEFAULT = ("", "ai.onnx")
"""The names of the default operator set's domain."""

RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}
"""Operators whose value is no function of their inputs."""


def label(node: onnx.NodeProto) -> str:
    """How messages call a node: its operator and its name (or its first output, when it has none)."""
    return f"{node.op_type} '{node.name or (node.output[0] if node.output else '?')}'"


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute, or `default` where the node leaves it out."""
    for entry in node.attribute:
        if entry.name == name:
            value = helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node; None of another node, and of a sparse or string constant."""
    entry = node.attribute[0] if node.op_type == "Constant" and node.attribute else None
    if entry is None:
        return None
    if entry.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(entry.t)
        return tensor
    if entry.name in ("value_int", "value_ints"):
        return numpy_helper.from_array(np.asarray(attribute(node, entry.name), np.int64))
    if entry.name in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.asarray(attribute(node, entry.name), np.float32))
    return None


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set or replace an attribute."""
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node (If, Loop, Scan)."""
    for entry in node.attribute:
        if entry.type == onnx.AttributeProto.GRAPH:
            yield entry.g
        elif entry.type == onnx.AttributeProto.GRAPHS:
            yield from entry.graphs


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Every value a node reads, also inside its sub-graphs."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from reads(inner)
        yield from (value.name for value in graph.output)


def opset(model: onnx.ModelProto) -> int:
    """The version of the default operator set; 0 where none is declared."""
    return max((entry.version for entry in model.opset_import if entry.domain in DEFAULT), default=0)


def declare_opset(model: onnx.ModelProto, version: int) -> None:
    """Say that the default operator set is of this version (the nodes are the caller's business)."""
    for entry in model.opset_import:
        if entry.domain in DEFAULT:
            entry.version = version


def inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with the types and shapes that onnx infers. Its large weights are inputs, since onnx's inference reads
    serialised models, which end at 2 GB."""
    rest, _ = onnx_parts.apart(model)
    found: onnx.GraphProto = onnx.shape_inference.infer_shapes(rest, data_prop=True).graph
    return found


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value whose type onnx infers, and of the initializers."""
    graph = inferred(model)
    values = [*graph.input, *graph.value_info, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def readers(graph: onnx.GraphProto) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
    """For each value, the nodes that read it and at which input (−1: inside a sub-graph)."""
    found: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name:
                found.setdefault(name, []).append((node, index))
        for inner in subgraphs(node):
            for name in {name for part in inner.node for name in reads(part)}:
                found.setdefault(name, []).append((node, -1))
    return found


def uses(graph: onnx.GraphProto) -> Counter[str]:
    """How often each value is read, by nodes and as a graph output."""
    counts = Counter(name for node in graph.node for name in reads(node))
    counts.update(value.name for value in graph.output)
    return counts


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """For each value made by a node, that node."""
    return {name: node for node in graph.node for name in node.output if name}


def names(graph: onnx.GraphProto) -> set[str]:
    """The names of all values."""
    taken = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    return taken | {name for node in graph.node for name in [*reads(node), *node.output]}


def unused_name(graph: onnx.GraphProto, wish: str) -> str:
    """`wish`, or `wish` with the first number that makes it unused in the graph."""
    taken = names(graph)
    name, number = wish, 1
    while name in taken:
        name, number = f"{wish}_{number}", number + 1
    return name


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Make `nodes` the graph's nodes (they may be some of its own)."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def replace_initializers(graph: onnx.GraphProto, tensors: list[onnx.TensorProto]) -> None:
    """Make `tensors` the graph's initializers (they may be some of its own)."""
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del graph.initializer[:]
    graph.initializer.extend(copies)
