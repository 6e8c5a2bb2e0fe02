"""Pass: constant arithmetic (Sub, Div, Mul, Add, Neg) goes into the Conv or Gemm next to it.

Cases, where nothing else reads the value between the two:
* in front, as input normalisation is, one value a feature of a Gemm (also across a Flatten, or a Reshape to
  rank 2), or one a channel of a Conv;
* behind, one value an output feature of a Gemm or a channel of a Conv, as scales and denormalised outputs are.

What is fused is exact in real arithmetic: computed in float64, rounded once. A shift in front of a padded Conv
is left alone: the zeros of the padding are not shifted, so no bias can stand for it. A scale there is fused.
Needs `gemm` for matrix products and plain Gemms.

onnxscript's `affine_conv_fusion` knows one form (Mul and Add in a row, in front of a Conv or behind it) and no
Gemm.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray

from secateur.pipeline.convert.passes.editing import Editor, Shape, is_float
from secateur.pipeline.onnxgraph import attribute, label

Floats = NDArray[np.float64]
_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Neg")


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    reasons = [_attempt(editor, node, apply=False) for node in editor.nodes if node.op_type in _ARITHMETIC]
    if not reasons:
        return "no constant arithmetic"
    return None if None in reasons else next((reason for reason in reasons if reason), None)


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which layers do the arithmetic."""
    editor = Editor(model)
    fused = True
    while fused:
        fused = any(
            _attempt(editor, node, apply=True) is None for node in editor.nodes if node.op_type in _ARITHMETIC
        )
    return editor.finish()


def _attempt(editor: Editor, node: onnx.NodeProto, *, apply: bool) -> str | None:
    """Fuse a node (or only see whether it can be, unless `apply`); why not, or None."""
    found = _scale_and_shift(editor, node)
    if found is None:
        return "no arithmetic between a value and a constant"
    source, scale, shift = found
    shape = editor.shape(node.output[0])
    if shape is None or len(shape) < 2:
        return "no arithmetic on a value of known rank, two or more"
    layer = editor.maker(source)
    if layer is not None and editor.is_only_reader(node, source) and _is_layer(editor, layer):
        per = _per_axis(scale, shape, 1), _per_axis(shift, shape, 1)
        if per[0] is not None and per[1] is not None:
            if apply:
                _behind(editor, layer, per[0], per[1])
                layer.output[0] = node.output[0]
                editor.replace(node)
            return None
    return _attempt_in_front(editor, node, source, scale, shift, shape, apply=apply)


def _attempt_in_front(
    editor: Editor,
    node: onnx.NodeProto,
    source: str,
    scale: Floats,
    shift: Floats,
    shape: Shape,
    *,
    apply: bool,
) -> str | None:
    between = reader = editor.only_reader(node.output[0])
    if between is not None and _flattens(editor, between, shape):
        reader = editor.only_reader(between.output[0])
    if between is None or reader is None or not _is_layer(editor, reader):
        return "no Conv or Gemm next to it that nothing else lies between"
    if reader.op_type == "Gemm":
        if None in shape[1:]:
            return "the features' number is not known"
        full = (1, *(size or 1 for size in shape[1:]))
        if any(part.ndim == len(full) and part.shape[0] != 1 for part in (scale, shift)):
            return "the constant differs over the batch"
        parts = [np.broadcast_to(part, full).reshape(-1) for part in (scale, shift)]
    else:
        channels = [_per_axis(part, shape, 1) for part in (scale, shift)]
        parts = [part for part in channels if part is not None]
        if len(parts) < 2 or between is not reader:
            return "the constant differs within a channel"
        if parts[1].any() and _is_padded(reader):
            return f"a shift in front of the padded {label(reader)} is no bias: its padding stays 0"
    if apply:
        _in_front(editor, reader, parts[0], parts[1])
        index = list(between.input).index(node.output[0])
        between.input[index] = source
        editor.replace(node)
    return None


def _scale_and_shift(editor: Editor, node: onnx.NodeProto) -> tuple[str, Floats, Floats] | None:
    """The value, scale and shift of scale · value + shift, as arrays that broadcast to it."""
    zero, one = np.zeros(()), np.ones(())
    if node.op_type == "Neg":
        return node.input[0], -one, zero
    left, right = (editor.constant(name) for name in node.input)
    constant = left if right is None else right
    if constant is None or (left is not None and right is not None) or not is_float(constant):
        return None
    source = node.input[1] if right is None else node.input[0]
    before, after = editor.shape(source), editor.shape(node.output[0])
    if before is None or after is None or len(before) != len(after):
        return None
    padded = (1,) * (len(before) - constant.ndim) + constant.shape
    if any(size not in (1, dim) for size, dim in zip(padded, before, strict=True)):
        return None
    values = constant.astype(np.float64)
    if node.op_type == "Add":
        return source, one, values
    if node.op_type == "Sub":
        return (source, one, -values) if left is None else (source, -one, values)
    if node.op_type == "Mul":
        return source, values, zero
    if left is not None or not values.all():
        return None
    return source, 1 / values, zero


