"""Pass: MaxPool becomes Conv and Relu, for verifiers that know no maximum.

max(a, b) = Relu(a − b) + Relu(b) − Relu(−b), and Relu(−b) is 0 where nothing is negative (behind a Relu). A
window is reduced by pairs, a Relu a round: a Conv with the pool's kernel, strides and dilations makes the
differences, Convs of 1 × 1 lead from round to round, and the last gives the maximum. So the chain has no
branches, which sequential verifiers want. Differences round: the result is equal to within a few ulps of the
largest value in a window.

Cases: MaxPool of floats of any rank with a known number of channels, without its second output. With padding
only behind a Relu, where a padded 0 stands for the −∞ that ONNX pads with; with `ceil_mode` or `auto_pad` only
where neither changes anything. Needs `shapes`; no library has this pass.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from secateur.pipeline.convert.passes.editing import Editor
from secateur.pipeline.onnxgraph import attribute

Floats = NDArray[np.float64]


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    reasons = [_reason(editor, node) for node in editor.nodes if node.op_type == "MaxPool"]
    if not reasons:
        return "no MaxPool"
    return None if None in reasons else reasons[0]


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the MaxPool nodes that can be expressed; names of results are kept."""
    editor = Editor(model)
    pools = [node for node in editor.nodes if node.op_type == "MaxPool" and _reason(editor, node) is None]
    positive = [_behind_relu(editor, node) for node in pools]
    for node, sign in zip(pools, positive, strict=True):
        _expand(editor, node, sign)
    return editor.finish()


def _reason(editor: Editor, node: onnx.NodeProto) -> str | None:
    shape, name = editor.shape(node.input[0]), node.name or node.output[0]
    if shape is None or len(shape) < 3 or shape[1] is None:
        return f"the channels of '{name}' are not known"
    if editor.kind(node.input[0]) not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        return f"'{name}' does not pool floats"
    if len(node.output) > 1 and (editor.readers(node.output[1]) or editor.is_output(node.output[1])):
        return f"the indices of '{name}' are read"
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"'{name}' pads by itself"
    if any(attribute(node, "pads", ())) and not _behind_relu(editor, node):
        return f"'{name}' pads values that may be negative"
    if attribute(node, "ceil_mode", 0) and not _divides(node, shape[2:]):
        return f"'{name}' has windows beyond the edge"
    return None


def _behind_relu(editor: Editor, node: onnx.NodeProto) -> bool:
    maker = editor.maker(node.input[0])
    while maker is not None and maker.op_type in ("MaxPool", "Identity", "Dropout"):
        maker = editor.maker(maker.input[0])
    return maker is not None and maker.op_type in ("Relu", "Sigmoid")


def _divides(node: onnx.NodeProto, sizes: tuple[int | None, ...]) -> bool:
    """Whether windows end where the (padded) value does, so that rounding their number up or down is the same."""
    rank = len(sizes)
    kernel = attribute(node, "kernel_shape")
    pads, strides = attribute(node, "pads", [0] * 2 * rank), attribute(node, "strides", [1] * rank)
    dilations = attribute(node, "dilations", [1] * rank)
    return all(
        size is not None
        and (size + pads[i] + pads[rank + i] - dilations[i] * (kernel[i] - 1) - 1) % strides[i] == 0
        for i, size in enumerate(sizes)
    )


def _expand(editor: Editor, node: onnx.NodeProto, positive: bool) -> None:
    shape = editor.shape(node.input[0])
    assert shape is not None and shape[1] is not None
    channels, kernel = shape[1], list(attribute(node, "kernel_shape"))
    double = editor.kind(node.input[0]) == onnx.TensorProto.DOUBLE
    kind = np.float64 if double else np.float32
    window = {
        entry.name: attribute(node, entry.name)
        for entry in node.attribute
        if entry.name in ("pads", "strides", "dilations")
    }
    maps = _rounds(int(np.prod(kernel)), positive)
    value, made = node.input[0], []
    for number, matrix in enumerate(maps):
        # slot by slot, each for all channels: row (slot, channel) reads column (slot, channel)
        wide = np.einsum("rs,cd->rcsd", matrix, np.eye(channels))
        if number == 0:
            weight = wide.transpose(0, 1, 3, 2).reshape(-1, channels, *kernel)
        else:
            weight = wide.reshape(len(matrix) * channels, -1, *(1,) * len(kernel))
        last = number == len(maps) - 1
        name = editor.add_constant(f"{node.output[0]}.select", weight.astype(kind))
        # a bias of zeros: some readers want one
        bias = editor.add_constant(f"{node.output[0]}.bias", np.zeros(len(weight), kind))
        attributes = (
            {"kernel_shape": kernel, **window} if number == 0 else {"kernel_shape": [1] * len(kernel)}
        )
        made.append(
            editor.node(
                "Conv",
                [value, name, bias],
                node.output[0] if last else None,
                f"{node.output[0]}/pairs",
                **attributes,
            )
        )
        value = made[-1].output[0]
        if not last:
            made.append(editor.node("Relu", [value], wish=f"{node.output[0]}/relu"))
            value = made[-1].output[0]
    editor.replace(node, made)


def _rounds(count: int, positive: bool) -> list[Floats]:
    """The linear maps before, between and behind the Relus, from `count` values to their maximum."""
    slots = np.eye(count)  # each value still in the race, as a combination of what the last round made
    maps = []
    while len(slots) > 1:
        rows: list[Floats] = []
        combined: list[dict[int, float]] = []
        for first, second in zip(slots[::2], [*slots[1::2], None][: (len(slots) + 1) // 2], strict=True):
            keep = first if second is None else second
            parts = {}
            if second is not None:
                parts[len(rows)] = 1.0
                rows.append(first - second)
            parts[len(rows)] = 1.0
            rows.append(keep)
            if not positive:
                parts[len(rows)] = -1.0
                rows.append(-keep)
            combined.append(parts)
        maps.append(np.stack(rows))
        slots = np.zeros((len(combined), len(rows)))
        for slot, parts in enumerate(combined):
            for row, factor in parts.items():
                slots[slot, row] = factor
    return [*maps, slots]
