"""Pass: what Conv and ConvTranspose leave to defaults is written out.

Cases: kernel_shape (of a kernel whose size is known), strides, dilations, group and, without auto_pad, pads. NeuralSAT
0.2.17 looks for the first without asking whether it is there. onnx-ir's AddDefaultAttributesPass writes out what has a
default in the operator's schema, which these have not: they depend on the kernel.
"""

from __future__ import annotations

from typing import Any

import onnx

from secateur.pipeline import onnxgraph
from secateur.pipeline.convert.passes.editing import Editor
from secateur.pipeline.onnxgraph import attribute


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    return (
        None if any(_missing(editor, node) for node in editor.nodes) else "no Conv that leaves attributes out"
    )


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which these attributes are there."""
    editor = Editor(model)
    for node in editor.nodes:
        for name, value in _missing(editor, node).items():
            onnxgraph.set_attribute(node, name, value)
    return editor.finish()


def _missing(editor: Editor, node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes that a node leaves out, with what they are then."""
    shape = editor.shape(node.input[1]) if node.op_type in ("Conv", "ConvTranspose") else None
    if shape is None or None in shape[2:]:
        return {}
    rank = len(shape) - 2
    defaults = {"kernel_shape": list(shape[2:]), "strides": [1] * rank, "dilations": [1] * rank, "group": 1}
    if attribute(node, "auto_pad", "NOTSET") == "NOTSET":
        defaults["pads"] = [0] * 2 * rank
    return {name: value for name, value in defaults.items() if attribute(node, name) is None}
