"""Pass: unusual convolutions and average pools become plain Conv.

Cases: grouped Conv gets a kernel with zeros between groups, dilated Conv one with zeros between its taps,
`auto_pad` is written out as pads, and AveragePool and GlobalAveragePool become Conv with 1/n in their windows
(without padding, or with padding that counts). Kernels are constants, sizes known. Numbers of Conv are copied,
never computed; 1/n rounds once. No library has this pass.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx

from secateur.pipeline import onnxgraph
from secateur.pipeline.convert.passes.editing import Array, Editor
from secateur.pipeline.onnxgraph import attribute

_POOLS = ("AveragePool", "GlobalAveragePool")


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    found = any(_is_unusual(editor, node) or _is_pool(editor, node) for node in editor.nodes)
    return (
        None if found else "no grouped, dilated or self-padding Conv and no average pool that can become one"
    )


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with plain convolutions; names of results are kept."""
    editor = Editor(model)
    for node in list(editor.nodes):
        if _is_unusual(editor, node):
            _plain(editor, node)
        elif _is_pool(editor, node):
            _pool(editor, node)
    return editor.finish()


def _is_unusual(editor: Editor, node: onnx.NodeProto) -> bool:
    if node.op_type != "Conv" or editor.constant(node.input[1]) is None:
        return False
    dilated = any(size != 1 for size in attribute(node, "dilations", ()))
    return attribute(node, "group", 1) != 1 or dilated or _pads(editor, node) is not None


def _is_pool(editor: Editor, node: onnx.NodeProto) -> bool:
    shape = editor.shape(node.input[0]) if node.op_type in _POOLS else None
    if shape is None or len(shape) < 3 or None in shape[1:]:
        return False
    if editor.kind(node.input[0]) not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        return False
    if any(attribute(node, "pads", ())) and not attribute(node, "count_include_pad", 0):
        return False
    return not attribute(node, "ceil_mode", 0) and attribute(node, "auto_pad", "NOTSET") in (
        "NOTSET",
        "VALID",
    )


def _pads(editor: Editor, node: onnx.NodeProto) -> list[int] | None:
    """The padding that `auto_pad` stands for; None where it says nothing, or sizes are not known."""
    mode, shape = attribute(node, "auto_pad", "NOTSET"), editor.shape(node.input[0])
    weight = editor.constant(node.input[1])
    if mode == "NOTSET" or shape is None or weight is None or None in shape[2:]:
        return None
    rank = weight.ndim - 2
    if mode == "VALID":
        return [0] * 2 * rank
    strides, dilations = attribute(node, "strides", [1] * rank), attribute(node, "dilations", [1] * rank)
    before, after = [], []
    for size, stride, dilation, taps in zip(shape[2:], strides, dilations, weight.shape[2:], strict=True):
        assert size is not None
        total = max(0, (-(-size // stride) - 1) * stride + dilation * (taps - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before + after


def _plain(editor: Editor, node: onnx.NodeProto) -> None:
    weight, pads = editor.constant(node.input[1]), _pads(editor, node)
    assert weight is not None
    if pads is not None:
        _leave_out(node, "auto_pad")
        onnxgraph.set_attribute(node, "pads", pads)
    kernel = _apart(weight, attribute(node, "dilations", [1] * (weight.ndim - 2)))
    kernel = _ungrouped(kernel, attribute(node, "group", 1))
    if kernel.shape != weight.shape:
        node.input[1] = editor.with_values(node.input[1], kernel)
        onnxgraph.set_attribute(node, "kernel_shape", list(kernel.shape[2:]))
    _leave_out(node, "dilations")
    _leave_out(node, "group")
    editor.changed()


def _apart(weight: Array, dilations: list[int]) -> Array:
    """The kernel with zeros between its taps."""
    sizes = [(taps - 1) * step + 1 for taps, step in zip(weight.shape[2:], dilations, strict=True)]
    result = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
    result[(slice(None), slice(None), *(slice(None, None, step) for step in dilations))] = weight
    return result


def _ungrouped(weight: Array, group: int) -> Array:
    """The kernel [out, in / group, …] as [out, in, …], with zeros between groups."""
    out, into = weight.shape[:2]
    result = np.zeros((out, into * group, *weight.shape[2:]), weight.dtype)
    for g in range(group):
        rows = slice(g * out // group, (g + 1) * out // group)
        result[rows, g * into : (g + 1) * into] = weight[rows]
    return result


def _pool(editor: Editor, node: onnx.NodeProto) -> None:
    shape = editor.shape(node.input[0])
    assert shape is not None
    channels, whole = shape[1] or 1, [size or 1 for size in shape[2:]]
    kernel = list(attribute(node, "kernel_shape", whole))
    kind = np.float64 if editor.kind(node.input[0]) == onnx.TensorProto.DOUBLE else np.float32
    window = np.full((channels, 1, *kernel), 1 / prod(kernel), kind)
    kept = {name: attribute(node, name) for name in ("strides", "pads", "dilations") if attribute(node, name)}
    dilations = kept.pop("dilations", [1] * len(kernel))
    weight = _ungrouped(_apart(window, dilations), channels)
    names = [
        node.input[0],
        editor.add_constant(f"{node.output[0]}.mean", weight),
        editor.add_constant(f"{node.output[0]}.bias", np.zeros(channels, kind)),
    ]
    conv = editor.node("Conv", names, node.output[0], kernel_shape=list(weight.shape[2:]), **kept)
    editor.replace(node, [conv])


def _leave_out(node: onnx.NodeProto, name: str) -> None:
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
