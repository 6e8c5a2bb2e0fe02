"""Pass: Sub and Div by a constant become Add and Mul, for readers that know only those.

Cases: x − c becomes x + (−c), exactly; x / c becomes x · (1/c), with 1/c rounded once. What the layer next to
it can take in is better fused by `affine`.
"""

from __future__ import annotations

import numpy as np
import onnx

from secateur.pipeline.convert.passes.editing import Editor, is_float


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    return None if any(_fits(editor, node) for node in editor.nodes) else "no Sub or Div by a constant"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with Add and Mul; names of results are kept."""
    editor = Editor(model)
    for node in editor.nodes:
        constant = editor.constant(node.input[1]) if _fits(editor, node) else None
        if constant is not None:
            wide = constant.astype(np.float64)
            changed = -wide if node.op_type == "Sub" else 1 / wide
            node.input[1] = editor.with_values(node.input[1], changed.astype(constant.dtype))
            node.op_type = "Add" if node.op_type == "Sub" else "Mul"
            editor.changed()
    return editor.finish()


def _fits(editor: Editor, node: onnx.NodeProto) -> bool:
    if node.op_type not in ("Sub", "Div") or editor.constant(node.input[0]) is not None:
        return False
    constant = editor.constant(node.input[1])
    return constant is not None and is_float(constant) and (node.op_type == "Sub" or bool(constant.all()))
