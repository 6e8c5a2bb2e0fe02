"""Pass: a Reshape that flattens all but the batch becomes Flatten.

Cases: by onnx's shape inference the result has rank 2 and its second dimension is the product of all but the
first of the input's, all of them known; then the first is the batch. Exporters write x.flatten(1) as a Reshape to
a shape that is computed (Shape, Gather, Concat), which few readers understand and which hides the flattening.
"""

from __future__ import annotations

from math import prod

import onnx

from secateur.pipeline import onnxgraph

_SINCE = 9  # Flatten takes every type


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    return None if _flattening(model) else "no Reshape flattens all but the batch"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with Flatten in place of such Reshapes; node and value names are kept."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    chosen = set(_flattening(copy))
    for node in copy.graph.node:
        if node.output[0] in chosen:
            node.op_type = "Flatten"
            del node.input[1:], node.attribute[:]
            onnxgraph.set_attribute(node, "axis", 1)
    return copy


def _flattening(model: onnx.ModelProto) -> list[str]:
    """The outputs of the Reshapes that flatten."""
    if not any(node.op_type == "Reshape" for node in model.graph.node):
        return []
    if any(entry.version < _SINCE for entry in model.opset_import if entry.domain in ("", "ai.onnx")):
        return []
    inferred = onnxgraph.inferred(model)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*inferred.input, *inferred.value_info, *inferred.output]
        if value.type.tensor_type.HasField("shape")
    }
    found = []
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.input[0] in shapes and node.output[0] in shapes:
            before, after = shapes[node.input[0]], shapes[node.output[0]]
            if len(before) > 2 and len(after) == 2 and after[1] > 0 and after[1] == prod(before[1:]):
                found.append(node.output[0])
    return found
