"""Pass: shapes that are known become constants.

Cases: Shape of a value whose every dimension is a known number; Gather of constant positions out of a Shape,
where those dimensions are known (as in x.view(x.size(0), x.size(1), -1) with a dynamic batch). Dimensions are
known by onnx's shape inference. What then depends on constants only is for the constants pass.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from secateur.pipeline import onnxgraph


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    return None if _known(model) else "no known shape is computed"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which known shapes are initializers; value names are kept."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = _known(copy)
    rest = [node for node in copy.graph.node if node.output[0] not in known]
    onnxgraph.replace_nodes(copy.graph, rest)
    copy.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in known.items())
    return copy


def _known(model: onnx.ModelProto) -> dict[str, NDArray[np.int64]]:
    """Values that are known shapes (or parts of them), by name."""
    graph = model.graph
    if not any(node.op_type == "Shape" for node in graph.node):
        return {}
    inferred = onnxgraph.inferred(model)
    dims = {
        value.name: np.array([d.dim_value or -1 for d in value.type.tensor_type.shape.dim], np.int64)
        for value in [*inferred.input, *inferred.value_info, *inferred.output]
        if value.type.tensor_type.HasField("shape")
    }
    constants = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    shapes: dict[str, NDArray[np.int64]] = {}
    known: dict[str, NDArray[np.int64]] = {}
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in dims and not node.attribute:
            shapes[node.output[0]] = found = dims[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in shapes and node.input[1] in constants:
            found = shapes[node.input[0]][numpy_helper.to_array(constants[node.input[1]])]
        else:
            continue
        if (found > 0).all() and node.output[0] not in outputs:
            known[node.output[0]] = np.asarray(found, np.int64)
    return known
