"""What a masked model must compute: the original whose graph multiplies its own weights by the mask.

It is built beside the rewrite that it judges, shares no tensor with it, and leaves the zeroing to onnxruntime (but that
of large weights).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from secateur.formats import onnx_model, onnx_parts
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model
from secateur.formats.onnx_parts import Array, Arrays
from secateur.pipeline import onnxgraph, onnxrt

TOLERANCE = 1e-4
"""Worst difference, relative to the largest output, in onnxruntime (which fuses the two graphs in different ways)."""


def judge(
    model: Model,
    mask: Mask,
    result: Model,
    *,
    seed: int = 0,
    real_inputs: NDArray[np.float32] | None = None,
) -> float:
    """The worst difference in onnxruntime between `result` and `model` with the mask in its graph, on random inputs and
    on `real_inputs` [N, …]: see `onnxrt.compare`.

    Raises:
        CheckFailed: it exceeds `TOLERANCE`.
        InputError: `real_inputs` have another number of elements.
        UnsupportedError: onnxruntime does not run the model.
    """
    expected = multiplied(model, mask)
    return onnxrt.compare(expected, result, seed=seed, tolerance=TOLERANCE, real_inputs=real_inputs)


def multiplied(model: Model, mask: Mask) -> Model:
    """The model with a Mul by the mask behind each initializer that the mask names. (Of a large model that would make
    all weights twice: those that lie apart are multiplied before they are fed.)"""
    graph, everything = model.light.graph, onnx_model.values(model)
    mark = "dense:"
    while any(name.startswith(mark) for name in onnxgraph.names(graph)):
        mark += ":"
    tensors: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for tensor in graph.initializer:
        keep, name = mask.tensors.get(tensor.name), tensor.name
        if keep is None or name in model.weights:
            tensors.append(tensor)
            continue
        dense, bits, factor = f"{mark}{name}", f"{mark}mask:{name}", f"{mark}factor:{name}"
        renamed = onnx.TensorProto()
        renamed.CopyFrom(tensor)
        renamed.name = dense
        tensors += [renamed, numpy_helper.from_array(np.ascontiguousarray(keep), bits)]
        nodes.append(helper.make_node("Cast", [bits], [factor], to=tensor.data_type))
        nodes.append(helper.make_node("Mul", [dense, factor], [name]))
    light = onnx_parts.with_initializers(model.light, tensors)
    made = {name for node in nodes for name in node.output}
    inputs = [value for value in graph.input if value.name not in made]
    del light.graph.input[:]
    light.graph.input.extend(inputs)
    light.ir_version = max(light.ir_version, 4)  # initializers need not be inputs
    onnxgraph.replace_nodes(light.graph, [*nodes, *light.graph.node])
    weights = {name: partial(_product, everything, name, mask.tensors.get(name)) for name in model.weights}
    return Model(light, "", model.name, onnx_parts.Lazy(weights))


def _product(arrays: Arrays, name: str, keep: NDArray[np.bool_] | None) -> Array:
    return arrays[name] if keep is None else arrays[name] * keep
