"""Pass: nodes that only change a shape become one Reshape, or none.

Cases, where the sizes (but for the batch) are known: Reshape, Flatten, Squeeze and Unsqueeze behind one another
become one Reshape to a constant shape; what ends in the shape that it began with goes. A single Flatten or
Reshape is left as it is.

onnxscript's `reshape_reshape` and `squeeze_reshape_1d` know Reshape behind Reshape, and one Squeeze.
"""

from __future__ import annotations

import numpy as np
import onnx

from secateur.pipeline.convert.passes.editing import Editor

_KINDS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    return None if any(_step(editor, node) for node in editor.nodes) else "no two shape changes in a row"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with single shape changes; names of results are kept."""
    editor = Editor(model)
    while any(_step(editor, node) for node in editor.nodes):
        pass
    return editor.finish()


def _step(editor: Editor, node: onnx.NodeProto) -> bool:
    """Make one change at `node`; whether there was one."""
    if node.op_type not in _KINDS:
        return False
    result, first = node.output[0], node
    while (maker := editor.maker(first.input[0])) is not None and maker.op_type in _KINDS:
        first = maker
    before, after = editor.shape(first.input[0]), editor.shape(result)
    if before is None or after is None or None in after[1:]:
        return False
    if before == after and None not in after and not editor.is_output(result):
        for reader in list(editor.readers(result)):
            for index, name in enumerate(reader.input):
                if name == result:
                    reader.input[index] = first.input[0]
        editor.changed()
        if editor.readers(result):  # inside a sub-graph
            return False
        editor.replace(node)
        return True
    if first is node and node.op_type in ("Reshape", "Flatten"):
        return False
    if after[0] is None and (before[0] is not None or None in before[1:]):
        return False
    # A batch that is not known is copied, if it leads before and after; 0 copies it
    lead = 0 if after[0] is None else after[0]
    target = editor.add_constant(f"{result}.shape", np.array([lead, *after[1:]], np.int64))
    editor.replace(node, [editor.node("Reshape", [first.input[0], target], result)])
    return True
