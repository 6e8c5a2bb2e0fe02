"""Pass: Gemm's matrices are stored [outputs, inputs], as torch has them (transB = 1).

Cases: Gemm with a constant matrix and transB = 0. Numbers change places, nothing is computed. For readers that
take the attribute's absence for it: pyNeVer 1.3.2 reads a square matrix without it the wrong way round, and
refuses others.
"""

from __future__ import annotations

import onnx

from secateur.pipeline import onnxgraph
from secateur.pipeline.convert.passes.editing import Editor
from secateur.pipeline.onnxgraph import attribute


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    return None if any(_fits(editor, node) for node in editor.nodes) else "no Gemm with transB = 0"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with transposed matrices; a matrix that other nodes read stays for them."""
    editor = Editor(model)
    for node in editor.nodes:
        matrix = editor.constant(node.input[1]) if _fits(editor, node) else None
        if matrix is not None:
            node.input[1] = editor.with_values(node.input[1], matrix.T)
            onnxgraph.set_attribute(node, "transB", 1)
            editor.changed()
    return editor.finish()


def _fits(editor: Editor, node: onnx.NodeProto) -> bool:
    return (
        node.op_type == "Gemm"
        and not attribute(node, "transB", 0)
        and editor.constant(node.input[1]) is not None
    )
