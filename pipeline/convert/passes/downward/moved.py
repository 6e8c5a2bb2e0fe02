"""Inputs that were attributes in older opsets, and ways of saying the same that older operators lack."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from secateur.pipeline import onnxgraph
from secateur.pipeline.convert.passes.downward.resizing import resized
from secateur.pipeline.convert.passes.downward.rewriter import Rewriter, optional, without
from secateur.pipeline.onnxgraph import attribute

# --- down to 13 -------------------------------------------------------------------------------------------------


def reduction(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """The axes as an attribute."""
    axes = rewriter.integers(node, 1, "axes")
    if not axes and attribute(node, "noop_with_empty_axes", 0):
        rewriter.close("Identity", node.input[:1], node)
        return
    without(node, "noop_with_empty_axes")
    del node.input[1:]
    if axes:
        onnxgraph.set_attribute(node, "axes", axes)
    rewriter.keep(node)


def split_in_parts(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """The sizes instead of the number of parts, of which the last may be smaller."""
    parts = attribute(node, "num_outputs")
    without(node, "num_outputs")
    if parts is not None:
        size = rewriter.shapes[node.input[0]][attribute(node, "axis", 0)]
        chunk = -(-size // parts)
        sizes = [chunk] * (parts - 1)
        node.input.append(rewriter.constant(node, [*sizes, size - sum(sizes)]))
    rewriter.keep(node)


def pad_axes(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """The pads of all axes."""
    axes = rewriter.integers(node, 3, "axes")
    if axes is not None:
        pads = rewriter.integers(node, 1, "pads") or []
        rank = rewriter.rank(node.input[0])
        full = np.zeros((2, rank), np.int64)
        full[:, [axis % rank for axis in axes]] = np.reshape(pads, (2, -1))
        node.input[1] = rewriter.constant(node, full.reshape(-1))
        del node.input[3:]
    rewriter.keep(node)


def pad_wrap(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    if attribute(node, "mode", "constant") == "wrap":
        raise rewriter.refuse(node, "mode 'wrap'")
    rewriter.keep(node)


def resize_symmetric(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """`half_pixel_symmetric` is `half_pixel` where the scaled sizes are whole."""
    if attribute(node, "coordinate_transformation_mode", "half_pixel") == "half_pixel_symmetric":
        before, after = rewriter.shapes[node.input[0]], rewriter.shapes[node.output[0]]
        axes = attribute(node, "axes", range(len(before)))
        scales = rewriter.known(node, 2, "scales")
        if scales is not None and any(after[a] != before[a] * s for a, s in zip(axes, scales, strict=True)):
            resized(rewriter, node)
            return
        onnxgraph.set_attribute(node, "coordinate_transformation_mode", "half_pixel")
    rewriter.keep(node)


def resize_axes(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """The scales or sizes of all axes."""
    if attribute(node, "antialias", 0):
        resized(rewriter, node)
        return
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise rewriter.refuse(node, "keep_aspect_ratio_policy")
    axes = attribute(node, "axes")
    if axes is not None:
        shape = rewriter.shapes[node.input[0]]
        for index, dtype, start in ((2, np.float32, [1.0] * len(shape)), (3, np.int64, list(shape))):
            if not optional(node, index):
                continue
            full = np.array(start, dtype)
            full[list(axes)] = np.asarray(rewriter.known(node, index, "sizes with axes"))
            node.input[index] = rewriter.constant(node, full, dtype)
    rewriter.keep(without(node, "antialias", "keep_aspect_ratio_policy", "axes"))


def pooling(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """No dilation, where all are 1."""
    if any(size != 1 for size in attribute(node, "dilations", ())):
        raise rewriter.refuse(node, "dilation")
    rewriter.keep(without(node, "dilations"))


def shape_part(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """A part of a shape, cut out of the whole."""
    start, end = attribute(node, "start", 0), attribute(node, "end")
    without(node, "start", "end")
    if not start and end is None:
        rewriter.keep(node)
        return
    whole = rewriter.emit("Shape", node.input, node)
    bounds = (start, np.iinfo(np.int64).max if end is None else end)
    rewriter.close("Slice", [whole, *(rewriter.constant(node, [bound]) for bound in bounds)], node)


def reshape(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """`allowzero` says nothing where the target has no zero."""
    if not attribute(node, "allowzero", 0) or _without_zero(rewriter, node.input[1]):
        without(node, "allowzero")
    elif rewriter.version < 14:
        raise rewriter.refuse(node, "allowzero=1")
    rewriter.keep(node)


def _without_zero(rewriter: Rewriter, name: str) -> bool:
    """Whether a target's entries are constants other than 0, and sizes of tensors, which are not empty."""
    values = rewriter.values(name)
    if values is not None:
        return bool((values != 0).all())
    maker = rewriter.makers.get(name)
    if maker is None or maker.op_type == "Shape":
        return maker is not None
    if maker.op_type in ("Gather", "Slice", "Squeeze", "Unsqueeze", "Cast", "Identity"):
        return _without_zero(rewriter, maker.input[0])
    return maker.op_type in ("Concat", "Mul") and all(_without_zero(rewriter, part) for part in maker.input)


