"""Constants of a graph, and views of them: what Identity, Transpose, Unsqueeze or Cast make of an initializer.

Exporters leave such nodes between a weight and the layer that reads it (a transposed Linear, a parameter stored
once for several layers); its axes are still the initializer's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx
from onnx import numpy_helper

from secateur.pipeline import onnxgraph
from secateur.pipeline.onnxgraph import attribute


@dataclass(frozen=True)
class Constant:
    """A constant value: the initializer behind it and, for each of its axes, the initializer's axis (−1: an axis of
    size one that the initializer does not have). `tensor` is None for a Constant node."""

    tensor: str | None
    axes: tuple[int, ...]


def find(graph: onnx.GraphProto) -> dict[str, Constant]:
    """Initializers, Constant nodes, and views of them, by value name."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    found = {name: Constant(name, tuple(range(len(tensor.dims)))) for name, tensor in tensors.items()}
    for node in graph.node:
        tensor = onnxgraph.constant_tensor(node)
        if tensor is not None:
            tensors[node.output[0]] = tensor
            found[node.output[0]] = Constant(None, tuple(range(len(tensor.dims))))
            continue
        behind = found.get(node.input[0]) if node.input else None
        if behind is None or len(node.output) != 1:
            continue
        if node.op_type in ("Identity", "Cast"):
            found[node.output[0]] = behind
        elif node.op_type == "Transpose":
            perm = attribute(node, "perm", list(range(len(behind.axes)))[::-1])
            found[node.output[0]] = replace(behind, axes=tuple(behind.axes[i] for i in perm))
        elif node.op_type == "Unsqueeze":
            added = attribute(node, "axes", None)
            if added is None and node.input[1] in tensors:
                added = numpy_helper.to_array(tensors[node.input[1]]).tolist()
            if added is not None:
                rank, kept = len(behind.axes) + len(added), iter(behind.axes)
                marks = {axis % rank for axis in added}
                axes = tuple(-1 if axis in marks else next(kept) for axis in range(rank))
                found[node.output[0]] = replace(behind, axes=axes)
    return found
