"""The checker's reading of ONNX files against onnxruntime, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from certificates import network
from factories import cnn
from nets import Build, Net, conv
from secateur.formats import onnx_model
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt
from secateur.pipeline.certificate.maps import Map
from secateur.pipeline.certificate.network import Affine
from secateur.pipeline.certificate.reading import read


def image(build: Build, channels: int = 2, side: int = 6) -> Model:
    net = Net(3, channels * side * side)
    return net.finish(build(net, net("Reshape", "x", net.ints(1, channels, side, side))))


def moved(net: Net, value: str) -> str:
    turned = net("Transpose", value, perm=[0, 2, 3, 1])
    sliced = net("Slice", turned, net.ints(0), net.ints(6), net.ints(2), net.ints(2))
    padded = net("Pad", sliced, net.ints(0, 1, 0, 0, 0, 0, 2, 0), net.constant(0.5))
    return net(
        "Squeeze",
        net("Gather", net("Unsqueeze", padded, net.ints(1)), net.ints(0, 2, 2), axis=3),
        net.ints(1),
    )


def arithmetic(net: Net, value: str) -> str:
    scaled = net("Mul", net.weight(2, 1, 1), net("Neg", value))
    return net("Sub", net("Add", net("Sub", net.constant([[[1.5]]]), scaled), value), net.weight(6))


def products(net: Net, value: str) -> str:
    left = net("MatMul", net.weight(4, 6), value)
    gemm = net("Gemm", net("Flatten", left), net.weight(5, 48), net.weight(5), transB=1, alpha=0.7, beta=1.3)
    column = net("Gemm", net("Reshape", value, net.ints(72, 1)), net.weight(72, 3), transA=1)
    return net("Concat", gemm, net("Dropout", column), net.constant([[0.25]]), axis=1)


def broadcast(net: Net, value: str) -> str:
    row = net("Reshape", value, net.ints(1, 1, 1, 72))
    return net("Add", net("Expand", row, net.ints(1, 1, 2, 72)), net.weight(1, 1, 2, 1))


BUILDS: dict[str, Build] = {
    "arithmetic": arithmetic,
    "division": lambda net, v: net("Div", v, net.constant([[[3.0]], [[0.7]]])),
    "moves": moved,
    "products": products,
    "broadcast": broadcast,
    "grouped convolution": conv((3, 2), (2, 4), groups=2, pads=[1, 0, 0, 1], strides=[2, 1]),
    "dilated convolution": conv((2, 2), (2, 3), dilations=[2, 3]),
    "same padding": conv((3, 3), (2, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
    "average": lambda net, v: net("AveragePool", v, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1]),
    "average with padding": lambda net, v: net(
        "AveragePool", v, kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "global average": lambda net, v: net("GlobalAveragePool", v),
}


def compare(model: Model) -> None:
    own = read(model)
    x = np.random.default_rng(1).normal(size=(3, own.sizes[0])).astype(np.float32)
    expected = np.concatenate(
        [onnxrt.run(model, row[None].reshape(onnxrt_shape(model))).reshape(1, -1) for row in x]
    )
    np.testing.assert_allclose(own.forward(x.astype(np.float64)), expected, rtol=1e-4, atol=1e-5)
    for node in own.nodes:
        for source, each in node.parts if isinstance(node, Affine) else ():
            adjoint(each, own.sizes[source], len(node.bias))  # type: ignore[union-attr]


def onnxrt_shape(model: Model) -> list[int]:
    return [max(1, d.dim_value) for d in model.inputs[0].type.tensor_type.shape.dim]


def adjoint(own: Map, inputs: int, outputs: int) -> None:
    """⟨a, Wx⟩ = ⟨aW, x⟩, for W and |W|, and |W| is no less than W anywhere."""
    random = np.random.default_rng(2)
    x, a = random.normal(size=(2, inputs)), random.normal(size=(2, outputs))
    for each in (own, own.absolute()):
        np.testing.assert_allclose(each.forward(x) @ a.T, x @ each.transposed(a).T, atol=1e-9)
    assert (own.absolute().forward(np.abs(x)) >= np.abs(own.forward(x)) - 1e-12).all()
    unit = np.eye(inputs)[:5]
    np.testing.assert_array_equal(own.absolute().forward(unit), np.abs(own.forward(unit)))


@pytest.mark.parametrize("name", BUILDS)
def test_operators_are_read_as_onnxruntime_does(name: str) -> None:
    compare(image(BUILDS[name]))


@pytest.mark.parametrize("seed", range(7))
def test_networks_are_read_as_onnxruntime_does(seed: int) -> None:
    compare(network(seed))


def test_a_convolutional_network_with_a_free_batch() -> None:
    compare(onnx_model.from_proto(cnn()))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda net, v: net("Tanh", v), "Tanh"),
        (lambda net, v: net("Mul", v, v), "Mul"),
        (lambda net, v: net("Div", net.weight(2, 1, 1), v), "Div"),
        (lambda net, v: net("MaxPool", v, kernel_shape=[2, 2]), "MaxPool"),
        (lambda net, v: net("AveragePool", v, kernel_shape=[4, 4], strides=[3, 3], ceil_mode=1), "ceil_mode"),
    ],
)
def test_what_is_not_affine_is_refused_by_name(build: Build, says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        read(image(build))


@pytest.mark.parametrize(
    ("build", "old", "new"),
    [
        (conv((3, 3), (2, 3)), [3, 2, 3, 3], [3, 1, 6, 3]),
        (lambda net, v: net("MatMul", v, net.weight(6, 4)), [6, 4], [3, 8]),
        (lambda net, v: net("Gemm", net("Flatten", v), net.weight(72, 4)), [72, 4], [36, 8]),
        (lambda net, v: net("Add", v, net.weight(6, 6)), [6, 6], [12, 3]),
    ],
)
def test_a_node_that_does_not_fit_is_named(build: Build, old: list[int], new: list[int]) -> None:
    """Not read as something else, whose sizes happen to fit."""
    proto = image(build).proto
    weight = next(tensor for tensor in proto.graph.initializer if list(tensor.dims) == old)
    weight.dims[:] = new
    with pytest.raises(InputError, match=r"node 'n\d+' \(\w+\) does not fit its inputs"):
        read(onnx_model.Model(proto, "", "net"))


def test_an_output_that_is_not_computed_is_named() -> None:
    net = Net(0, 4)
    net("Dropout", "x", outputs=2)
    model = net.finish(net.dense("x", 4, 2))
    model.proto.graph.node[-1].input[0] = model.proto.graph.node[0].output[1]
    with pytest.raises(UnsupportedError, match="an output that is not computed here"):
        read(model)
