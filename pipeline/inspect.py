"""What is in a model: operators, shapes, parameters, zeros, cost, history; and, given a property, stable neurons."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from secateur.formats import onnx_model
from secateur.formats.errors import UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline import flops
from secateur.pipeline.flops import Cost
from secateur.pipeline.prune import layers
from secateur.pipeline.verify.results import LayerStability


@dataclass(frozen=True)
class Value:
    """A graph input or output: name, element type, and its dimensions (a number, or a symbol)."""

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Tensor:
    """An initializer. `channels` and `zero_channels` count the output channels (rows) of a layer's weight and
    those whose weights are all zero; None where it is no such weight."""

    name: str
    type: str
    shape: tuple[int, ...]
    elements: int
    zeros: int
    channels: int | None
    zero_channels: int | None


@dataclass(frozen=True)
class Inspection:
    """Everything `inspect` finds. `parameters` counts floating-point elements, `zeros` those that are 0; `cost` is
    what one sample takes (see `flops`), None where onnxruntime does not run the model; `stability` holds a ReLU
    layer's neurons on the property's input region."""

    name: str
    sha256: str
    bytes: int
    ir_version: int
    opsets: dict[str, int]
    producer: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operators: dict[str, int]
    parameters: int
    zeros: int
    cost: Cost | None
    tensors: tuple[Tensor, ...]
    provenance: list[dict[str, object]]
    stability: tuple[LayerStability, ...] | None

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """One fact a line, `key: …`, made to be read and to be searched."""
        share = self.zeros / self.parameters if self.parameters else 0.0
        opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in self.opsets.items())
        lines = [
            f"model: {self.name}, {self.bytes:,} bytes, sha256 {self.sha256}",
            f"format: IR {self.ir_version}, opset {opsets}"
            + (f", producer {self.producer}" if self.producer else ""),
        ]
        lines += [_value_line("input", value) for value in self.inputs]
        lines += [_value_line("output", value) for value in self.outputs]
        lines.append("operators: " + ", ".join(f"{name} {count}" for name, count in self.operators.items()))
        lines.append(f"parameters: {self.parameters:,}, zeros {self.zeros:,} ({share:.2%})")
        lines += [] if self.cost is None else self.cost.lines()
        for tensor in self.tensors:
            dims = "x".join(map(str, tensor.shape)) or "scalar"
            line = f"tensor: {tensor.name}, {tensor.type} {dims}"
            if tensor.elements:
                line += (
                    f", zeros {tensor.zeros:,} of {tensor.elements:,} ({tensor.zeros / tensor.elements:.2%})"
                )
            if tensor.channels:
                line += f", zero channels {tensor.zero_channels} of {tensor.channels}"
            lines.append(line)
        for step in self.provenance:
            lines.append(f"history: {step.get('command')} {step.get('arguments')}")
        for layer in self.stability or ():
            lines.append(
                f"neurons: {layer.name}, {layer.neurons} = {layer.active} stable active + {layer.inactive} stable "
                f"inactive + {layer.unstable} unstable"
            )
        return lines


def inspect(
    model: Model, query: Query | None = None, *, method: str = "crown", device: str = "cpu"
) -> Inspection:
    """Look at a model; with a query, also count stable neurons on its first input region by `method`'s bounds.

    Raises:
        InputError: the query does not fit the model.
        UnsupportedError: with a query, an operator that the engine does not know.
    """
    graph = model.graph
    try:
        axes = {layer.weight: layer.channel_axis for layer in layers.find(model.proto)}
    except UnsupportedError:  # quantised or sparse: no channels to show
        axes = {}
    tensors = tuple(_tensor(tensor, axes.get(tensor.name)) for tensor in graph.initializer)
    floats = [tensor for tensor in tensors if "float" in tensor.type or tensor.type == "double"]
    try:
        cost = flops.count(model)
    except UnsupportedError:  # it does not run: what is in it can be shown all the same
        cost = None
    operators = Counter(node.op_type for node in graph.node)
    return Inspection(
        name=model.name,
        sha256=model.sha256,
        bytes=model.proto.ByteSize(),
        ir_version=model.proto.ir_version,
        opsets={entry.domain: entry.version for entry in model.proto.opset_import},
        producer=f"{model.proto.producer_name} {model.proto.producer_version}".strip(),
        inputs=tuple(_value(value) for value in model.inputs),
        outputs=tuple(_value(value) for value in graph.output),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        parameters=sum(tensor.elements for tensor in floats),
        zeros=sum(tensor.zeros for tensor in floats),
        cost=cost,
        tensors=tensors,
        provenance=onnx_model.provenance(model.proto),
        stability=None if query is None else _stability(model, query, method, device),
    )


def _stability(model: Model, query: Query, method: str, device: str) -> tuple[LayerStability, ...]:
    from secateur.pipeline.verify import stability  # needs torch, which the rest does not

    return stability(model, query, method=method, device=device)


def _value(value: onnx.ValueInfoProto) -> Value:
    tensor = value.type.tensor_type
    dims = tuple(
        dim.dim_value if dim.WhichOneof("value") == "dim_value" else dim.dim_param or "?"
        for dim in tensor.shape.dim
    )
    return Value(value.name, onnx.TensorProto.DataType.Name(tensor.elem_type).lower(), dims)


def _tensor(tensor: onnx.TensorProto, axis: int | None) -> Tensor:
    array = numpy_helper.to_array(tensor)
    nonzero = array.astype(bool) if array.dtype.kind in "OSU" else array != 0
    channels = zero_channels = None
    if axis is not None:
        rows = np.moveaxis(nonzero, axis, 0).reshape(array.shape[axis], -1)
        channels, zero_channels = len(rows), int((~rows.any(axis=1)).sum())
    return Tensor(
        tensor.name,
        onnx.TensorProto.DataType.Name(tensor.data_type).lower(),
        tuple(tensor.dims),
        int(array.size),
        int(array.size - np.count_nonzero(nonzero)),
        channels,
        zero_channels,
    )


def _value_line(kind: str, value: Value) -> str:
    return f"{kind}: {value.name}, {value.type} [{', '.join(map(str, value.shape))}]"
