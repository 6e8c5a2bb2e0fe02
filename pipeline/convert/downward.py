"""Nodes rewritten for an older opset, where an operator or its way of being written was new: a table of adapters.

`ADAPTERS` maps an operator and the version that brought the change to a function that writes such a node the
older way. Cases: the axes of reductions, Pad and Resize go from inputs to attributes, or into full lists; Split
gets its sizes; attributes that say nothing (all dilations 1, `antialias` 0, `allowzero` without a zero) are
dropped; Gelu, Mish, Swish, HardSwish, LayerNormalization, RMSNormalization and GroupNormalization are written
out in older operators. What has no older form (`antialias` 1, dilated pooling) is refused by name; versions
that merely allow more types need no adapter. onnx's own version converter goes down for few operators, and
gives up on the whole graph for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike, NDArray
from onnx import helper, numpy_helper

from secateur.formats.errors import UnsupportedError
from secateur.pipeline import onnxgraph, onnxrt
from secateur.pipeline.onnxgraph import attribute, label


@dataclass
class Rewriter:
    """What adapters share: the graph being rewritten, its shapes, and where new nodes and constants go."""

    model: onnx.ModelProto
    target: int

    def __post_init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        for node in self.model.graph.node:
            tensor = onnxgraph.constant_tensor(node)
            if tensor is not None:
                self.constants[node.output[0]] = tensor

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every value, by a run of one sample. Raises UnsupportedError when onnxruntime cannot run the model."""
        return onnxrt.value_shapes(self.model)

    def values(self, name: str) -> NDArray[np.generic] | None:
        """A constant's value, or None."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def constant(self, near: onnx.NodeProto, values: ArrayLike, dtype: DTypeLike = np.int64) -> str:
        """The name of a new initializer."""
        name = onnxgraph.unused_name(self.model.graph, f"{near.output[0]}_constant")
        tensor = numpy_helper.from_array(np.asarray(values, dtype), name)
        self.model.graph.initializer.append(tensor)
        self.constants[name] = tensor
        return name

    def like(self, near: onnx.NodeProto, values: ArrayLike) -> str:
        """A new initializer of the type of the node's first input."""
        return self.constant(near, values, self.dtype(near))

    def dtype(self, node: onnx.NodeProto) -> DTypeLike:
        """The type of the node's first input."""
        found = self._types.get(node.input[0]) or onnx.TensorProto.FLOAT
        dtype: DTypeLike = helper.tensor_dtype_to_np_dtype(found)
        return dtype

    @cached_property
    def _types(self) -> dict[str, int]:
        return onnxgraph.element_types(self.model)

    def emit(self, operator: str, inputs: Sequence[str], near: onnx.NodeProto, **attributes: object) -> str:
        """A new node that computes a part of `near`; the name of its output."""
        output = onnxgraph.unused_name(
            self.model.graph, f"{near.output[0]}_{operator.lower()}{len(self.nodes)}"
        )
        self.nodes.append(helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    def close(self, operator: str, inputs: Sequence[str], node: onnx.NodeProto, **attributes: object) -> None:
        """The node that gives `near`'s own output."""
        self.nodes.append(helper.make_node(operator, list(inputs), [node.output[0]], node.name, **attributes))

    def refuse(self, node: onnx.NodeProto, what: str) -> UnsupportedError:
        return UnsupportedError(f"{label(node)}: {what} has no form in opset {self.target}")


Adapter = Callable[[Rewriter, onnx.NodeProto], None]
"""Appends the older form of a node (a copy, which it may change) to the rewriter's nodes."""


def lower(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """A copy whose nodes are written as in opset `target`; the opset that it declares is not touched.

    Raises:
        UnsupportedError: a node has no form there, and why.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    current = max(
        (entry.version for entry in copy.opset_import if entry.domain in ("", "ai.onnx")), default=0
    )
    rewriter = Rewriter(copy, target)
    for node in copy.graph.node:
        step = onnx.NodeProto.FromString(node.SerializeToString())
        adapters = [
            adapter
            for (operator, version), adapter in ADAPTERS.items()
            if operator == node.op_type and (target < version <= current or version == ALWAYS)
        ]
        if adapters and node.domain in ("", "ai.onnx"):
            adapters[0](rewriter, step)  # the one for the oldest version goes all the way
        else:
            rewriter.nodes.append(step)
    onnxgraph.replace_nodes(copy.graph, rewriter.nodes)
    return copy


def _without(node: onnx.NodeProto, *names: str) -> onnx.NodeProto:
    kept = [entry for entry in node.attribute if entry.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)
    return node


def _input(node: onnx.NodeProto, index: int) -> str:
    return node.input[index] if index < len(node.input) else ""


def _constant_input(rewriter: Rewriter, node: onnx.NodeProto, index: int, what: str) -> list[int] | None:
    """The integers of an optional input; None where it is left out."""
    name = _input(node, index)
    if not name:
        return None
    values = rewriter.values(name)
    if values is None:
        raise rewriter.refuse(node, f"{what} that are computed")
    return [int(value) for value in values.reshape(-1)]


# --- attributes that move or mean nothing ---------------------------------------------------------------------


def _reduction(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    axes = _constant_input(rewriter, node, 1, "axes")
    if not axes and attribute(node, "noop_with_empty_axes", 0):
        rewriter.close("Identity", node.input[:1], node)
        return
    _without(node, "noop_with_empty_axes")
    del node.input[1:]
    if axes:
        onnxgraph.set_attribute(node, "axes", axes)
    rewriter.nodes.append(node)


def _split(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    parts = attribute(node, "num_outputs")
    _without(node, "num_outputs")
    if parts is not None:
        size = rewriter.shapes[node.input[0]][attribute(node, "axis", 0)]
        chunk = -(-size // parts)
        sizes = [chunk] * (parts - 1)
        node.input.append(rewriter.constant(node, [*sizes, size - sum(sizes)]))
    rewriter.nodes.append(node)


def _pad(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    if attribute(node, "mode", "constant") == "wrap":
        raise rewriter.refuse(node, "mode 'wrap'")
    axes = _constant_input(rewriter, node, 3, "axes")
    if axes is not None:
        pads = _constant_input(rewriter, node, 1, "pads") or []
        rank = len(rewriter.shapes[node.input[0]])
        full = np.zeros((2, rank), np.int64)
        full[:, [axis % rank for axis in axes]] = np.reshape(pads, (2, -1))
        node.input[1] = rewriter.constant(node, full.reshape(-1))
        del node.input[3:]
    rewriter.nodes.append(node)


def _resize(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    if attribute(node, "antialias", 0):
        raise rewriter.refuse(node, "antialias=1")
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise rewriter.refuse(node, "keep_aspect_ratio_policy")
    axes = attribute(node, "axes")
    if axes is not None:
        shape = rewriter.shapes[node.input[0]]
        for index, dtype, start in ((2, np.float32, [1.0] * len(shape)), (3, np.int64, list(shape))):
            name = _input(node, index)
            if not name:
                continue
            values = rewriter.values(name)
            if values is None:
                raise rewriter.refuse(node, "axes with a computed size")
            full = np.array(start, dtype)
            full[list(axes)] = values
            node.input[index] = rewriter.constant(node, full, dtype)
    _without(node, "antialias", "keep_aspect_ratio_policy", "axes")
    rewriter.nodes.append(node)


def _pooling(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    if any(size != 1 for size in attribute(node, "dilations", ())):
        raise rewriter.refuse(node, "dilation")
    rewriter.nodes.append(_without(node, "dilations"))


def _dropping(*names: str) -> Adapter:
    """For attributes that change nothing of 16-bit and wider floats."""
    return lambda rewriter, node: rewriter.nodes.append(_without(node, *names))


def _reshape(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    if attribute(node, "allowzero", 0):
        target = rewriter.values(node.input[1])
        if target is not None and (target != 0).all():
            _without(node, "allowzero")
        elif rewriter.target < 14:
            raise rewriter.refuse(node, "allowzero=1")
    rewriter.nodes.append(node)


# --- operators written out ------------------------------------------------------------------------------------


def _gelu(rewriter: Rewriter, node: onnx.NodeProto) -> None:
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


def _mish(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    gate = rewriter.emit("Tanh", [rewriter.emit("Softplus", node.input, node)], node)
    rewriter.close("Mul", [node.input[0], gate], node)


def _swish(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    alpha = rewriter.like(node, attribute(node, "alpha", 1.0))
    gate = rewriter.emit("Sigmoid", [rewriter.emit("Mul", [node.input[0], alpha], node)], node)
    rewriter.close("Mul", [node.input[0], gate], node)


def _hard_swish(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    gate = rewriter.emit("HardSigmoid", node.input, node, alpha=1 / 6, beta=0.5)
    rewriter.close("Mul", [node.input[0], gate], node)


def _layer_norm(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    if any(node.output[1:]):
        raise rewriter.refuse(node, "the mean or the deviation as an output")
    mean = _mean(rewriter, node, node.input[0])
    _by_deviation(rewriter, node, rewriter.emit("Sub", [node.input[0], mean], node), 1e-5)


def _rms_norm(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    _by_deviation(rewriter, node, node.input[0], 1e-5)


def _mean(rewriter: Rewriter, node: onnx.NodeProto, x: str) -> str:
    """The mean of `x` over the axes from the node's `axis` on, which stay as ones."""
    rank = len(rewriter.shapes[node.input[0]])
    axes = list(range(attribute(node, "axis", -1) % rank, rank))
    if rewriter.target < 18:
        return rewriter.emit("ReduceMean", [x], node, axes=axes, keepdims=1)
    return rewriter.emit("ReduceMean", [x, rewriter.constant(node, axes)], node, keepdims=1)


def _by_deviation(rewriter: Rewriter, node: onnx.NodeProto, x: str, epsilon: float) -> None:
    """x / √(mean x² + ε) · scale + bias, over the axes from `axis` on."""
    square = rewriter.emit("Mul", [x, x], node)
    mean = _mean(rewriter, node, square)
    above = rewriter.emit("Add", [mean, rewriter.like(node, attribute(node, "epsilon", epsilon))], node)
    normal = rewriter.emit("Div", [x, rewriter.emit("Sqrt", [above], node)], node)
    if not _input(node, 2):
        rewriter.close("Mul", [normal, node.input[1]], node)
        return
    rewriter.close("Add", [rewriter.emit("Mul", [normal, node.input[1]], node), node.input[2]], node)


def _group_norm(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Each group as one channel of an InstanceNormalization. (The operator of opset 18 is deprecated there.)"""
    shape, groups = rewriter.shapes[node.input[0]], attribute(node, "num_groups")
    joined = rewriter.emit("Reshape", [node.input[0], rewriter.constant(node, [0, groups, -1])], node)
    one, zero = rewriter.like(node, np.ones(groups)), rewriter.like(node, np.zeros(groups))
    epsilon = attribute(node, "epsilon", 1e-5)
    normal = rewriter.emit("InstanceNormalization", [joined, one, zero], node, epsilon=epsilon)
    apart = rewriter.emit("Reshape", [normal, rewriter.constant(node, [0, *shape[1:]])], node)
    along = [-1] + [1] * (len(shape) - 2)
    parameters = []
    for name in node.input[1:3]:
        values = rewriter.values(name)
        if values is None:
            raise rewriter.refuse(node, "a computed scale or bias")
        parameters.append(rewriter.like(node, values.reshape(along)))
    rewriter.close("Add", [rewriter.emit("Mul", [apart, parameters[0]], node), parameters[1]], node)


ALWAYS = 0
"""In place of a version: what is rewritten whatever the target, since the older form says the same."""

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
ADAPTERS: dict[tuple[str, int], Adapter] = {
    **{(f"Reduce{name}", 18): _reduction for name in _REDUCTIONS},
    ("Split", 18): _split,
    ("Pad", 18): _pad,
    ("Resize", 18): _resize,
    ("AveragePool", 19): _pooling,
    ("LpPool", 18): _pooling,
    ("Cast", 19): _dropping("saturate", "round_mode"),
    ("Cast", 24): _dropping("round_mode"),
    ("CastLike", 19): _dropping("saturate", "round_mode"),
    ("CastLike", 24): _dropping("round_mode"),
    ("Reshape", ALWAYS): _reshape,
    ("Gelu", 20): _gelu,
    ("Mish", 18): _mish,
    ("Swish", 24): _swish,
    ("HardSwish", 14): _hard_swish,
    ("LayerNormalization", 17): _layer_norm,
    ("RMSNormalization", 23): _rms_norm,
    ("GroupNormalization", 21): _group_norm,
}
