"""Affine operators, one case a way of using each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from cases.shared import IMAGE, LINE, ROW, Case, both
from nets import INPUTS, Build, Net, conv, normalisation


def _deconv(kernel: Sequence[int], channels: tuple[int, int], groups: int = 1, **attributes: object) -> Build:
    def build(net: Net, v: str) -> str:
        weight = net.weight(channels[0], channels[1] // groups, *kernel)
        return net("ConvTranspose", v, weight, net.weight(channels[1]), group=groups, **attributes)

    return build


def _pool(kernel: Sequence[int], **attributes: object) -> Build:
    return lambda net, v: net("AveragePool", v, kernel_shape=list(kernel), **attributes)


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


AFFINE: dict[str, Case] = {
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
    "Conv": (IMAGE, conv((2, 3), (2, 3), pads=[1, 1, 1, 1])),
    "Conv stride": (IMAGE, conv((3, 3), (2, 2), strides=[2, 3], pads=[1, 1, 1, 1])),
    "Conv stride remainder": ((1, 2, 6, 5), conv((1, 2), (2, 2), strides=[4, 2])),
    "Conv asymmetric": (IMAGE, conv((2, 2), (2, 2), pads=[0, 1, 1, 0])),
    "Conv groups": (IMAGE, conv((2, 2), (2, 4), groups=2)),
    "Conv dilation": ((1, 2, 5, 5), conv((2, 3), (2, 1), dilations=[3, 2])),
    "Conv same upper": (IMAGE, conv((2, 2), (2, 2), strides=[2, 2], auto_pad="SAME_UPPER")),
    "Conv same lower": (IMAGE, conv((2, 2), (2, 2), strides=[1, 2], auto_pad="SAME_LOWER")),
    "Conv patches": ((1, 2, 4, 6), conv((2, 3), (2, 3), strides=[2, 3])),
    "Conv patches remainder": ((1, 1, 5, 4), conv((2, 2), (1, 2), strides=[2, 2])),
    "Conv valid": (IMAGE, conv((2, 2), (2, 2), auto_pad="VALID")),
    "Conv line": (LINE, conv((3,), (2, 3), strides=[2], pads=[1, 1])),
    "Conv line asymmetric": (LINE, conv((3,), (2, 2), pads=[0, 2], dilations=[2])),
    "ConvTranspose": (IMAGE, _deconv((2, 3), (2, 3))),
    "ConvTranspose stride": (IMAGE, _deconv((3, 3), (2, 2), strides=[2, 3], pads=[1, 1, 1, 1],
                                            output_padding=[1, 2])),
    "ConvTranspose groups": (IMAGE, _deconv((2, 2), (2, 4), groups=2)),
    "ConvTranspose dilation": (IMAGE, _deconv((2, 2), (2, 1), dilations=[2, 1])),
    "ConvTranspose line": (LINE, _deconv((3,), (2, 1), strides=[2], pads=[1, 1])),
    "ConvTranspose same": (IMAGE, _deconv((3, 2), (2, 2), strides=[2, 2], auto_pad="SAME_UPPER")),
    "ConvTranspose same lower": (IMAGE, _deconv((2, 3), (2, 2), strides=[2, 2], auto_pad="SAME_LOWER")),
    "ConvTranspose sized": (IMAGE, _deconv((3, 3), (2, 1), strides=[2, 2], output_shape=[8, 6])),
    "ConvTranspose asymmetric": (IMAGE, _deconv((3, 3), (2, 1), pads=[0, 1, 1, 0])),
    "BatchNormalization": (IMAGE, normalisation),
    "BatchNormalization row": ((1, 2), normalisation),
    "Add variables": (ROW, both(lambda n, a, b: n("Add", a, b))),
    "Add itself": (ROW, lambda n, v: n("Add", v, v)),
    "Add constant": (IMAGE, lambda n, v: n("Add", v, n.weight(2, 1, 3))),
    "Add grows": ((1, 2, 1), lambda n, v: n("Add", n.weight(3, 1, 4), v)),
    "Add broadcasts variables": (ROW, lambda n, v: n("Add", n("Reshape", v, n.ints(6, 1)), v)),
    "Sub variables": (ROW, both(lambda n, a, b: n("Sub", a, b))),
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
    "Concat": (ROW, both(lambda n, a, b: n("Concat", b, a, b, axis=-1))),
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