# --- below 13 ---------------------------------------------------------------------------------------------------


def axes_attribute(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """The axes of Squeeze and Unsqueeze as an attribute."""
    axes = rewriter.integers(node, 1, "axes")
    del node.input[1:]
    if axes is not None:
        onnxgraph.set_attribute(node, "axes", axes)
    rewriter.keep(node)


def split_attribute(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """The sizes as an attribute."""
    sizes = rewriter.integers(node, 1, "sizes")
    del node.input[1:]
    if sizes is not None:
        onnxgraph.set_attribute(node, "split", sizes)
    rewriter.keep(node)


def softmax(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Before 13 all axes from `axis` on are one: the same for the last axis, to which another is moved."""
    rank = rewriter.rank(node.input[0])
    axis = attribute(node, "axis", -1) % rank
    onnxgraph.set_attribute(node, "axis", rank - 1)
    if axis == rank - 1:
        rewriter.keep(node)
        return
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    moved = rewriter.emit("Transpose", node.input, node, perm=order)
    rewriter.close("Transpose", [rewriter.emit(node.op_type, [moved], node, axis=rank - 1)], node, perm=order)


def resize_region(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Before 13 the region of interest is no optional input; nor are scales, which are empty beside sizes."""
    for index in (1, 2):
        if not optional(node, index):
            node.input.extend([""] * (index + 1 - len(node.input)))
            node.input[index] = rewriter.constant(node, [], np.float32)
    rewriter.keep(node)


def dropout(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """The ratio as an attribute; training has no older form."""
    training = rewriter.known(node, 2, "training mode")
    if training is not None and training.any():
        raise rewriter.refuse(node, "training mode")
    ratio = rewriter.known(node, 1, "ratio")
    del node.input[1:]
    without(node, "seed")
    if ratio is not None:
        onnxgraph.set_attribute(node, "ratio", float(ratio))
    rewriter.keep(node)


def initializer(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """A constant as an initializer: before 12 nodes hold tensors alone, before 9 floats alone."""
    tensor = onnxgraph.constant_tensor(node)
    if tensor is None:
        raise rewriter.refuse(node, f"attribute '{node.attribute[0].name}'")
    tensor.name = node.output[0]
    rewriter.model.graph.initializer.append(tensor)


# --- below 11 ---------------------------------------------------------------------------------------------------


def clip(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """The bounds as attributes."""
    bounds = {"min": rewriter.known(node, 1, "bounds"), "max": rewriter.known(node, 2, "bounds")}
    del node.input[1:]
    for name, value in bounds.items():
        if value is not None:
            onnxgraph.set_attribute(node, name, float(value.reshape(-1)[0]))
    rewriter.keep(node)


def pad_attributes(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Pads and value as attributes."""
    pads = rewriter.integers(node, 1, "pads")
    value = rewriter.known(node, 2, "value")
    del node.input[1:]
    onnxgraph.set_attribute(node, "pads", pads)
    if value is not None:
        onnxgraph.set_attribute(node, "value", float(value.reshape(-1)[0]))
    rewriter.keep(node)


def gemm_summand(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """C is no optional input."""
    if not optional(node, 2):
        del node.input[2:]
        node.input.append(rewriter.like(node, [0.0]))
    rewriter.keep(node)


def positive_axes(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Axes are counted from the front."""
    counted = node.output[0] if node.op_type == "Unsqueeze" else node.input[0]
    for name in ("axis", "axes"):
        found = attribute(node, name, 0)
        axes = [found] if isinstance(found, int) else list(found)
        if any(axis < 0 for axis in axes):
            axes = [axis % rewriter.rank(counted) for axis in axes]
            onnxgraph.set_attribute(node, name, axes[0] if isinstance(found, int) else axes)
    rewriter.keep(node)


def resize_scales(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Before 11 there are scales alone, and one way to place samples: asymmetric, the nearest below."""
    mode, before = attribute(node, "mode", "nearest"), rewriter.shapes[node.input[0]]
    placed = attribute(node, "coordinate_transformation_mode") == "asymmetric"
    rounding = "floor" if mode == "linear" else attribute(node, "nearest_mode")
    scales = None if optional(node, 3) else rewriter.known(node, 2, "scales")
    if scales is None or not placed or rounding != "floor":
        resized(rewriter, node)
    elif (np.floor(scales.astype(np.float64) * before) != rewriter.shapes[node.output[0]]).any():
        resized(rewriter, node)  # a rounded scale, by which older operators give one sample less
    else:
        rewriter.close("Resize", [node.input[0], node.input[2]], node, mode=mode)


# --- below 10 ---------------------------------------------------------------------------------------------------


def floor_pooling(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Sizes are rounded down, and nothing is dilated."""
    if attribute(node, "ceil_mode", 0):
        raise rewriter.refuse(node, "ceil_mode=1")
    pooling(rewriter, without(node, "ceil_mode"))


def slice_attributes(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Bounds and axes as attributes; steps have no older form."""
    steps = rewriter.integers(node, 4, "steps") or []
    if any(step != 1 for step in steps):
        raise rewriter.refuse(node, f"steps={steps}")
    rank = rewriter.rank(node.input[0])
    said = [rewriter.integers(node, index, "bounds") for index in (1, 2, 3)]
    starts, ends, axes = said
    if axes is None:
        axes = list(range(len(starts or [])))
    places = {"starts": starts, "ends": ends, "axes": [axis % rank for axis in axes]}
    rewriter.nodes.append(helper.make_node("Slice", node.input[:1], node.output, node.name, **places))


def upsample(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Resize to what is not smaller was Upsample."""
    scales = rewriter.known(node, 1, "scales")
    if (np.asarray(scales, np.float64) < 1).any():
        resized(rewriter, node)
    else:
        rewriter.close("Upsample", node.input, node, mode=attribute(node, "mode", "nearest"))


def upsample_attribute(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """The scales as an attribute."""
    scales = rewriter.known(node, 1, "scales")
    assert scales is not None
    places = [float(scale) for scale in scales.reshape(-1)]
    mode = attribute(node, "mode", "nearest")
    rewriter.close("Upsample", node.input[:1], node, mode=mode, scales=places)


# --- below 8 ----------------------------------------------------------------------------------------------------


def unbroadcast(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    """Max and Min take one shape."""
    if len({rewriter.shapes[name] for name in node.input}) > 1:
        raise rewriter.refuse(node, "inputs of different shapes")
    rewriter.keep(node)
