"""Small random networks for the engine's tests: one case a way of using an operator, and whole architectures.

`from nets import CASES, case` (tests/ is on pytest's path). Every network maps x (1, inputs) to y; an operator's case
puts it between two ReLU layers, so that bounds through it are not trivial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from secateur.formats import onnx_model
from secateur.formats.onnx_model import Model

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
        onnx.checker.check_model(proto)
        return onnx_model.from_proto(proto)


Build = Callable[[Net, str], str]


def _conv(kernel: Sequence[int], channels: tuple[int, int], groups: int = 1, **attributes: object) -> Build:
    def build(net: Net, v: str) -> str:
        weight = net.weight(channels[1], channels[0] // groups, *kernel)
        bias = net.weight(channels[1])
        return net("Conv", v, weight, bias, group=groups, **attributes)

    return build


def _deconv(kernel: Sequence[int], channels: tuple[int, int], groups: int = 1, **attributes: object) -> Build:
    def build(net: Net, v: str) -> str:
        weight = net.weight(channels[0], channels[1] // groups, *kernel)
        return net("ConvTranspose", v, weight, net.weight(channels[1]), group=groups, **attributes)

    return build


def _pool(kernel: Sequence[int], **attributes: object) -> Build:
    return lambda net, v: net("AveragePool", v, kernel_shape=list(kernel), **attributes)


def _normalisation(net: Net, v: str) -> str:
    variance = net.constant(net.random.uniform(0.2, 2.0, 2))
    return net("BatchNormalization", v, net.weight(2), net.weight(2), net.weight(2), variance, epsilon=1e-3)


def _split(equal: bool) -> Build:
    def build(net: Net, v: str) -> str:
        if equal:
            first = net("Split", v, outputs=2, axis=-1)
        else:
            first = net("Split", v, net.ints(1, 3, 2), outputs=3, axis=1)
        return net("Sub", first, first.replace("_0", "_1")) if equal else first.replace("_0", "_1")

    return build


def _flattened(net: Net, v: str) -> str:
    """Shape – Gather – Unsqueeze – Concat – Reshape, as exporters write x.view(x.size(0), -1)."""
    batch = net("Gather", net("Shape", v), net.constant(0, np.int64), axis=0)
    target = net("Concat", net("Unsqueeze", batch, net.ints(0)), net.ints(-1), axis=0)
    return net("Reshape", v, target)


def _both(join: Callable[[Net, str, str], str]) -> Build:
    """Two consumers of one value, joined again."""
    return lambda net, v: join(net, v, net.dense(v, 6, 6))


IMAGE, LINE, ROW = (1, 2, 4, 3), (1, 2, 6), (1, 6)

CASES: dict[str, tuple[tuple[int, ...], Build]] = {
    "Gemm": (ROW, lambda n, v: n("Gemm", v, n.weight(4, 6), n.weight(4), transB=1)),
    "Gemm scaled": (ROW, lambda n, v: n("Gemm", v, n.weight(6, 4), n.weight(1), alpha=0.3, beta=-1.7)),
    "Gemm without C": (ROW, lambda n, v: n("Gemm", v, n.weight(6, 4))),
    "Gemm matrix C": ((1, 6, 1), lambda n, v: n(
        "Gemm", n("Reshape", v, n.ints(2, 3)), n.weight(3, 4), n.weight(2, 4))),
    "Gemm column C": ((1, 6, 1), lambda n, v: n(
        "Gemm", n("Reshape", v, n.ints(2, 3)), n.weight(3, 2), n.weight(2, 1))),
    "Gemm transA": ((6, 1), lambda n, v: n("Gemm", v, n.weight(6, 4), n.weight(1, 4), transA=1)),
    "Gemm variable B": (ROW, lambda n, v: n("Gemm", n.weight(4, 6), v, n.weight(4, 1), transB=1)),
    "Gemm variable B transA": ((6, 1), lambda n, v: n("Gemm", n.weight(6, 3), v, n.weight(1), transA=1)),
    "MatMul": (ROW, lambda n, v: n("MatMul", v, n.weight(6, 4))),
    "MatMul left": ((1, 6, 1), lambda n, v: n("MatMul", n.weight(4, 6), v)),
    "MatMul vector": ((1, 2, 6), lambda n, v: n("MatMul", v, n.weight(6))),
    "MatMul batched": ((1, 2, 6), lambda n, v: n("MatMul", v, n.weight(6, 3))),
    "Conv": (IMAGE, _conv((2, 3), (2, 3), pads=[1, 1, 1, 1])),
    "Conv stride": (IMAGE, _conv((3, 3), (2, 2), strides=[2, 3], pads=[1, 1, 1, 1])),
    "Conv stride remainder": ((1, 2, 6, 5), _conv((1, 2), (2, 2), strides=[4, 2])),
    "Conv asymmetric": (IMAGE, _conv((2, 2), (2, 2), pads=[0, 1, 1, 0])),
    "Conv groups": (IMAGE, _conv((2, 2), (2, 4), groups=2)),
    "Conv dilation": ((1, 2, 5, 5), _conv((2, 3), (2, 1), dilations=[3, 2])),
    "Conv same upper": (IMAGE, _conv((2, 2), (2, 2), strides=[2, 2], auto_pad="SAME_UPPER")),
    "Conv same lower": (IMAGE, _conv((2, 2), (2, 2), strides=[1, 2], auto_pad="SAME_LOWER")),
    "Conv valid": (IMAGE, _conv((2, 2), (2, 2), auto_pad="VALID")),
    "Conv line": (LINE, _conv((3,), (2, 3), strides=[2], pads=[1, 1])),
    "Conv line asymmetric": (LINE, _conv((3,), (2, 2), pads=[0, 2], dilations=[2])),
    "ConvTranspose": (IMAGE, _deconv((2, 3), (2, 3))),
    "ConvTranspose stride": (IMAGE, _deconv((3, 3), (2, 2), strides=[2, 3], pads=[1, 1, 1, 1],
                                            output_padding=[1, 2])),
    "ConvTranspose groups": (IMAGE, _deconv((2, 2), (2, 4), groups=2)),
    "ConvTranspose dilation": (IMAGE, _deconv((2, 2), (2, 1), dilations=[2, 1])),
    "ConvTranspose line": (LINE, _deconv((3,), (2, 1), strides=[2], pads=[1, 1])),
    "BatchNormalization": (IMAGE, _normalisation),
    "BatchNormalization row": ((1, 2), _normalisation),
    "Add variables": (ROW, _both(lambda n, a, b: n("Add", a, b))),
    "Add itself": (ROW, lambda n, v: n("Add", v, v)),
    "Add constant": (IMAGE, lambda n, v: n("Add", v, n.weight(2, 1, 3))),
    "Add grows": ((1, 2, 1), lambda n, v: n("Add", n.weight(3, 1, 4), v)),
    "Add broadcasts variables": (ROW, lambda n, v: n("Add", n("Reshape", v, n.ints(6, 1)), v)),
    "Sub variables": (ROW, _both(lambda n, a, b: n("Sub", a, b))),
    "Sub itself": (ROW, lambda n, v: n("Sub", v, v)),
    "Sub constant": (ROW, lambda n, v: n("Sub", v, n.weight(6))),
    "Sub from constant": (ROW, lambda n, v: n("Sub", n.weight(1), v)),
    "Mul": (IMAGE, lambda n, v: n("Mul", v, n.weight(2, 1, 1))),
    "Mul left": (ROW, lambda n, v: n("Mul", n.constant(-0.7), v)),
    "Div": (ROW, lambda n, v: n("Div", v, n.constant([3, -7, 0.3, 1, 11, 0.01]))),
    "Neg": (ROW, lambda n, v: n("Neg", v)),
    "AveragePool": (IMAGE, _pool((2, 2))),
    "AveragePool padded": (IMAGE, _pool((3, 2), strides=[2, 1], pads=[1, 1, 1, 0])),
    "AveragePool counted": (IMAGE, _pool((3, 2), strides=[2, 1], pads=[1, 1, 1, 0], count_include_pad=1)),
    "AveragePool same": (IMAGE, _pool((2, 2), strides=[2, 2], auto_pad="SAME_UPPER")),
    "AveragePool line": (LINE, _pool((3,), strides=[2], pads=[1, 0])),
    "GlobalAveragePool": (IMAGE, lambda n, v: n("GlobalAveragePool", v)),
    "ReduceMean": (IMAGE, lambda n, v: n("ReduceMean", v, axes=[-1, 1], keepdims=0)),
    "ReduceMean all": (IMAGE, lambda n, v: n("ReduceMean", v)),
    "ReduceSum": (IMAGE, lambda n, v: n("ReduceSum", v, n.ints(2, 3))),
    "ReduceSum flat": (IMAGE, lambda n, v: n("ReduceSum", v, n.ints(1), keepdims=0)),
    "ReduceSum nothing": (ROW, lambda n, v: n("ReduceSum", v, noop_with_empty_axes=1)),
    "Concat": (ROW, _both(lambda n, a, b: n("Concat", b, a, b, axis=-1))),
    "Concat channels": (IMAGE, lambda n, v: n("Concat", v, n("Neg", v), axis=1)),
    "Split equal": ((1, 2, 4), _split(equal=True)),
    "Split listed": (ROW, _split(equal=False)),
    "Slice": (IMAGE, lambda n, v: n("Slice", v, n.ints(1, 0), n.ints(9, -1), n.ints(2, -1), n.ints(2, 1))),
    "Slice backwards": (ROW, lambda n, v: n("Slice", v, n.ints(-1), n.ints(-99), n.ints(1), n.ints(-2))),
    "Gather": (ROW, lambda n, v: n("Gather", v, n.ints(0, -1, 2, 2, 2), axis=1)),
    "Gather scalar": ((1, 3, 2), lambda n, v: n("Gather", v, n.constant(1, np.int64), axis=1)),
    "Pad": (IMAGE, lambda n, v: n("Pad", v, n.ints(0, 0, 1, 0, 0, 1, 0, 2))),
    "Transpose": (IMAGE, lambda n, v: n("Transpose", v, perm=[0, 2, 3, 1])),
    "Transpose default": ((1, 2, 3), lambda n, v: n("Transpose", v)),
    "Squeeze": ((1, 1, 6), lambda n, v: n("Squeeze", v, n.ints(-2))),
    "Squeeze all": ((1, 1, 6), lambda n, v: n("Squeeze", v)),
    "Unsqueeze": (ROW, lambda n, v: n("Unsqueeze", v, n.ints(-1, 1))),
    "Reshape": (IMAGE, lambda n, v: n("Reshape", v, n.ints(0, -1, 2))),
    "Flatten": (IMAGE, lambda n, v: n("Flatten", v, axis=-2)),
    "Flatten first": (IMAGE, lambda n, v: n("Flatten", v, axis=0)),
    "Expand": ((1, 2, 1), lambda n, v: n("Expand", v, n.ints(3, 1, 4))),
    "Shape": (IMAGE, _flattened),
    "Cast": (ROW, lambda n, v: n("Cast", n("Cast", v, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)),
    "Dropout": (ROW, lambda n, v: n("Dropout", v, n.constant(0.5))),
    "Identity": (ROW, lambda n, v: n("Identity", v)),
    "Relu twice": (ROW, lambda n, v: n("Relu", n("Relu", n("Neg", n("Relu", v))))),
    "Relu shared": (ROW, lambda n, v: n("Add", n("Relu", n.dense(v, 6, 6)), n("Relu", n("Neg", v)))),
    "Relu of input": (ROW, lambda n, v: n("Add", n("Relu", v), n("Gemm", n("Relu", "x"), n.weight(INPUTS, 6)))),
    "input again": (ROW, lambda n, v: n("Concat", "x", v, n("Neg", "x"), "x", axis=1)),
}  # fmt: skip


def case(name: str, seed: int = 0) -> Model:
    """The network of one case: dense – ReLU – the operator – ReLU – dense, two outputs."""
    shape, build = CASES[name]
    net = Net(seed)
    hidden = net("Relu", net.dense("x", INPUTS, int(np.prod(shape))))
    inner = build(net, net("Reshape", hidden, net.ints(*shape)))
    last = net("Reshape", net("Relu", inner), net.ints(1, -1))
    width = _size(net, last)
    return net.finish(net.dense(last, width, 2))


def case_operators() -> set[str]:
    """The operators on which the engine's rules are tried: those with an input that varies."""
    found: set[str] = set()
    for name in CASES:
        model = case(name)
        varying = {"x"}
        for node in model.graph.node:
            if varying & set(node.input):
                found.add(node.op_type)
                if node.op_type != "Shape":
                    varying.update(node.output)
    return found


def _size(net: Net, value: str) -> int:
    (output,) = net.finish(value).graph.output
    return int(np.prod([dimension.dim_value for dimension in output.type.tensor_type.shape.dim]))


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
    value = _conv((3, 3), (1, 2), pads=[1, 1, 1, 1])(net, image)
    value = net("Relu", _normalisation(net, value))
    value = net("Relu", net("Add", value, _conv((3, 3), (2, 2), pads=[1, 1, 1, 1])(net, value)))
    value = net("Flatten", net("AveragePool", value, kernel_shape=[2, 2], strides=[2, 2]))
    return net.finish(net.dense(value, 2 * (side // 2) ** 2, 3))


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
