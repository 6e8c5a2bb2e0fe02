"""Brightness: an image made brighter or darker by any s in [−b, b], all pixels alike, keeps its class.

VNN-LIB could say so with an equation a pixel, but verifiers work on boxes. So the shift becomes an input: layers in
front of the network make its input out of s and an image, and the property fixes the image (or leaves it ε) and bounds
s. What verifiers see is a network with 1 + n inputs, of which one varies, in operators that all of them know:

    X [1, 1 + n] ─ Split ─┬─ s [1, 1] ───┐
                          └─ image [1, n] ┴ Add ─ Relu ─ Sub(1, ·) ─ Relu ─ Sub(1, ·) ─ Reshape ─ Sub, Div ─ network

The two ReLUs clip to [0, 1] as saturated pixels do; Sub and Div normalise, where the network wants it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from secateur.formats import onnx_model
from secateur.formats.dataset import Dataset
from secateur.formats.errors import UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt
from secateur.pipeline.convert.passes import opset
from secateur.pipeline.properties import boxes
from secateur.pipeline.properties.boxes import Balls, Box, Pixels
from secateur.pipeline.properties.numbers import Number, at_least_zero, float32, in_name
from secateur.pipeline.properties.robustness import class_kept
from secateur.pipeline.properties.statements import PropertySet


def brightness(
    model: Model,
    data: Dataset,
    indices: Iterable[int],
    shift: Number,
    *,
    epsilon: Number = 0,
    only_correct: bool = True,
    mean: Sequence[Number] = (),
    std: Sequence[Number] = (),
) -> PropertySet:
    """Brightness properties, about one network with the shift as its first input, for all images the same.

    Args:
        shift: b, on raw pixels in [0, 1].
        epsilon: how far each pixel may go besides (raw, L∞).

    Raises:
        InputError: as `boxes.around`, a negative shift.
        CheckFailed: the network with the shift computes something else.
    """
    most = at_least_zero(shift, "the shift")
    pixels = Pixels(mean, std, data.images.shape[1:])
    shifted = with_shift(model, pixels)
    balls = boxes.around(model, data, indices, epsilon, only_correct=only_correct, mean=mean, std=std)
    raw = Pixels((), (), pixels.shape)
    reach = float32(most, up=True)
    found = []
    for box in balls.boxes:
        assert box.index is not None
        image = data.images[box.index].ravel()
        radius = at_least_zero(epsilon, "epsilon")
        ends = [(-reach, reach), *(raw.ends(p, radius, i) for i, p in enumerate(image.tolist()))]
        lower, upper = zip(*ends, strict=True)
        found.append(_shifted(box, lower, upper, image, in_name(most), in_name(most, "/")))
    return class_kept("brightness", shifted, Balls(tuple(found), balls.misclassified))


def _shifted(
    box: Box,
    lower: Sequence[Fraction],
    upper: Sequence[Fraction],
    image: NDArray[np.float32],
    called: str,
    said: str,
) -> Box:
    return replace(
        box,
        name=f"{box.name}_shift{called}",
        about=f"{box.about}; X_0 is a shift of all pixels by at most {said}, X_1 and following the image",
        lower=tuple(lower),
        upper=tuple(upper),
        centre=np.concatenate([np.zeros(1, np.float32), image]),
    )


def with_shift(model: Model, pixels: Pixels) -> Model:
    """The network of a shift and a raw image, [1, 1 + n]: it clips, normalises and goes on as `model` does.

    Compared in onnxruntime with `model` on shifted images.

    Raises:
        UnsupportedError: an input that is not of type float32.
        CheckFailed: they differ.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto if opset.current(model.proto) >= 13 else opset.rewrite(model.proto, 13))
    graph = proto.graph
    [value] = Model(proto, "", model.name).inputs
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise UnsupportedError(f"the input '{value.name}' is not of type float32", where=model.name)
    count, shape = onnxrt.count_inputs(model), list(onnxrt.input_shape(model))
    channels = (1, -1) + (1,) * (len(shape) - 2)
    made = {"one": np.ones(1, np.float32), "shape": np.array(shape), "parts": np.array([1, count])}
    chain = [
        helper.make_node(
            "Split", ["shift/X", "shift/parts"], ["shift/s", "shift/image"], "shift/split", axis=1
        ),
        helper.make_node("Add", ["shift/image", "shift/s"], ["shift/moved"], "shift/add"),
        helper.make_node("Relu", ["shift/moved"], ["shift/above0"], "shift/clip0"),
        helper.make_node("Sub", ["shift/one", "shift/above0"], ["shift/turned"], "shift/turn"),
        helper.make_node("Relu", ["shift/turned"], ["shift/below1"], "shift/clip1"),
        helper.make_node("Sub", ["shift/one", "shift/below1"], ["shift/raw"], "shift/back"),
    ]
    last = "shift/raw" if pixels.plain else "shift/shaped"
    chain.append(
        helper.make_node(
            "Reshape", ["shift/raw", "shift/shape"], [value.name if pixels.plain else last], "shift/reshape"
        )
    )
    if not pixels.plain:
        for name, numbers in (("mean", pixels.mean), ("std", pixels.std)):
            array = np.array([float(v) for v in numbers], np.float32)
            made[name] = array.reshape(channels) if len(shape) > 2 else array.repeat(count // len(array))
        chain.append(helper.make_node("Sub", ["shift/shaped", "shift/mean"], ["shift/centred"], "shift/sub"))
        chain.append(helper.make_node("Div", ["shift/centred", "shift/std"], [value.name], "shift/div"))
    nodes = [*chain, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(array, f"shift/{name}") for name, array in made.items())
    kept = [entry for entry in graph.input if entry.name != value.name]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("shift/X", onnx.TensorProto.FLOAT, [1, 1 + count]))
    graph.input.extend(kept)
    for entry in graph.output:
        if entry.type.tensor_type.shape.dim:
            entry.type.tensor_type.shape.dim[0].dim_value = 1
    stem = Path(model.name).name.removesuffix(".gz").removesuffix(".onnx")
    found = onnx_model.from_proto(proto, f"{stem}_shift.onnx")

    def expected(x: onnxrt.Array) -> onnxrt.Array:
        """Of shifts and images [N, 1 + n], as the model itself sees the shifted images."""
        raw = np.asarray(x, np.float32)
        moved = np.clip(raw[:, 1:] + raw[:, :1], 0, 1).reshape(len(raw), *pixels.shape)
        return onnxrt.run(model, pixels.normalised(moved))

    onnxrt.compare(expected, found)
    return found
