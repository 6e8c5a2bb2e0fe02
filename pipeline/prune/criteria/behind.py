"""What stands behind a layer: the normalisation and the activation that its output channels meet first."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

    from secateur.pipeline.prune.layers import Layer

_ACTIVATIONS = {
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Clip", "Softplus", "Softsign"),
    *("Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Gelu", "Mish", "Swish"),
}
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Identity", "Dropout", "Cast"}
_POOLING = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}


@dataclass(frozen=True)
class Behind:
    """The first activation that a layer's channels reach, and the BatchNormalization nearest before it; None where
    there is none on the way. `axis` is where the channels lie in all values between."""

    activation: onnx.NodeProto | None
    batchnorm: onnx.NodeProto | None
    axis: int

    @property
    def relu(self) -> str | None:
        """The output of the activation, if it is a Relu."""
        found = self.activation is not None and self.activation.op_type == "Relu"
        return self.activation.output[0] if found and self.activation is not None else None


def behind(model: onnx.ModelProto, layers: Sequence[Layer]) -> dict[str, Behind]:
    """What stands behind each layer, by weight. The way leads through normalisation, element-wise arithmetic (biases,
    residual additions) and pooling, which all keep channels where they are; the shortest way counts.

    Raises:
        UnsupportedError: onnxruntime cannot run the model.
    """
    from secateur.pipeline import onnxgraph, onnxrt

    readers, shapes = onnxgraph.readers(model.graph), onnxrt.value_shapes(model)
    return {layer.weight: _follow(layer, readers, shapes) for layer in layers}


def _follow(
    layer: Layer,
    readers: dict[str, list[tuple[onnx.NodeProto, int]]],
    shapes: dict[str, tuple[int, ...]],
) -> Behind:
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
                return Behind(node, norm, axis)
            after = node.output[0]
            normalises = node.op_type == "BatchNormalization" and index == 0 and axis == 1
            if not (normalises or node.op_type in _ELEMENTWISE | _POOLING) or after in seen:
                continue
            before, behind_it = shapes[value], shapes[after]
            if len(before) == len(behind_it) and before[axis] == behind_it[axis]:
                seen.add(after)
                frontier.append((after, node if normalises else norm))
    return Behind(None, nearest, axis)


def by_channel(layer: Layer, per_output: NDArray[np.float64], channels: int) -> NDArray[np.float64]:
    """Scores [outputs] of a layer's output channels as scores of its weight's `channels`.

    They differ for a grouped ConvTranspose alone, whose weight names one group's channels: the mean over groups.
    """
    return np.asarray(per_output.reshape(-1, channels).mean(axis=0))
