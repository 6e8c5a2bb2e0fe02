"""Where a layer's output channels go: the rules by which channels can be zeroed or removed together.

A layer's channels are followed from its output through every operator that keeps channels apart, to the layers
that read them. On the way every value has a *spread*: the axis that holds the channels, the channel of each
position along it (Flatten gives a channel many positions) and, where a position is constant, its value. Each
operator has one rule in `RULES` that maps the spread of its input to that of its output, and notes what goes
along: *slots* (per-channel parameters, such as those of BatchNormalization) and *readers* (layers' input axes).

Where a rule is missing or does not hold, the channels are *pinned*: left alone, for a reason with a name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from secateur.pipeline import onnxgraph, onnxrt
from secateur.pipeline.onnxgraph import attribute, label
from secateur.pipeline.prune import layers as prunable
from secateur.pipeline.prune.layers import Layer

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Spread:
    """How channels lie in a value: along `axis`, position p holds channel `channels[p]`; `values[p]` is the
    position's constant (float64), NaN where it depends on the input. Spatial dimensions share it."""

    axis: int
    channels: Indices
    values: Floats


@dataclass(frozen=True)
class Slot:
    """An initializer's axis that runs over the channels: position p belongs to channel `channels[p]`.

    `kills`: zeroing a channel here (in all its killing slots) makes its value exactly zero.
    """

    tensor: str
    axis: int
    channels: Indices
    kills: bool = False


@dataclass(frozen=True)
class Reader:
    """A layer that reads the channels: the node, its weight's input axis, the constants that arrive there."""

    node: onnx.NodeProto
    slot: Slot
    values: Floats


@dataclass
class Flow:
    """A layer's channels: how many, what goes with them, who reads them, and why they are pinned (or None).

    `unmixed`: they pass a layer that mixes another axis, so that they may still be outputs behind it.
    """

    layer: Layer
    size: int
    slots: list[Slot] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    reshapes: list[tuple[onnx.NodeProto, Spread]] = field(default_factory=list)
    spreads: dict[str, Spread] = field(default_factory=dict)
    pinned: str | None = None
    unmixed: bool = False

    def pin(self, reason: str) -> None:
        self.pinned = self.pinned or reason


class Pinned(Exception):
    """Raised by a rule that does not hold; says why."""


@dataclass
class Network:
    """The graph that flows are followed in, its initializers as arrays, and the shapes of a one-sample run."""

    graph: onnx.GraphProto
    arrays: dict[str, NDArray[np.generic]]
    shapes: dict[str, tuple[int, ...]]
    readers: dict[str, list[tuple[onnx.NodeProto, int]]]
    uses: Counter[str]

    @staticmethod
    def of(model: onnx.ModelProto) -> Network:
        """Raises UnsupportedError when onnxruntime cannot run the model."""
        graph = model.graph
        shapes = onnxrt.value_shapes(model)
        return Network(graph, prunable.values(model), shapes, onnxgraph.readers(graph), onnxgraph.uses(graph))


@dataclass(frozen=True)
class Step:
    """What a rule sees: the node, the input by which the channels come, and their spread there."""

    network: Network
    flow: Flow
    node: onnx.NodeProto
    index: int
    spread: Spread

    def constant(self, index: int) -> NDArray[np.generic] | None:
        if index >= len(self.node.input):
            return None
        return self.network.arrays.get(self.node.input[index])

    @property
    def shape(self) -> tuple[int, ...]:
        return self.network.shapes[self.node.input[self.index]]

    def require(self, holds: bool, reason: str) -> None:
        if not holds:
            raise Pinned(f"{reason} at {label(self.node)}")


Rule = Callable[[Step], Spread | None]


def follow(network: Network, layer: Layer) -> Flow:
    """Follow the layer's output channels through the graph; see the module's docstring."""
    flow, start = _begin(network, layer)
    outputs = {value.name for value in network.graph.output}
    frontier = [(layer.node.output[0], start)] if start is not None else []
    while frontier:
        value, spread = frontier.pop()
        flow.spreads[value] = spread
        if value in outputs:
            flow.pin("they are network outputs")
        for node, index in network.readers.get(value, ()):
            rule = RULES.get(node.op_type) if index >= 0 else None
            if rule is None:
                flow.pin(f"no rule for {label(node)}")
                continue
            if any(network.uses[name] for name in node.output[1:]):
                flow.pin(f"second output of {label(node)} is read")
            try:
                after = rule(Step(network, flow, node, index, spread))
            except Pinned as reason:
                flow.pin(str(reason))
                continue
            if after is not None:
                frontier.append((node.output[0], after))
    for slot in [*flow.slots, *(reader.slot for reader in flow.readers)]:
        if network.uses[slot.tensor] > 1:
            flow.pin(f"shared initializer '{slot.tensor}'")
    return flow


