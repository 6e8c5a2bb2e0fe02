"""Pass: matrix products become Gemm with α = β = 1 and a bias vector.

Cases: MatMul of a value of rank 2 with a constant matrix, with or without an Add of a constant row behind it;
Gemm with a constant matrix whose α or β is not 1, without a bias, or whose bias is a number or a row. α and β
go into the constants, in float64 and rounded once; a missing bias becomes zeros. The matrix of a MatMul keeps
its name and values.

onnxscript's `matmul_add_to_gemm` asks neither whether the addend fits Gemm (which takes no column, nor a third
axis) nor whether the product has other readers, and leaves products without an Add as they are.
"""

from __future__ import annotations

import numpy as np
import onnx

from secateur.pipeline.convert.passes.editing import Array, Editor, is_float
from secateur.pipeline.onnxgraph import attribute


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    if any(_is_product(editor, node) or _is_unfinished(editor, node) for node in editor.nodes):
        return None
    return "every product with a constant matrix is a plain Gemm, or not of rank 2"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with plain Gemms; names of weights and of results are kept."""
    editor = Editor(model)
    for node in list(editor.nodes):
        if _is_product(editor, node):
            _fuse(editor, node)
        elif _is_unfinished(editor, node):
            finish(editor, node)
    return editor.finish()


def finish(editor: Editor, node: onnx.NodeProto) -> None:
    """Make a Gemm with constants have α = β = 1 and a bias vector."""
    weight = editor.constant(node.input[1])
    assert weight is not None
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    columns = weight.shape[0 if attribute(node, "transB", 0) else 1]
    if alpha != 1:
        scaled = (weight.astype(np.float64) * alpha).astype(weight.dtype)
        node.input[1] = editor.with_values(node.input[1], scaled)
    bias = editor.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if bias is None:
        name = editor.add_constant(f"{node.output[0]}.bias", np.zeros(columns, weight.dtype))
        del node.input[2:]
        node.input.append(name)
    elif beta != 1 or bias.shape != (columns,):
        row = np.broadcast_to(bias.reshape(-1), (columns,)).astype(np.float64)
        node.input[2] = editor.with_values(node.input[2], (row * beta).astype(bias.dtype))
    kept = [entry for entry in node.attribute if entry.name not in ("alpha", "beta")]
    del node.attribute[:]
    node.attribute.extend(kept)
    editor.changed()


def _is_product(editor: Editor, node: onnx.NodeProto) -> bool:
    """Whether it is a MatMul of a value of rank 2 with a constant matrix."""
    if node.op_type != "MatMul" or editor.constant(node.input[0]) is not None:
        return False
    weight, shape = editor.constant(node.input[1]), editor.shape(node.input[0])
    return (
        weight is not None and is_float(weight) and weight.ndim == 2 and shape is not None and len(shape) == 2
    )


def _is_unfinished(editor: Editor, node: onnx.NodeProto) -> bool:
    """Whether it is a Gemm with constants that is not plain, and can be."""
    weight = editor.constant(node.input[1]) if node.op_type == "Gemm" else None
    if weight is None or not is_float(weight):
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    bias = editor.constant(node.input[2])
    columns = weight.shape[0 if attribute(node, "transB", 0) else 1]
    plain = attribute(node, "alpha", 1.0) == 1 and attribute(node, "beta", 1.0) == 1
    return bias is not None and _is_row(bias, columns) and not (plain and bias.shape == (columns,))


def _is_row(array: Array, columns: int) -> bool:
    """Whether it is one row (or a number) of at most two axes."""
    if array.ndim > 2 or (array.ndim == 2 and array.shape[0] != 1):
        return False
    return array.size in (1, columns)


def _fuse(editor: Editor, node: onnx.NodeProto) -> None:
    weight = editor.constant(node.input[1])
    assert weight is not None
    columns, bias, result, last = weight.shape[1], None, node.output[0], node
    add = editor.only_reader(result)
    if add is not None and add.op_type == "Add":
        other = add.input[1] if add.input[0] == result else add.input[0]
        constant = editor.constant(other)
        if constant is not None and _is_row(constant, columns):
            bias, result, last = constant, add.output[0], add
            plain = other if constant.shape == (columns,) else None
    if bias is None:
        name = editor.add_constant(f"{result}.bias", np.zeros(columns, weight.dtype))
    else:
        name = plain or editor.add_constant(other, np.broadcast_to(bias.reshape(-1), (columns,)))
    gemm = editor.node("Gemm", [node.input[0], node.input[1], name], result)
    gemm.name = node.name or gemm.name
    if last is not node:
        editor.replace(last)
    editor.replace(node, [gemm])
