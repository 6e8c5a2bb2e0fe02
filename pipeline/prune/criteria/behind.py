"""What stands behind a layer: the normalisation and the activation that its output channels meet first."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

    from secateur.pipeline.prune.layers import Layer

    Readers = Mapping[str, Sequence[tuple[onnx.NodeProto, int]]]

_ACTIVATIONS = {
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Clip", "Softplus", "Softsign"),
    *("Sigmoid", "Tanh", "Erf", "HardSigmoid", "HardSwish", "Gelu", "Mish", "Swish"),
}
_GATES = {"Sigmoid", "Tanh", "Erf", "HardSigmoid"}
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Identity", "Dropout", "Cast"}
_POOLING = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}


@dataclass(frozen=True)
class Behind:
    """The first activation that a layer's channels reach, and the BatchNormalization nearest before it; None where
    there is none on the way. `axis` is where the channels lie in all values between. `relu` is the output of the
    activation, if that is a ReLU at least from below (see `relus`)."""

    activation: onnx.NodeProto | None
    batchnorm: onnx.NodeProto | None
    axis: int
    relu: str | None = None


def behind(model: onnx.ModelProto, layers: Sequence[Layer]) -> dict[str, Behind]:
    """What stands behind each layer, by weight. The way leads through normalisation, element-wise arithmetic (biases,
    residual additions) and pooling, which all keep channels where they are; the shortest way counts. The activation is
    the node that gives the activated value: of x·g(x), as exporters write Gelu and SiLU, the product.

    Raises:
        UnsupportedError: onnxruntime cannot run the model.
    """
    from secateur.pipeline import onnxgraph, onnxrt
    from secateur.pipeline.prune import views

    readers, shapes = onnxgraph.readers(model.graph), onnxrt.value_shapes(model)
    constants, found = views.find(model.graph), {}
    below = relus(model)
    for layer in layers:
        activation, batchnorm, axis = _follow(layer, readers, shapes)
        if activation is not None and activation.op_type in _GATES:
            activation = _product(activation, layer.node.output[0], readers, constants)
        relu = activation.output[0] if activation is not None and activation.output[0] in below else None
        found[layer.weight] = Behind(activation, batchnorm, axis, relu)
    return found


def relus(model: onnx.ModelProto) -> set[str]:
    """The outputs of Relu nodes, and of Clip nodes that begin at 0 (ReLU6), which are ReLUs up to their other end."""
    from onnx import numpy_helper

    from secateur.formats import onnx_model
    from secateur.pipeline import onnxgraph

    arrays = onnx_model.values(model)
    tensors = {node.output[0]: onnxgraph.constant_tensor(node) for node in model.graph.node if node.output}

    def begins(node: onnx.NodeProto) -> object:
        name = node.input[1] if len(node.input) > 1 else ""
        tensor = tensors.get(name)
        array = numpy_helper.to_array(tensor) if tensor is not None else arrays.get(name)
        return onnxgraph.attribute(node, "min") if array is None else array.item()

    return {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Relu" or (node.op_type == "Clip" and begins(node) == 0)
    }


def _follow(
    layer: Layer, readers: Readers, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[onnx.NodeProto | None, onnx.NodeProto | None, int]:
    """The first activation, the BatchNormalization nearest before it, and the axis of the channels."""
    start = layer.node.output[0]
    axis = 1
    if layer.node.op_type == "MatMul":
        axis = len(shapes[start]) - (1 if layer.weight_input == 1 else 2)
    frontier: deque[tuple[str, onnx.NodeProto | None]] = deque([(start, None)])
    seen, nearest = {start}, None
    while frontier:
        value, norm = frontier.popleft()
        nearest = nearest or norm
        for node, index in readers.get(value, ()):
            if index < 0 or not node.output:
                continue
            if node.op_type in _ACTIVATIONS and index == 0:
                return node, norm, axis
            after = node.output[0]
            normalises = node.op_type == "BatchNormalization" and index == 0 and axis == 1
            if not (normalises or node.op_type in _ELEMENTWISE | _POOLING) or after in seen:
                continue
            before, behind_it = shapes[value], shapes[after]
            if len(before) == len(behind_it) and before[axis] == behind_it[axis]:
                seen.add(after)
                frontier.append((after, node if normalises else norm))
    return None, nearest, axis


def _product(
    gate: onnx.NodeProto, start: str, readers: Readers, constants: Collection[str]
) -> onnx.NodeProto:
    """The Mul of a gate, moved and scaled by constants, with what it is a function of; the gate where there is none."""

    def reached(value: str) -> set[str]:
        """The value, and what normalisation and arithmetic with constants make of it."""
        found, frontier = {value}, [value]
        while frontier:
            for node, index in readers.get(frontier.pop(), ()):
                others = (name for place, name in enumerate(node.input) if name and place != index)
                plain = node.op_type in _ELEMENTWISE or node.op_type == "BatchNormalization"
                if index >= 0 and plain and all(name in constants for name in others):
                    frontier += {node.output[0]} - found
                    found.add(node.output[0])
        return found

    before, after = reached(start), reached(gate.output[0])
    for name in sorted(after):
        for node, _ in readers.get(name, ()):
            if node.op_type == "Mul" and any(other in before for other in node.input):
                return node
    return gate


def by_channel(layer: Layer, per_output: NDArray[np.float64], channels: int) -> NDArray[np.float64]:
    """Scores [outputs] of a layer's output channels as scores of its weight's `channels`.

    They differ for a grouped ConvTranspose alone, whose weight names one group's channels: the mean over groups.
    """
    return np.asarray(per_output.reshape(-1, channels).mean(axis=0))
