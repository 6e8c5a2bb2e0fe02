"""Small random networks for the engine's tests. Every network maps x (1, inputs) to y.

`from nets import mlp` (tests/ is on pytest's path). Networks of single operators are in `cases`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from secateur.formats import onnx_model
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt

INPUTS = 5


class Net:
    """A network under construction: `net("Relu", value)` adds a node and returns the name of its first output."""

    def __init__(self, seed: int, inputs: int = INPUTS) -> None:
        self.random = np.random.default_rng(seed)
        self.inputs = inputs
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.generic]] = {}

    def __call__(self, operator: str, *arguments: str, outputs: int = 1, **attributes: object) -> str:
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(
            helper.make_node(operator, list(arguments), names, f"n{len(self.nodes)}", **attributes)
        )
        return names[0]

    def constant(self, values: object, dtype: type[np.generic] = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.array(values, dtype)
        return name

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        """Random weights, about a third of them zero, as in a pruned network."""
        values = self.random.normal(size=shape) * scale / np.sqrt(max(1, np.prod(shape[1:])))
        return self.constant(values * (self.random.random(shape) < 0.7))

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def dense(self, value: str, width: int, following: int) -> str:
        product = self("MatMul", value, self.weight(width, following, scale=1.5))
        return self("Add", product, self.constant(self.random.normal(size=following) * 0.3))

    def finish(self, value: str, opset: int = 17) -> Model:
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, self.inputs])],
            [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        kind = proto.graph.output[0].type.tensor_type
        if not kind.HasField("shape"):  # some operators' shapes onnx cannot infer
            for size in onnxrt.value_shapes(proto)[value]:
                kind.shape.dim.add().dim_value = size
        onnx.checker.check_model(proto)
        return onnx_model.from_proto(proto)


Build = Callable[[Net, str], str]
"""Appends operators to a network: the name of their input → the name of their output."""


def conv(kernel: Sequence[int], channels: tuple[int, int], groups: int = 1, **attributes: object) -> Build:
    def build(net: Net, v: str) -> str:
        weight = net.weight(channels[1], channels[0] // groups, *kernel)
        bias = net.weight(channels[1])
        return net("Conv", v, weight, bias, group=groups, **attributes)

    return build


def normalisation(net: Net, v: str) -> str:
    variance = net.constant(net.random.uniform(0.2, 2.0, 2))
    return net("BatchNormalization", v, net.weight(2), net.weight(2), net.weight(2), variance, epsilon=1e-3)


def mlp(seed: int, inputs: int, widths: Sequence[int], outputs: int) -> Model:
    net = Net(seed, inputs)
    value, width = "x", inputs
    for following in widths:
        value, width = net("Relu", net.dense(value, width, following)), following
    return net.finish(net.dense(value, width, outputs))


def residual(seed: int, inputs: int, width: int, outputs: int) -> Model:
    """Two layers with a residual Add of ReLUs, and the input used once more at the end."""
    net = Net(seed, inputs)
    first = net("Relu", net.dense("x", inputs, width))
    second = net("Add", net("Relu", net.dense(first, width, width)), first)
    return net.finish(
        net("Add", net.dense(second, width, outputs), net("MatMul", "x", net.weight(inputs, outputs)))
    )


def convolutional(seed: int, side: int = 4) -> Model:
    """Normalisation – Conv – BatchNormalization – ReLU – residual Conv – ReLU – pool – dense, three outputs."""
    net = Net(seed, side * side)
    image = net("Reshape", "x", net.ints(1, 1, side, side))
    image = net("Div", net("Sub", image, net.constant([[[0.45]]])), net.constant([[[0.225]]]))
    value = conv((3, 3), (1, 2), pads=[1, 1, 1, 1])(net, image)
    value = net("Relu", normalisation(net, value))
    value = net("Relu", net("Add", value, conv((3, 3), (2, 2), pads=[1, 1, 1, 1])(net, value)))
    value = net("Flatten", net("AveragePool", value, kernel_shape=[2, 2], strides=[2, 2]))
    return net.finish(net.dense(value, 2 * (side // 2) ** 2, 3))


def residual_convolutional(seed: int, side: int = 4) -> Model:
    """Conv – ReLU – (Conv – ReLU – Conv, and a path around them) – ReLU – dense, two outputs."""
    net = Net(seed, side * side)
    value = conv((3, 3), (1, 2), pads=[1, 1, 1, 1])(net, net("Reshape", "x", net.ints(1, 1, side, side)))
    value = net("Relu", value)
    inner = net("Relu", conv((3, 3), (2, 2), pads=[1, 1, 1, 1])(net, value))
    value = net("Relu", net("Add", conv((3, 3), (2, 2), pads=[1, 1, 1, 1])(net, inner), value))
    return net.finish(net.dense(net("Flatten", value), 2 * side**2, 2))


def ending_in_relu(seed: int, inputs: int) -> Model:
    net = Net(seed, inputs)
    return net.finish(net("Relu", net.dense(net("Relu", net.dense("x", inputs, 4)), 4, 2)))


def starting_with_relu(seed: int, inputs: int) -> Model:
    """ReLUs directly on the input, beside another use of it."""
    net = Net(seed, inputs)
    both = net("Concat", net("Relu", "x"), net("Relu", net("Neg", "x")), "x", axis=1)
    return net.finish(net.dense(net("Relu", net.dense(both, 3 * inputs, 4)), 4, 2))


def without_relu(seed: int, inputs: int, outputs: int = 2) -> Model:
    net = Net(seed, inputs)
    return net.finish(net.dense("x", inputs, outputs))
