"""Pass: LeakyRelu, PRelu, Clip, Abs, Max, Min and HardSigmoid become Relu and arithmetic.

For verifiers that know no other nonlinearity. Cases, of floats:

* Abs(x) = Relu(x) + Relu(0 − x)
* LeakyRelu(x), PRelu(x, s) = Relu(x) − s · Relu(0 − x)
* Clip(x, l, h) = h − Relu((h − l) − Relu(x − l)), a chain without branches, or with one bound the half of it;
  for bounds beyond ±1024, whose differences would round away the digits of x, l + Relu(x − l) − Relu(x − h)
* Max(a, b) = b + Relu(a − b), Min(a, b) = a − Relu(a − b), one after another for more
* HardSigmoid(x) = Clip(αx + β, 0, 1)

Differences round, so results are equal to within a few ulps of the largest number involved. No library has this
pass (onnxscript's rules go the other way: Min and Max to Clip).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from secateur.pipeline.convert.passes.editing import Editor
from secateur.pipeline.onnxgraph import attribute

_FAR = 1024.0


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    editor = Editor(model)
    return (
        None if any(_fits(editor, node) for node in editor.nodes) else "no operator that Relus can stand for"
    )


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with Relus; names of results are kept."""
    editor = Editor(model)
    for node in list(editor.nodes):
        if _fits(editor, node):
            writer = _Writer(editor, node)
            _RULES[node.op_type](writer, node)
            editor.replace(node, writer.made)
    return editor.finish()


def _fits(editor: Editor, node: onnx.NodeProto) -> bool:
    if node.op_type not in _RULES or editor.kind(node.input[0]) not in (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
    ):
        return False
    if node.op_type == "Clip":
        return None not in _bounds(editor, node)
    return node.op_type not in ("Max", "Min") or len(node.input) > 1


class _Writer:
    """Nodes that take one node's place, in order; the last makes its result."""

    def __init__(self, editor: Editor, node: onnx.NodeProto) -> None:
        self.editor, self.made, self._result = editor, list[onnx.NodeProto](), node.output[0]
        double = editor.kind(node.input[0]) == onnx.TensorProto.DOUBLE
        self._kind = np.float64 if double else np.float32

    def number(self, value: float) -> str:
        return self.editor.add_constant(f"{self._result}.constant", np.asarray(value, self._kind))

    def node(self, kind: str, *inputs: str, last: bool = False) -> str:
        made = self.editor.node(
            kind, inputs, self._result if last else None, f"{self._result}/{kind.lower()}"
        )
        self.made.append(made)
        return str(made.output[0])

    def negative_part(self, x: str) -> str:
        """Relu(−x)"""
        return self.node("Relu", self.node("Sub", self.number(0), x))


def _abs(write: _Writer, node: onnx.NodeProto) -> None:
    x = node.input[0]
    write.node("Add", write.node("Relu", x), write.negative_part(x), last=True)


def _leaky(write: _Writer, node: onnx.NodeProto) -> None:
    x = node.input[0]
    slope = node.input[1] if node.op_type == "PRelu" else write.number(attribute(node, "alpha", 0.01))
    write.node("Sub", write.node("Relu", x), write.node("Mul", write.negative_part(x), slope), last=True)


def _extreme(write: _Writer, node: onnx.NodeProto) -> None:
    value = node.input[0]
    for position, other in enumerate(node.input[1:], 2):
        excess, last = write.node("Relu", write.node("Sub", value, other)), position == len(node.input)
        if node.op_type == "Max":
            value = write.node("Add", other, excess, last=last)
        else:
            value = write.node("Sub", value, excess, last=last)


def _clip(write: _Writer, node: onnx.NodeProto) -> None:
    low, high = _bounds(write.editor, node)
    assert low is not None and high is not None
    _between(write, node.input[0], low, high)


def _hard_sigmoid(write: _Writer, node: onnx.NodeProto) -> None:
    scaled = write.node("Mul", node.input[0], write.number(attribute(node, "alpha", 0.2)))
    _between(write, write.node("Add", scaled, write.number(attribute(node, "beta", 0.5))), 0.0, 1.0)


def _between(write: _Writer, x: str, low: float, high: float) -> None:
    if np.isinf(low) and np.isinf(high):
        write.node("Identity", x, last=True)
    elif np.isinf(low):
        top = write.number(high)
        write.node("Sub", top, write.node("Relu", write.node("Sub", top, x)), last=True)
    else:
        above = x if low == 0 else write.node("Sub", x, write.number(low))
        if np.isinf(high):
            _add(write, write.node("Relu", above, last=low == 0), low)
        elif max(-low, high) > _FAR:
            over = write.node("Relu", write.node("Sub", x, write.number(high)))
            inside = write.node("Sub", write.node("Relu", above), over, last=low == 0)
            _add(write, inside, low)
        else:
            below = write.node("Sub", write.number(high - low), write.node("Relu", above))
            write.node("Sub", write.number(high), write.node("Relu", below), last=True)


def _add(write: _Writer, value: str, low: float) -> None:
    if low != 0:
        write.node("Add", value, write.number(low), last=True)


def _bounds(editor: Editor, node: onnx.NodeProto) -> tuple[float | None, float | None]:
    """The bounds of a Clip, infinite where it has none (or the largest float); None for one that is computed."""
    found: list[float | None] = []
    for index, (name, default) in enumerate((("min", -np.inf), ("max", np.inf)), 1):
        value: float | None = float(attribute(node, name, default))
        if len(node.input) > index and node.input[index]:
            constant = editor.constant(node.input[index])
            value = None if constant is None else float(constant.reshape(()))
        if value is not None and abs(value) >= np.finfo(np.float32).max:
            value = float(np.copysign(np.inf, value))
        found.append(value)
    if None not in found and found[0] > found[1]:  # type: ignore[operator]
        return None, None  # then the result is the upper bound, by ONNX's definition
    return found[0], found[1]


_RULES: dict[str, Callable[[_Writer, onnx.NodeProto], None]] = {
    "Abs": _abs,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky,
    "Max": _extreme,
    "Min": _extreme,
    "PRelu": _leaky,
}
