"""Pass: any operator that is linear in one value becomes a Gemm, for verifiers that lack it or misread it.

Cases, on values whose every size is known and with constants for the rest: Slice, Gather, Split, Pad, Expand,
Tile, Transpose, Neg, Mul and Div by a constant, a value added to or subtracted from itself, MatMul of any rank,
sums and means over axes, average pools, BatchNormalization, Resize, DepthToSpace, ConvTranspose, and Conv that
is not two-dimensional, grouped or dilated; Concat becomes a sum of Gemms. The matrix is found by running the
node alone in onnxruntime on the unit vectors, in its own precision: entries of 0 and 1 are exact, others are as
the operator rounds them. Matrices of more than 2²³ numbers are not made. Needs `batch=1`, `constants` and
`shapes`; no library has this pass.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray

from secateur.formats.errors import UnsupportedError
from secateur.pipeline import onnxrt
from secateur.pipeline.convert.passes.editing import Array, Editor
from secateur.pipeline.onnxgraph import attribute, label

Floats = NDArray[np.float64]

LARGEST = 2**23

_ALWAYS = frozenset(
    [
        "AveragePool",
        "BatchNormalization",
        "ConvTranspose",
        "DepthToSpace",
        "Div",
        "Expand",
        "Gather",
        "GlobalAveragePool",
        "Mul",
        "Neg",
        "Pad",
        "ReduceMean",
        "ReduceSum",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Tile",
        "Transpose",
        "Upsample",
    ]
)
_TWICE = ("Add", "Sub", "Sum", "Mean")


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    found = [node for node in editor.nodes if _is_linear(editor, node)]
    if not found:
        return "no other linear operator than Gemm, Conv and sums"
    sizes = [_numbers(editor, node) for node in found]
    if any(size is not None and size <= LARGEST for size in sizes):
        return None
    if sizes[0] is None:
        return f"the sizes at {label(found[0])} are not all known"
    return f"the matrix of {label(found[0])} would have {sizes[0]} numbers"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with Gemms for linear operators; names of results are kept."""
    editor = Editor(model)
    for node in list(editor.nodes):
        size = _numbers(editor, node) if _is_linear(editor, node) else None
        if size is not None and size <= LARGEST:
            editor.replace(node, _gemms(editor, node))
    return editor.finish()


def _values(editor: Editor, node: onnx.NodeProto) -> list[str]:
    """The inputs that are no constants, each once."""
    return list(dict.fromkeys(name for name in node.input if name and editor.constant(name) is None))


def _is_linear(editor: Editor, node: onnx.NodeProto) -> bool:
    values = _values(editor, node)
    if node.op_type == "Concat":
        return bool(values) and _are_floats(editor, values)
    if len(values) != 1 or not _are_floats(editor, values):
        return False
    [value] = values
    if node.op_type in _TWICE:
        return list(node.input).count(value) > 1
    if node.op_type == "MatMul":
        shape, other = editor.shape(value), editor.constant(node.input[1])
        return shape is not None and (other is None or other.ndim != 2 or len(shape) not in (1, 2))
    if node.op_type == "Conv":
        shape = editor.shape(value)
        unusual = attribute(node, "group", 1) != 1 or any(d != 1 for d in attribute(node, "dilations", ()))
        return value == node.input[0] and (unusual or (shape is not None and len(shape) != 4))
    if node.op_type == "Mul":
        return list(node.input).count(value) == 1
    training = attribute(node, "training_mode", 0) or attribute(node, "mode", "constant") not in (
        ("nearest", "linear", "cubic")
        if node.op_type in ("Resize", "Upsample")
        else ("constant", "DCR", "CRD")
    )
    return node.op_type in _ALWAYS and node.input[0] == value and not training


def _are_floats(editor: Editor, names: list[str]) -> bool:
    return all(editor.kind(name) in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE) for name in names)


