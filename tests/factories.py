"""Small ONNX models and properties to test with. `from factories import mlp` (tests/ is on pytest's path)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, Array],
    input_shape: Sequence[int | str],
    output_shape: Sequence[int | str],
    *,
    input_type: int = TensorProto.FLOAT,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model from `x` to `y` out of nodes and initializers, checked."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", input_type, list(input_shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(output_shape))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto


def mlp(sizes: Sequence[int], *, seed: int = 0, scale: float = 1.0) -> onnx.ModelProto:
    """Gemm and ReLU layers of the given widths, random weights: `mlp([4, 8, 3])` maps [N, 4] to [N, 3]."""
    random = np.random.default_rng(seed)
    nodes, constants, value = [], {}, "x"
    for layer, (width, following) in enumerate(pairwise(sizes)):
        last = layer == len(sizes) - 2
        weight, bias = f"fc{layer}.weight", f"fc{layer}.bias"
        constants[weight] = (random.normal(size=(following, width)) * scale / np.sqrt(width)).astype(
            np.float32
        )
        constants[bias] = (random.normal(size=following) * 0.1).astype(np.float32)
        result = "y" if last else f"fc{layer}"
        nodes.append(helper.make_node("Gemm", [value, weight, bias], [result], f"gemm{layer}", transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [result], [f"relu{layer}"], f"relu{layer}"))
            value = f"relu{layer}"
    return model(nodes, constants, ["N", sizes[0]], ["N", sizes[-1]])


def cnn(*, seed: int = 0, side: int = 8, channels: int = 4, classes: int = 3) -> onnx.ModelProto:
    """Conv – BatchNormalization – Relu – Conv – Relu – Flatten – Gemm on [N, 1, side, side]."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return (random.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)

    side_after = side // 4
    constants = {
        "conv0.weight": normal(channels, 1, 3, 3),
        "conv0.bias": normal(channels) * np.float32(0.1),
        "bn0.scale": random.uniform(0.5, 1.5, channels).astype(np.float32),
        "bn0.bias": normal(channels) * np.float32(0.1),
        "bn0.mean": normal(channels) * np.float32(0.1),
        "bn0.var": random.uniform(0.5, 1.5, channels).astype(np.float32),
        "conv1.weight": normal(2 * channels, channels, 3, 3),
        "conv1.bias": normal(2 * channels) * np.float32(0.1),
        "fc.weight": normal(classes, 2 * channels * side_after**2),
        "fc.bias": normal(classes) * np.float32(0.1),
    }
    conv = {"strides": [2, 2], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["x", "conv0.weight", "conv0.bias"], ["c0"], "conv0", **conv),
        helper.make_node(
            "BatchNormalization", ["c0", "bn0.scale", "bn0.bias", "bn0.mean", "bn0.var"], ["b0"], "bn0"
        ),
        helper.make_node("Relu", ["b0"], ["r0"], "relu0"),
        helper.make_node("Conv", ["r0", "conv1.weight", "conv1.bias"], ["c1"], "conv1", **conv),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Flatten", ["r1"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], "fc", transB=1),
    ]
    return model(nodes, constants, ["N", 1, side, side], ["N", classes])


def box_property(lower: Sequence[float], upper: Sequence[float], outputs: int, condition: str) -> str:
    """VNN-LIB 1.0 text: an input box and the assertion `condition` over Y_0 … ."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(outputs)]
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines += [f"(assert (>= X_{i} {low!r}))", f"(assert (<= X_{i} {high!r}))"]
    return "\n".join([*lines, f"(assert {condition})"]) + "\n"
