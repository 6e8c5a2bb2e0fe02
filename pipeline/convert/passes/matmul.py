"""Pass: Gemm becomes MatMul and Add: the way back from `gemm`, for readers that know only those.

Cases: Gemm with a constant matrix and no transposed input. α and β go into the constants (float64, rounded once), a
transposed matrix is stored anew. A Gemm without a bias becomes a MatMul alone.

onnxscript's `gemm_to_matmul_add` only takes a Gemm between two Reshapes.
"""

from __future__ import annotations

import numpy as np
import onnx

from secateur.pipeline.convert.passes.editing import Editor, is_float
from secateur.pipeline.onnxgraph import attribute


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    return None if any(_fits(editor, node) for node in editor.nodes) else "no Gemm with a constant matrix"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with MatMul and Add; names of results are kept."""
    editor = Editor(model)
    for node in list(editor.nodes):
        if _fits(editor, node):
            _split(editor, node)
    return editor.finish()


def _fits(editor: Editor, node: onnx.NodeProto) -> bool:
    return (
        node.op_type == "Gemm"
        and not attribute(node, "transA", 0)
        and is_float(editor.constant(node.input[1]))
    )


def _split(editor: Editor, node: onnx.NodeProto) -> None:
    weight = editor.constant(node.input[1])
    assert weight is not None
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    matrix, result = node.input[1], node.output[0]
    if alpha != 1 or attribute(node, "transB", 0):
        straight = weight.T if attribute(node, "transB", 0) else weight
        matrix = editor.with_values(matrix, (straight.astype(np.float64) * alpha).astype(weight.dtype))
    if len(node.input) < 3 or not node.input[2]:
        editor.replace(node, [editor.node("MatMul", [node.input[0], matrix], result)])
        return
    product = editor.node("MatMul", [node.input[0], matrix], wish=f"{result}/product")
    addend, added = editor.constant(node.input[2]), [product]
    bias = node.input[2]
    if beta != 1 and addend is not None:
        bias = editor.with_values(bias, (addend.astype(np.float64) * beta).astype(addend.dtype))
    elif beta != 1:
        factor = editor.add_constant(f"{result}.beta", np.asarray(beta, weight.dtype))
        added.append(editor.node("Mul", [bias, factor], wish=f"{result}/addend"))
        bias = added[-1].output[0]
    editor.replace(node, [*added, editor.node("Add", [product.output[0], bias], result)])
