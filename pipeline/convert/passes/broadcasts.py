"""Pass: what Add, Sub, Mul, Div, Max and Min combine gets one shape, for readers that do not broadcast.

Cases, where the result's sizes are known (but for the batch): a constant that is smaller than the result is
stored as large as it, with a batch of one; a value that is smaller is made as large by Expand (which `linear`
turns into a Gemm, for readers that do not know it). Readers that pair off elements one by one read such nodes
wrongly, or not at all. Numbers are copied, never computed. No library has this pass (onnxscript's rules go the
other way).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from secateur.pipeline.convert.passes.editing import Editor, Shape

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Max", "Min")


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    if any(True for node in editor.nodes for _ in _smaller(editor, node)):
        return None
    return "nothing is broadcast, or to sizes that are not known"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which both sides have the result's shape."""
    editor = Editor(model)
    for node in list(editor.nodes):
        for index, full in list(_smaller(editor, node)):
            constant = editor.constant(node.input[index])
            if constant is not None:
                node.input[index] = editor.add_constant(node.input[index], np.broadcast_to(constant, full))
                editor.changed()
            else:
                target = editor.add_constant(f"{node.output[0]}.shape", np.array(full, np.int64))
                expanded = editor.node(
                    "Expand", [node.input[index], target], wish=f"{node.input[index]}/full"
                )
                node.input[index] = expanded.output[0]
                editor.replace(node, [expanded, node])
    return editor.finish()


def _smaller(editor: Editor, node: onnx.NodeProto) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The inputs of an elementwise node that are smaller than its result, and what size they should have."""
    shape = editor.shape(node.output[0]) if node.op_type in _ELEMENTWISE else None
    if not shape or None in shape[1:] or len(node.input) < 2:
        return
    full = (shape[0] or 1, *(size or 1 for size in shape[1:]))
    for index, name in enumerate(node.input):
        found = editor.shape(name)
        if found is None or _same(found, full, shape):
            continue
        if editor.constant(name) is not None or (None not in shape and None not in found):
            yield index, full


def _same(found: Shape, full: tuple[int, ...], shape: Shape) -> bool:
    if len(found) != len(full) or found[1:] != full[1:]:
        return False
    return found[0] in (full[0], shape[0])