def _is_layer(editor: Editor, node: onnx.NodeProto) -> bool:
    """A Conv, or a plain Gemm, with constants that are its own."""
    if node.op_type not in ("Conv", "Gemm") or not is_float(editor.constant(node.input[1])):
        return False
    if len(node.input) > 2 and node.input[2] and editor.constant(node.input[2]) is None:
        return False
    if node.op_type == "Conv":
        return True
    plain = attribute(node, "alpha", 1.0) == 1 and attribute(node, "beta", 1.0) == 1
    bias = editor.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    return plain and not attribute(node, "transA", 0) and (bias is None or bias.ndim == 1)


def _flattens(editor: Editor, node: onnx.NodeProto, shape: Shape) -> bool:
    """Whether a node makes rank 2 of `shape` and leaves the batch alone."""
    after = editor.shape(node.output[0])
    if node.op_type not in ("Flatten", "Reshape") or after is None or len(after) != 2 or None in shape[1:]:
        return False
    return after[1] == prod(size or 1 for size in shape[1:])


def _per_axis(array: Floats, shape: Shape, axis: int) -> Floats | None:
    """`array`, which broadcasts to `shape`, as one number for each index of `axis`; None where it differs on others."""
    size = shape[axis]
    full = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    if size is None or any(n != 1 for i, n in enumerate(full.shape) if i != axis):
        return None
    return np.broadcast_to(full.reshape(-1), (size,))


def _is_padded(conv: onnx.NodeProto) -> bool:
    return any(attribute(conv, "pads", ())) or attribute(conv, "auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    )


def _in_front(editor: Editor, layer: onnx.NodeProto, scale: Floats, shift: Floats) -> None:
    """Make the layer do as if its input were scaled and shifted: [features] of a Gemm, [channels] of a Conv."""
    weight = editor.constant(layer.input[1])
    assert weight is not None
    wide = weight.astype(np.float64)
    if layer.op_type == "Gemm":
        matrix = wide.T if attribute(layer, "transB", 0) else wide
        bias, scaled = shift @ matrix, scale[:, None] * matrix
        scaled = scaled.T if attribute(layer, "transB", 0) else scaled
    else:  # group g of the outputs reads group g of the channels
        group = attribute(layer, "group", 1)
        grouped = wide.reshape(group, -1, *wide.shape[1:])
        along = (group, 1, wide.shape[1], *(1,) * (wide.ndim - 2))
        scaled = (grouped * scale.reshape(along)).reshape(wide.shape)
        bias = (grouped * shift.reshape(along)).reshape(len(wide), -1).sum(axis=1)
    layer.input[1] = editor.with_values(layer.input[1], scaled.astype(weight.dtype))
    _set_bias(editor, layer, _bias(editor, layer) + bias)


def _behind(editor: Editor, layer: onnx.NodeProto, scale: Floats, shift: Floats) -> None:
    """Make the layer scale and shift its output: [features] of a Gemm, [channels] of a Conv."""
    weight = editor.constant(layer.input[1])
    assert weight is not None
    axis = 0 if layer.op_type == "Conv" or attribute(layer, "transB", 0) else 1
    along = [-1 if i == axis else 1 for i in range(weight.ndim)]
    bias = _bias(editor, layer) * scale + shift
    scaled = weight.astype(np.float64) * scale.reshape(along)
    layer.input[1] = editor.with_values(layer.input[1], scaled.astype(weight.dtype))
    _set_bias(editor, layer, bias)


def _bias(editor: Editor, layer: onnx.NodeProto) -> Floats:
    found = editor.constant(layer.input[2]) if len(layer.input) > 2 and layer.input[2] else None
    return np.zeros(()) if found is None else found.astype(np.float64)


def _set_bias(editor: Editor, layer: onnx.NodeProto, bias: Floats) -> None:
    weight = editor.constant(layer.input[1])
    assert weight is not None
    axis = 0 if layer.op_type == "Conv" or attribute(layer, "transB", 0) else 1
    values = np.broadcast_to(bias, (weight.shape[axis],)).astype(weight.dtype)
    if len(layer.input) > 2 and layer.input[2]:
        if not np.array_equal(values, _bias(editor, layer)):
            layer.input[2] = editor.with_values(layer.input[2], values)
    elif values.any():
        del layer.input[2:]
        layer.input.append(editor.add_constant(f"{layer.output[0]}.bias", values))
    editor.changed()
