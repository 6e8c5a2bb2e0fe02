"""Pass: transposes sink towards the outputs, cancel, and are folded into weights.

Cases: a Transpose that changes nothing goes; two in a row become one; a Transpose in front of elementwise
operators (of one value, of a value and constants, of values transposed alike) moves behind them; one that
leaves the batch alone, in front of a Flatten (or a Reshape to rank 2) whose only reader is a product with a
constant matrix, becomes an order of that matrix's rows. Nothing is computed: numbers only change places.

onnxscript's `transpose_transpose` and `no_op_transpose` see only neighbours, and want `perm` written out;
between sinking steps they would have to run again and again, on a model converted there and back each time.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx

from secateur.pipeline import onnxgraph
from secateur.pipeline.convert.passes.editing import Editor
from secateur.pipeline.onnxgraph import attribute

_UNARY = frozenset(
    [
        "Abs",
        "Cast",
        "Ceil",
        "Celu",
        "Clip",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sign",
        "Sin",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Tanh",
        "ThresholdedRelu",
    ]
)
_SEVERAL = {"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sum", "Mean", "PRelu"}
_PRODUCTS = ("MatMul", "Gemm")


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    return None if any(_step(editor, node) for node in editor.nodes) else "no Transpose that can go or sink"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which transposes are as late and as few as can be; constants in other orders are new ones."""
    editor = Editor(model)
    while any(_step(editor, node) for node in editor.nodes):
        pass
    return editor.finish()


def _step(editor: Editor, node: onnx.NodeProto) -> bool:
    """Make one change at `node`; whether there was one."""
    if node.op_type == "Transpose":
        return _drop(editor, node) or _join(editor, node)
    return _sink(editor, node) or _fold(editor, node)


def _order(editor: Editor, node: onnx.NodeProto | None) -> list[int] | None:
    """The permutation of a Transpose; None of another node, or where the rank is not known."""
    if node is None or node.op_type != "Transpose":
        return None
    shape = editor.shape(node.output[0]) or editor.shape(node.input[0])
    default = None if shape is None else list(range(len(shape)))[::-1]
    found = attribute(node, "perm", default)
    return None if found is None else list(found)


def _drop(editor: Editor, node: onnx.NodeProto) -> bool:
    order, source, result = _order(editor, node), node.input[0], node.output[0]
    if order is None or order != sorted(order):
        return False
    readers, old, new = editor.readers(result), result, source
    maker = editor.maker(source) if editor.is_output(result) else None
    if editor.is_output(result):  # then its maker and other readers take the output's name
        if maker is None or editor.is_output(source):
            return False
        readers, old, new = editor.readers(source), source, result
    if any(True for reader in readers for _ in onnxgraph.subgraphs(reader)):
        return False
    if maker is not None:
        maker.output[list(maker.output).index(source)] = result
    for reader in readers:
        _reread(reader, old, new)
    editor.replace(node)
    return True


def _join(editor: Editor, node: onnx.NodeProto) -> bool:
    first = editor.maker(node.input[0])
    inner, outer = _order(editor, first), _order(editor, node)
    if first is None or inner is None or outer is None:
        return False
    node.input[0] = first.input[0]
    onnxgraph.set_attribute(node, "perm", [inner[i] for i in outer])
    editor.changed()
    if not editor.readers(first.output[0]) and not editor.is_output(first.output[0]):
        editor.replace(first)
    return True


def _sink(editor: Editor, node: onnx.NodeProto) -> bool:
    """Move the transposes of an elementwise node's inputs behind it."""
    if node.op_type not in _UNARY | _SEVERAL or len(node.output) != 1:
        return False
    values = [name for name in node.input if name and editor.constant(name) is None]
    if node.op_type in _UNARY:
        values = values[:1]
    makers = [maker for name in values if (maker := editor.maker(name)) is not None]
    orders = [_order(editor, maker) for maker in makers]
    if len(makers) < len(values):
        return False
    order = orders[0] if orders else None
    if order is None or any(other != order for other in orders):
        return False
    if any(editor.is_output(name) or {id(r) for r in editor.readers(name)} != {id(node)} for name in values):
        return False
    if node.op_type in _SEVERAL and not _reorder_constants(editor, node, order):
        return False
    for index, name in enumerate(node.input):
        if name in values:
            node.input[index] = makers[values.index(name)].input[0]
    result = node.output[0]
    node.output[0] = editor.fresh(f"{result}/straight")
    editor.changed()
    editor.replace(node, [node, editor.node("Transpose", [node.output[0]], result, perm=order)])
    for maker in {id(maker): maker for maker in makers}.values():
        editor.replace(maker)
    return True


def _reorder_constants(editor: Editor, node: onnx.NodeProto, order: list[int]) -> bool:
    """Put the constants among a node's inputs into the order before the Transpose; whether they could be."""
    back = np.argsort(order)
    changed = {}
    for index, name in enumerate(node.input):
        constant = editor.constant(name)
        if constant is None or constant.size == 1:
            if constant is not None and constant.ndim > len(order):
                return False
            continue
        if constant.ndim > len(order):
            return False
        full = constant.reshape((1,) * (len(order) - constant.ndim) + constant.shape)
        changed[index] = np.transpose(full, back)
    for index, array in changed.items():
        node.input[index] = editor.add_constant(node.input[index], array)
    return True


def _fold(editor: Editor, node: onnx.NodeProto) -> bool:
    """Fold the Transpose in front of a flattening node into the rows of the product behind it."""
    if node.op_type not in ("Flatten", "Reshape"):
        return False
    before, reader = editor.maker(node.input[0]), editor.only_reader(node.output[0])
    order = _order(editor, before)
    shape, flat = editor.shape(node.input[0]), editor.shape(node.output[0])
    if before is None or order is None or order[0] != 0 or reader is None or reader.op_type not in _PRODUCTS:
        return False
    if (
        shape is None
        or None in shape[1:]
        or flat is None
        or len(flat) != 2
        or reader.input[0] != node.output[0]
    ):
        return False
    sizes = [size or 1 for size in shape[1:]]
    weight = editor.constant(reader.input[1])
    if flat[1] != prod(sizes) or weight is None or weight.ndim != 2 or attribute(reader, "transA", 0):
        return False
    if not editor.is_only_reader(node, before.output[0]):
        return False
    matrix = weight.T if attribute(reader, "transB", 0) else weight
    back = np.argsort([axis - 1 for axis in order[1:]])
    rows = np.transpose(np.arange(len(matrix)).reshape(sizes), back).reshape(-1)
    matrix = matrix[rows]
    reader.input[1] = editor.with_values(
        reader.input[1], matrix.T if attribute(reader, "transB", 0) else matrix
    )
    node.input[0] = before.input[0]
    editor.changed()
    editor.replace(before)
    return True


def _reread(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new