def _begin(network: Network, layer: Layer) -> tuple[Flow, Spread | None]:
    node, weight = layer.node, network.arrays[layer.weight]
    size = weight.shape[layer.channel_axis]
    flow, channels = Flow(layer, size), np.arange(size)
    flow.slots.append(Slot(layer.weight, layer.channel_axis, channels, kills=True))
    if size == 1:
        flow.pin("there is only one")
    if attribute(node, "group", 1) != 1:
        flow.pin(f"grouped convolution {label(node)}")
        if node.op_type == "ConvTranspose":
            return flow, None
    if node.op_type == "MatMul" and (layer.weight_input == 0 or weight.ndim != 2):
        flow.pin(f"the weight of {label(node)} is not a matrix on the right")
        return flow, None
    rows = np.moveaxis(weight, layer.channel_axis, 0).reshape(size, -1)
    bias = np.zeros(size)
    if len(node.input) > 2 and node.input[2]:
        constant = network.arrays.get(node.input[2])
        if constant is None:
            flow.pin(f"the bias of {label(node)} is computed")
            bias = np.full(size, np.nan)
        else:
            if constant.ndim and constant.shape[-1] == size and size > 1:
                flow.slots.append(Slot(node.input[2], constant.ndim - 1, channels, kills=True))
            bias = _vector(constant, constant.ndim - 1, size) * float(attribute(node, "beta", 1.0))
    values = np.where((rows == 0).all(axis=1), bias, np.nan)
    axis = len(network.shapes[node.output[0]]) - 1 if node.op_type == "MatMul" else 1
    return flow, Spread(axis, channels, values)


def _vector(constant: NDArray[np.generic], axis: int, size: int) -> Floats:
    """`constant` as one float64 value a position along `axis`; NaN where it varies along other axes too."""
    if constant.size == 1:
        return np.full(size, float(constant.reshape(())))
    if axis < 0 or constant.size != constant.shape[axis]:
        return np.full(size, np.nan)
    return constant.reshape(-1).astype(np.float64)


# --- rules ---------------------------------------------------------------------------------------------------


def _unary(function: Callable[[onnx.NodeProto, Floats], Floats]) -> Rule:
    def rule(step: Step) -> Spread:
        step.require(step.index == 0, "channels come by a parameter")
        with np.errstate(all="ignore"):
            return Spread(step.spread.axis, step.spread.channels, function(step.node, step.spread.values))

    return rule


def _leaky(node: onnx.NodeProto, x: Floats) -> Floats:
    return np.where(x < 0, float(attribute(node, "alpha", 0.01)) * x, x)


def _binary(function: Callable[[Floats, Floats], Floats], additive: bool) -> Rule:
    """Add, Sub, Mul, Div with a constant that broadcasts."""

    def rule(step: Step) -> Spread:
        spread, other = step.spread, step.node.input[1 - step.index]
        constant = step.constant(1 - step.index)
        if constant is None:
            raise Pinned(f"joins another branch at {label(step.node)}")
        axis = constant.ndim - (len(step.shape) - spread.axis)
        step.require(constant.ndim <= len(step.shape), "the constant adds dimensions")
        count = len(spread.channels)
        if axis >= 0 and constant.shape[axis] != 1:
            step.require(constant.shape[axis] == count, "the constant repeats channels")
            step.flow.slots.append(Slot(other, axis, spread.channels, kills=additive))
        vector = _vector(constant, axis, count)
        with np.errstate(all="ignore"):
            values = function(spread.values, vector) if step.index == 0 else function(vector, spread.values)
        if step.node.op_type == "Mul":
            values = np.where(vector == 0, 0.0, values)
        return Spread(spread.axis, spread.channels, values)

    return rule


def _batch_normalization(step: Step) -> Spread:
    spread = step.spread
    parameters = [step.constant(index) for index in range(1, 5)]
    step.require(step.index == 0 and spread.axis == 1, "channels are not on axis 1")
    step.require(not attribute(step.node, "training_mode", 0), "training mode")
    scale, shift, mean, variance = (None if p is None else p.astype(np.float64) for p in parameters)
    if scale is None or shift is None or mean is None or variance is None:
        raise Pinned(f"computed parameters at {label(step.node)}")
    for index, name in enumerate(step.node.input[1:5]):
        step.flow.slots.append(Slot(name, 0, spread.channels, kills=index < 2))
    epsilon = float(attribute(step.node, "epsilon", 1e-5))
    values = scale * (spread.values - mean) / np.sqrt(variance + epsilon) + shift
    return Spread(1, spread.channels, np.where(scale == 0, shift, values))


