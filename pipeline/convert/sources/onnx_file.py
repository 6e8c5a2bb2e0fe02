"""ONNX itself: any opset from 7 on, in any float type, with its data inside or in files beside it.

onnxruntime lacks some operators in float64 (Conv, for one). A model with such is read as float32, and held against what
onnx's reference implementation makes of it as it is.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from secateur.formats import onnx_model
from secateur.formats.errors import UnsupportedError
from secateur.pipeline import onnxrt
from secateur.pipeline.convert.passes import float32
from secateur.pipeline.convert.sources.source import Array, Content, Format, Function, Options, Source


def read(content: Content, options: Options) -> Source:
    """The checked model.

    Raises:
        InputError: malformed ONNX, or data that are not where it says.
    """
    model = onnx_model.from_bytes(content.data, content.name, content.folder)
    as_it_is = Source(model.proto, model.sha256, "onnx")
    if float32.check(model.proto) is not None:
        return as_it_is
    try:
        onnxrt.session(model)
    except UnsupportedError as error:
        reason = error.message
    else:
        return as_it_is
    narrow = float32.rewrite(model.proto)
    try:
        onnxrt.session(narrow)
    except UnsupportedError:
        return as_it_is  # the type is not what hinders onnxruntime
    note = f"read as float32, compared with onnx's reference implementation: {reason}"
    return Source(narrow, model.sha256, "onnx", _reference(model.proto), (note,))


FORMAT = Format("ONNX", lambda content: True, read)


def _reference(model: onnx.ModelProto) -> Function:
    """The model by onnx's own, slow implementation, sample by sample."""
    evaluator = ReferenceEvaluator(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    shapes = [[dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim] for value in inputs]
    types = [onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in inputs]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])

    def sample(row: Array) -> Array:
        parts = np.split(row, ends[:-1])
        feeds = {
            value.name: part.reshape(shape).astype(kind)
            for value, part, shape, kind in zip(inputs, parts, shapes, types, strict=True)
        }
        outputs = [np.asarray(output, np.float64).reshape(-1) for output in evaluator.run(None, feeds)]
        return np.concatenate(outputs)

    return lambda rows: np.stack([sample(row) for row in rows])