def _numbers(editor: Editor, node: onnx.NodeProto) -> int | None:
    """Numbers of the largest matrix that stands for the node; None where sizes are not known."""
    sizes = [_size(editor, name) for name in (*_values(editor, node), *filter(None, node.output))]
    if any(size is None for size in sizes):
        return None
    count = len(_values(editor, node))
    return max(size or 1 for size in sizes[:count]) * max(size or 1 for size in sizes[count:])


def _size(editor: Editor, name: str) -> int | None:
    shape = editor.shape(name)
    return None if shape is None or None in shape else prod(size or 1 for size in shape)


def _gemms(editor: Editor, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Nodes that make the node's outputs: Gemms on values as rows, and sums of them."""
    made: list[onnx.NodeProto] = []
    rows = []
    for value in _values(editor, node):
        shape = editor.shape(value)
        if shape is not None and (len(shape) != 2 or shape[0] != 1):
            target = editor.add_constant(f"{value}.row", np.array([1, _size(editor, value)]))
            made.append(editor.node("Reshape", [value, target], wish=f"{value}/row"))
            rows.append(made[-1].output[0])
        else:
            rows.append(value)
    matrices, biases = _affine(editor, node)
    double = editor.kind(_values(editor, node)[0]) == onnx.TensorProto.DOUBLE
    kind = np.float64 if double else np.float32
    for output, name in enumerate(node.output):
        if not name:
            continue
        shape = editor.shape(name) or ()
        is_row = len(shape) == 2 and shape[0] == 1
        total = ""
        for number, row in enumerate(rows):
            last = number == len(rows) - 1
            bias = biases[output] if number == 0 else np.zeros_like(biases[output])
            names = [
                row,
                editor.add_constant(f"{name}.matrix", matrices[number][output].astype(kind)),
                editor.add_constant(f"{name}.bias", bias.astype(kind)),
            ]
            made.append(
                editor.node("Gemm", names, name if last and is_row and not total else None, f"{name}/part")
            )
            if total:
                names = [total, made[-1].output[0]]
                made.append(editor.node("Add", names, name if last and is_row else None, f"{name}/sum"))
            total = made[-1].output[0]
        if not is_row:
            target = editor.add_constant(f"{name}.shape", np.array(shape, np.int64))
            made.append(editor.node("Reshape", [total, target], name))
    return made


def _affine(editor: Editor, node: onnx.NodeProto) -> tuple[list[list[Floats]], list[Floats]]:
    """For each value and each output the matrix [inputs, outputs], for each output the bias [outputs]."""
    values = _values(editor, node)
    part = onnx.ModelProto(ir_version=editor.model.ir_version)
    part.opset_import.extend(editor.model.opset_import)
    part.graph.name = "part"
    part.graph.node.append(node)
    part.graph.initializer.extend(tensor for tensor in editor.graph.initializer if tensor.name in node.input)
    for value in values:
        shape = list(editor.shape(value) or ())
        part.graph.input.append(onnx.helper.make_tensor_value_info(value, editor.kind(value), shape))
    names = [name for name in node.output if name]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    ready = onnxrt.session(part)
    zeros = onnxrt.zeros(ready)

    def run(feeds: dict[str, Array]) -> list[Floats]:
        return [np.asarray(result, np.float64).reshape(-1) for result in onnxrt.answers(ready, names, feeds)]

    bias = run(zeros)
    matrices: list[list[Floats]] = []
    for value in values:
        unit = np.zeros_like(zeros[value])
        rows: list[list[Floats]] = []
        for index in np.ndindex(unit.shape):
            unit[index] = 1
            rows.append(run({**zeros, value: unit}))
            unit[index] = 0
        matrices.append([np.stack([row[i] for row in rows]) - bias[i][None] for i in range(len(names))])
    if not all(np.isfinite(matrix).all() for each in matrices for matrix in each):
        raise UnsupportedError(f"{label(node)} is not linear: it has infinite slopes")
    return matrices, bias
