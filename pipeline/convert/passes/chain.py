"""Pass: two Gemms in a row become one, where that takes no more numbers than both.

Cases: a plain Gemm (α = β = 1, a bias vector, constants) whose only reader is another. The product is computed
in float64 and rounded once. Needs `gemm`; no library has this pass.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from secateur.pipeline.convert.passes.editing import Editor, is_float
from secateur.pipeline.onnxgraph import attribute

Floats = NDArray[np.float64]


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    return (
        None if any(_second(editor, node) for node in editor.nodes) else "no two Gemms in a row that shrink"
    )


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with fewer Gemms; the second's name and result are kept."""
    editor = Editor(model)
    while True:
        pair = next(
            ((node, second) for node in editor.nodes if (second := _second(editor, node)) is not None), None
        )
        if pair is None:
            return editor.finish()
        _join(editor, *pair)


def _second(editor: Editor, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The Gemm behind a Gemm that it can be joined with."""
    first = _constants(editor, node)
    reader = editor.only_reader(node.output[0]) if first else None
    second = None if reader is None or reader.input[0] != node.output[0] else _constants(editor, reader)
    if first is None or second is None:
        return None
    (inside, middle), outside = first[0].shape, second[0].shape[1]
    return reader if inside * outside <= inside * middle + middle * outside else None


def _constants(editor: Editor, node: onnx.NodeProto) -> tuple[Floats, Floats] | None:
    """Matrix [inputs, outputs] and bias [outputs] of a plain Gemm."""
    if node.op_type != "Gemm" or len(node.input) < 3 or attribute(node, "transA", 0):
        return None
    weight, bias = editor.constant(node.input[1]), editor.constant(node.input[2])
    plain = attribute(node, "alpha", 1.0) == 1 and attribute(node, "beta", 1.0) == 1
    if weight is None or bias is None or bias.ndim != 1 or not plain or not is_float(weight):
        return None
    matrix = weight.T if attribute(node, "transB", 0) else weight
    return matrix.astype(np.float64), bias.astype(np.float64)


def _join(editor: Editor, node: onnx.NodeProto, second: onnx.NodeProto) -> None:
    inner, outer = _constants(editor, node), _constants(editor, second)
    weight = editor.constant(second.input[1])
    assert inner is not None and outer is not None and weight is not None
    matrix, bias = inner[0] @ outer[0], inner[1] @ outer[0] + outer[1]
    transposed = matrix.T if attribute(second, "transB", 0) else matrix
    second.input[0] = node.input[0]
    second.input[1] = editor.with_values(second.input[1], transposed.astype(weight.dtype))
    second.input[2] = editor.with_values(second.input[2], bias.astype(weight.dtype))
    editor.replace(node)
