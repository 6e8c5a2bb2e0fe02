"""Pass (on request): BatchNormalization is folded into the layer in front of it.

Cases: Conv, ConvTranspose (ungrouped) or Gemm (C a vector) with constant parameters whose output only the
BatchNormalization reads. It is off by default because pruning by scale and stability training need the scales.
The folded weights are computed in float64 and rounded once.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from secateur.formats import onnx_model
from secateur.pipeline import onnxgraph
from secateur.pipeline.onnxgraph import attribute

_PARAMETERS = 5


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    return None if _foldable(model.graph) else "no BatchNormalization directly behind a layer of its own"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the foldable BatchNormalization nodes gone; layers make their outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    while pairs := _foldable(graph):
        layer, norm = pairs[0]
        _fold(copy, layer, norm)
        layer.output[0] = norm.output[0]
        onnxgraph.replace_nodes(graph, [node for node in graph.node if node is not norm])
    return copy


def _foldable(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    makers, uses = onnxgraph.producers(graph), onnxgraph.uses(graph)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found = []
    for norm in graph.node:
        layer = makers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if layer is None or uses[norm.input[0]] != 1 or attribute(norm, "training_mode", 0):
            continue
        if any(name not in shapes for name in [*norm.input[1:_PARAMETERS], *filter(None, layer.input[1:])]):
            continue
        if any(uses[name] for name in norm.output[1:]) or any(uses[name] != 1 for name in layer.input[1:3]):
            continue
        channels = shapes[norm.input[1]][0]
        conv = layer.op_type == "Conv" or (
            layer.op_type == "ConvTranspose" and attribute(layer, "group", 1) == 1
        )
        gemm = layer.op_type == "Gemm" and (
            len(layer.input) < 3 or not layer.input[2] or shapes[layer.input[2]] == (channels,)
        )
        if conv or gemm:
            found.append((layer, norm))
    return found


def _fold(model: onnx.ModelProto, layer: onnx.NodeProto, norm: onnx.NodeProto) -> None:
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    scale, shift, mean, variance = (arrays[name].astype(np.float64) for name in norm.input[1:_PARAMETERS])
    factor = scale / np.sqrt(variance + float(attribute(norm, "epsilon", 1e-5)))
    weight = arrays[layer.input[1]]
    axis = 0 if layer.op_type == "Conv" or attribute(layer, "transB", 0) else 1
    along = [-1 if i == axis else 1 for i in range(weight.ndim)]
    has_bias = len(layer.input) > 2 and bool(layer.input[2])
    bias: NDArray[np.float64] = (
        arrays[layer.input[2]].astype(np.float64) if has_bias else np.zeros(len(scale))
    )
    bias = (bias * float(attribute(layer, "beta", 1.0)) - mean) * factor + shift
    onnx_model.set_initializer(
        model, layer.input[1], (weight.astype(np.float64) * factor.reshape(along)).astype(weight.dtype)
    )
    if layer.op_type == "Gemm":
        onnxgraph.set_attribute(layer, "beta", 1.0)
    if has_bias:
        onnx_model.set_initializer(model, layer.input[2], bias.astype(weight.dtype))
        return
    name = onnxgraph.unused_name(model.graph, f"{layer.name or norm.output[0]}.bias")
    model.graph.initializer.append(numpy_helper.from_array(bias.astype(weight.dtype), name))
    del layer.input[2:]
    layer.input.append(name)
