"""Resize as matrix products, for the ways of resizing that older operators lack.

In every mode but `tf_crop_and_resize` a resized axis is a fixed linear map of the axis, one axis after the other. Its
matrix is what the node makes of the unit vectors.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from secateur.pipeline import onnxgraph, onnxrt
from secateur.pipeline.convert.passes.downward.rewriter import Rewriter, without
from secateur.pipeline.onnxgraph import attribute


def resized(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Products with a constant matrix along each axis that changes.

    Raises:
        UnsupportedError: a region of interest, a kept aspect ratio, or sizes that are computed.
    """
    how = attribute(node, "coordinate_transformation_mode", "half_pixel")
    if how == "tf_crop_and_resize" or attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise rewriter.refuse(node, f"{how} with a region or an aspect ratio")
    before = rewriter.shapes[node.input[0]]
    rank = len(before)
    axes = [axis % rank for axis in attribute(node, "axes", range(rank))]
    value, last = node.input[0], rank - 1
    for place, axis in enumerate(axes):
        matrix = _matrix(rewriter, node, place, before[axis])
        if matrix.shape[0] == matrix.shape[1] and (matrix == np.eye(len(matrix))).all():
            continue
        if axis == last - 1:
            value = rewriter.emit("MatMul", [rewriter.like(node, matrix.T), value], node)
            continue
        order = list(range(rank))
        order[axis], order[last] = last, axis
        if axis != last:
            value = rewriter.emit("Transpose", [value], node, perm=order)
        value = rewriter.emit("MatMul", [value, rewriter.like(node, matrix)], node)
        if axis != last:
            value = rewriter.emit("Transpose", [value], node, perm=order)
    rewriter.close("Identity", [value], node)


def _matrix(rewriter: Rewriter, node: onnx.NodeProto, place: int, size: int) -> NDArray[np.float32]:
    """[before, after] of one axis, by the node's own way of resizing; `place` is the axis' among those it resizes."""
    scales_first = len(node.input) == 2  # as it was before 11
    tensors = {"none": np.zeros(0, np.float32)}
    probe = onnx.NodeProto()
    probe.CopyFrom(without(node, "axes"))
    probe.input[0], probe.output[0] = "x", "y"
    for index in range(1, len(probe.input)):
        found = rewriter.known(node, index, "scales or sizes")
        probe.input[index] = "none"
        if found is not None and found.size and (scales_first or index > 1):
            same = 1.0 if index < 3 else size
            tensors[f"known{index}"] = np.array([1, 1, same, found.reshape(-1)[place]], found.dtype)
            probe.input[index] = f"known{index}"
    graph = helper.make_graph(
        [probe],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    version = onnxgraph.opset(rewriter.model)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    rows = onnxrt.run(model, np.eye(size, dtype=np.float32)[None])
    return np.asarray(rows, np.float32).reshape(size, -1)