def _pool(step: Step) -> Spread:
    step.require(step.spread.axis == 1, "channels are not on axis 1")
    padded = any(attribute(step.node, "pads", ())) or attribute(step.node, "auto_pad", "NOTSET").startswith(
        "SAME"
    )
    values = step.spread.values
    if step.node.op_type == "AveragePool" and (padded or attribute(step.node, "ceil_mode", 0)):
        values = np.where(values == 0, 0.0, np.nan)  # the border mixes in zeros
    return Spread(1, step.spread.channels, values)


def _rearrange(step: Step) -> Spread:
    """Flatten, Reshape, Squeeze, Unsqueeze, Transpose: follow the position of every element."""
    step.require(step.index == 0, "channels come by a parameter")
    spread, before = step.spread, step.shape
    after = step.network.shapes[step.node.output[0]]
    grid = np.broadcast_to(
        np.arange(len(spread.channels)).reshape([-1 if i == spread.axis else 1 for i in range(len(before))]),
        before,
    )
    if step.node.op_type == "Transpose":
        grid = grid.transpose(attribute(step.node, "perm", list(range(len(before)))[::-1]))
    grid = grid.reshape(after)
    varying = [axis for axis in range(grid.ndim) if (grid != grid.take([0], axis)).any()]
    step.require(len(varying) == 1, "channels are spread over several axes")
    axis = varying[0]
    positions = np.moveaxis(grid, axis, 0).reshape(after[axis], -1)[:, 0]
    moved = Spread(axis, spread.channels[positions], spread.values[positions])
    if step.node.op_type == "Reshape":
        flatten = axis == 1 and len(after) == 2 and spread.axis == 1 and before[0] == after[0]
        step.require(
            step.constant(1) is not None or flatten, "the shape is computed and the result no flattening"
        )
        step.flow.reshapes.append((step.node, moved))
    return moved


def _layer(step: Step) -> None:
    """A layer that mixes the channels: the end of the flow."""
    node, spread, weight = step.node, step.spread, step.constant(1)
    if step.index != 0 or weight is None:
        raise Pinned(f"joins another branch at {label(node)}")
    mixed = len(step.shape) - 1 if node.op_type == "MatMul" else 1
    step.flow.unmixed |= spread.axis != mixed
    step.require(spread.axis == mixed, "another axis than the channels is mixed")
    step.require(attribute(node, "group", 1) == 1, "grouped convolution")
    if node.op_type == "MatMul":
        step.require(weight.ndim == 2, "the weight is not a matrix")
        axis = 0
    else:
        step.require(not attribute(node, "transA", 0), "transposed input")
        axis = {"Conv": 1, "ConvTranspose": 0}.get(node.op_type, 1 if attribute(node, "transB", 0) else 0)
    step.flow.readers.append(Reader(node, Slot(node.input[1], axis, spread.channels), spread.values))


def _shape(step: Step) -> None:
    """Shape, of which only the batch is used (as in x.view(x.size(0), -1))."""
    for node, index in step.network.readers.get(step.node.output[0], ()):
        chosen = step.network.arrays.get(node.input[1]) if node.op_type == "Gather" and index == 0 else None
        step.require(
            chosen is not None and chosen.size == 1 and int(chosen.reshape(())) == 0, "the shape is read"
        )


RULES: dict[str, Rule] = {
    "Relu": _unary(lambda _, x: np.maximum(x, 0)),
    "LeakyRelu": _unary(_leaky),
    "Sigmoid": _unary(lambda _, x: 1 / (1 + np.exp(-x))),
    "Tanh": _unary(lambda _, x: np.tanh(x)),
    "Identity": _unary(lambda _, x: x),
    "Dropout": _unary(lambda _, x: x),
    "Add": _binary(np.add, additive=True),
    "Sub": _binary(np.subtract, additive=True),
    "Mul": _binary(np.multiply, additive=False),
    "Div": _binary(np.divide, additive=False),
    "BatchNormalization": _batch_normalization,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalMaxPool": _pool,
    "GlobalAveragePool": _pool,
    "Flatten": _rearrange,
    "Reshape": _rearrange,
    "Squeeze": _rearrange,
    "Unsqueeze": _rearrange,
    "Transpose": _rearrange,
    "Conv": _layer,
    "ConvTranspose": _layer,
    "Gemm": _layer,
    "MatMul": _layer,
    "Shape": _shape,
}
