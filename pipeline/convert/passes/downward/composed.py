"""Operators that are new in an opset, written out in those before it."""

from __future__ import annotations

import numpy as np
import onnx

from secateur.pipeline.convert.passes.downward.rewriter import Adapter, Rewriter, optional
from secateur.pipeline.onnxgraph import attribute


def gelu(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """0.5 x (1 + erf(x / √2)), or its approximation by tanh."""
    x = node.input[0]
    if attribute(node, "approximate", "none") == "tanh":
        square = rewriter.emit("Mul", [x, x], node)
        cube = rewriter.emit("Mul", [square, x], node)
        scaled = rewriter.emit("Mul", [cube, rewriter.like(node, 0.044715)], node)
        inner = rewriter.emit("Add", [x, scaled], node)
        argument = rewriter.emit("Mul", [inner, rewriter.like(node, np.sqrt(2 / np.pi))], node)
        curve = rewriter.emit("Tanh", [argument], node)
    else:
        argument = rewriter.emit("Div", [x, rewriter.like(node, np.sqrt(2.0))], node)
        curve = rewriter.emit("Erf", [argument], node)
    above = rewriter.emit("Add", [curve, rewriter.like(node, 1.0)], node)
    product = rewriter.emit("Mul", [x, above], node)
    rewriter.close("Mul", [product, rewriter.like(node, 0.5)], node)


def mish(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """x tanh(softplus(x))."""
    gate = rewriter.emit("Tanh", [rewriter.emit("Softplus", node.input, node)], node)
    rewriter.close("Mul", [node.input[0], gate], node)


def swish(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """x σ(α x)."""
    alpha = rewriter.like(node, attribute(node, "alpha", 1.0))
    gate = rewriter.emit("Sigmoid", [rewriter.emit("Mul", [node.input[0], alpha], node)], node)
    rewriter.close("Mul", [node.input[0], gate], node)


def hard_swish(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """x max(0, min(1, x / 6 + 1 / 2))."""
    gate = rewriter.emit("HardSigmoid", node.input, node, alpha=1 / 6, beta=0.5)
    rewriter.close("Mul", [node.input[0], gate], node)


def celu(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """α elu(x / α)."""
    alpha = rewriter.like(node, attribute(node, "alpha", 1.0))
    curve = rewriter.emit("Elu", [rewriter.emit("Div", [node.input[0], alpha], node)], node)
    rewriter.close("Mul", [curve, alpha], node)


def negated(operator: str) -> Adapter:
    """A comparison as the opposite of another (they differ at NaN)."""

    def adapter(rewriter: Rewriter, node: onnx.NodeProto) -> None:
        rewriter.close("Not", [rewriter.emit(operator, node.input, node)], node)

    return adapter


def cast_like(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Cast to the type of the second input."""
    kind = rewriter.types.get(node.input[1])
    if not kind:
        raise rewriter.refuse(node, "an unknown type")
    rewriter.close("Cast", node.input[:1], node, to=kind)


def trilu(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Zero outside of the triangle."""
    diagonal = rewriter.integers(node, 1, "diagonal") or [0]
    inside = np.ones(rewriter.shapes[node.input[0]][-2:], bool)
    inside = np.triu(inside, diagonal[0]) if attribute(node, "upper", 1) else np.tril(inside, diagonal[0])
    mask = rewriter.constant(node, inside, np.bool_)
    rewriter.close("Where", [mask, node.input[0], rewriter.like(node, 0)], node)


def layer_norm(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """(x − mean) / √(variance + ε) · scale + bias, over the axes from `axis` on."""
    if any(node.output[1:]):
        raise rewriter.refuse(node, "the mean or the deviation as an output")
    mean = _mean(rewriter, node, node.input[0])
    _by_deviation(rewriter, node, rewriter.emit("Sub", [node.input[0], mean], node), 1e-5)


def rms_norm(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """x / √(mean x² + ε) · scale, over the axes from `axis` on."""
    _by_deviation(rewriter, node, node.input[0], 1e-5)


def _mean(rewriter: Rewriter, node: onnx.NodeProto, x: str) -> str:
    """The mean of `x` over the axes from the node's `axis` on, which stay as ones."""
    rank = rewriter.rank(node.input[0])
    axes = list(range(attribute(node, "axis", -1) % rank, rank))
    if rewriter.version < 18:
        return rewriter.emit("ReduceMean", [x], node, axes=axes, keepdims=1)
    return rewriter.emit("ReduceMean", [x, rewriter.constant(node, axes)], node, keepdims=1)


def _by_deviation(rewriter: Rewriter, node: onnx.NodeProto, x: str, epsilon: float) -> None:
    square = rewriter.emit("Mul", [x, x], node)
    mean = _mean(rewriter, node, square)
    above = rewriter.emit("Add", [mean, rewriter.like(node, attribute(node, "epsilon", epsilon))], node)
    normal = rewriter.emit("Div", [x, rewriter.emit("Sqrt", [above], node)], node)
    if not optional(node, 2):
        rewriter.close("Mul", [normal, node.input[1]], node)
        return
    rewriter.close("Add", [rewriter.emit("Mul", [normal, node.input[1]], node), node.input[2]], node)


def group_norm(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Each group as one channel of an InstanceNormalization. (The operator of opset 18 is deprecated there.)"""
    shape, groups = rewriter.shapes[node.input[0]], attribute(node, "num_groups")
    joined = rewriter.emit("Reshape", [node.input[0], rewriter.constant(node, [0, groups, -1])], node)
    one, zero = rewriter.like(node, np.ones(groups)), rewriter.like(node, np.zeros(groups))
    epsilon = attribute(node, "epsilon", 1e-5)
    normal = rewriter.emit("InstanceNormalization", [joined, one, zero], node, epsilon=epsilon)
    apart = rewriter.emit("Reshape", [normal, rewriter.constant(node, [0, *shape[1:]])], node)
    along = [-1] + [1] * (len(shape) - 2)
    parameters = []
    for index in (1, 2):
        values = rewriter.known(node, index, "scale or bias")
        assert values is not None
        parameters.append(rewriter.like(node, values.reshape(along)))
    rewriter.close("Add", [rewriter.emit("Mul", [apart, parameters[0]], node), parameters[1]], node)


def added(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Sum and Mean of different shapes as a chain of Add, which broadcasts."""
    shapes = {rewriter.shapes[name] for name in node.input}
    if len(shapes) == 1:
        rewriter.keep(node)
        return
    total = node.input[0]
    for name in node.input[1:-1]:
        total = rewriter.emit("Add", [total, name], node)
    if node.op_type == "Sum":
        rewriter.close("Add", [total, node.input[-1]], node)
        return
    total = rewriter.emit("Add", [total, node.input[-1]], node)
    rewriter.close("Div", [total, rewriter.like(node, len(node.input))], node)
