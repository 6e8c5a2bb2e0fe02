"""Pass: float64 and float16 become float32.

Cases: initializers, Constant nodes, ConstantOfShape, Cast and whatever else names a type; inputs and outputs.
Numbers that float32 cannot hold are refused. The result is not the same function: float64 loses digits, and
float16 no longer rounds as it did; how far they come apart on samples is reported.

onnxruntime's and onnxconverter-common's converters go to float16 only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from secateur.formats.errors import UnsupportedError
from secateur.pipeline import onnxgraph

_OTHERS = (TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPES = ("to", "dtype", "stash_type")


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    graphs = list(_graphs(model.graph))
    kinds = {tensor.data_type for graph in graphs for tensor in _tensors(graph)}
    kinds |= {value.type.tensor_type.elem_type for graph in graphs for value in _values(graph)}
    kinds |= {entry.i for graph in graphs for entry in _types(graph)}
    return None if kinds & set(_OTHERS) else "all floats are float32"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in float32.

    Raises:
        UnsupportedError: a number that float32 cannot hold.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in _graphs(copy.graph):
        for tensor in _tensors(graph):
            if tensor.data_type in _OTHERS:
                _narrow(tensor)
        for value in _values(graph):
            if value.type.tensor_type.elem_type in _OTHERS:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for entry in _types(graph):
            if entry.i in _OTHERS:
                entry.i = TensorProto.FLOAT
    return copy


def _narrow(tensor: onnx.TensorProto) -> None:
    wide = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    if not np.array_equal(np.isfinite(wide.astype(np.float64)), np.isfinite(narrow)):
        raise UnsupportedError(f"'{tensor.name}' has numbers beyond float32's ±3.4e38")
    tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for inner in onnxgraph.subgraphs(node):
            yield from _graphs(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from (entry.t for node in graph.node for entry in node.attribute if entry.HasField("t"))


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from (*graph.input, *graph.output, *graph.value_info)


def _types(graph: onnx.GraphProto) -> Iterator[onnx.AttributeProto]:
    """Attributes that name an element type."""
    yield from (
        entry
        for node in graph.node
        for entry in node.attribute
        if entry.name in _TYPES and entry.type == onnx.AttributeProto.INT
    )
