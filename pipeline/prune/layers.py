"""Which initializers are prunable weights, and which axis of each is the output channel."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto

from secateur.formats.errors import UnsupportedError
from secateur.pipeline import onnxgraph
from secateur.pipeline.prune import views

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_QUANTISED = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm"}
_FLOATS = {TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64", TensorProto.FLOAT16: "float16"}


@dataclass(frozen=True)
class Layer:
    """A Conv, ConvTranspose, Gemm or MatMul with a constant weight of two or more dimensions.

    `weight` is an initializer; a Transpose or an Identity may lie between it and `weight_input`, the node's input that
    it comes by. `channel_axis` is the initializer's axis that runs over output channels (of one group, for a
    grouped ConvTranspose).
    """

    node: onnx.NodeProto
    weight: str
    weight_input: int
    channel_axis: int

    @property
    def name(self) -> str:
        name: str = self.node.name or self.node.output[0]
        return name


def find(model: onnx.ModelProto, where: str | None = None) -> list[Layer]:
    """The prunable layers in graph order.

    Raises:
        UnsupportedError: the model is quantised, or a weight is sparse or not a 16-, 32- or 64-bit float.
    """
    graph = model.graph
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise UnsupportedError(f"sparse initializer '{name}'", where=where, hint="store it dense first")
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    makers = onnxgraph.producers(graph)
    constants = views.find(graph)
    found = []
    for node in graph.node:
        if node.op_type in _QUANTISED:
            raise UnsupportedError(f"quantised model: {onnxgraph.label(node)}", where=where, hint=_FLOAT_HINT)
        if node.op_type not in OPERATORS:
            continue
        for index in (1, 0) if node.op_type == "MatMul" else (1,):
            name = node.input[index]
            maker = makers.get(name)
            if maker is not None and maker.op_type == "DequantizeLinear":
                raise UnsupportedError(
                    f"quantised weight '{name}' of {onnxgraph.label(node)}", where=where, hint=_FLOAT_HINT
                )
            constant = constants.get(name)
            tensor = tensors.get(constant.tensor) if constant is not None and constant.tensor else None
            if constant is None or tensor is None or len(tensor.dims) < 2 or -1 in constant.axes:
                continue
            if tensor.data_type not in _FLOATS:
                kind = TensorProto.DataType.Name(tensor.data_type).lower()
                raise UnsupportedError(
                    f"weight '{tensor.name}' is {kind}: expected {', '.join(_FLOATS.values())}", where=where
                )
            axis = constant.axes[_channel_axis(node, index, len(tensor.dims))]
            found.append(Layer(node, tensor.name, index, axis))
            break
    return found


_FLOAT_HINT = "prune the float model, then quantise"


def _channel_axis(node: onnx.NodeProto, index: int, rank: int) -> int:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if onnxgraph.attribute(node, "transB", 0) else 1
    return rank - 1 if index == 1 else rank - 2
