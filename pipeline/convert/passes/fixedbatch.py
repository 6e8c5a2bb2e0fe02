"""Pass (on request): a symbolic batch becomes a number.

Cases: the leading dimension of inputs, where it is a symbol or left open; every other dimension of the same
symbol, and the leading one of outputs. (onnx's `update_model_dims` wants every dimension of every value named.)
"""

from __future__ import annotations

import onnx


def check(model: onnx.ModelProto, size: int) -> str | None:
    """Why the pass has nothing to do, or None."""
    leads = [
        value.type.tensor_type.shape.dim[0] for value in _inputs(model) if value.type.tensor_type.shape.dim
    ]
    if any(_is_open(dim) for dim in leads):
        return None
    return (
        f"the batch is fixed to {leads[0].dim_value} already" if leads else "no input has a batch dimension"
    )


def rewrite(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """A copy for batches of `size`; shapes noted inside go."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    symbols = set()
    for value in _inputs(copy):
        for dim in list(value.type.tensor_type.shape.dim)[:1]:
            if _is_open(dim):
                symbols.add(dim.dim_param)
                dim.dim_value = size
    for value in (*_inputs(copy), *copy.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if _is_open(dim) and (axis == 0 or (dim.dim_param and dim.dim_param in symbols)):
                dim.dim_value = size
    return copy


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def _is_open(dim: onnx.TensorShapeProto.Dimension) -> bool:
    return bool(dim.WhichOneof("value") != "dim_value" or dim.dim_value <= 0)
