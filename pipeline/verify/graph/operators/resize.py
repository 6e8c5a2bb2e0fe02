"""Resize and Upsample: nearest moves numbers, linear and cubic interpolation are one matrix an axis."""

from __future__ import annotations

from collections.abc import Callable
from math import floor

import numpy as np
import torch

from secateur.pipeline.verify.graph.call import Call, Value
from secateur.pipeline.verify.graph.operators import parts
from secateur.pipeline.verify.graph.operators.moves import moved


def resize(call: Call) -> list[Value]:
    """With constant scales or sizes. How nearest rounds coordinates is taken from onnxruntime."""
    mode = call.text("mode", "nearest")
    if mode == "nearest":
        return moved(call)
    transformation = call.text(
        "coordinate_transformation_mode", "half_pixel" if call.opset >= 11 else "asymmetric"
    )
    if mode not in ("linear", "cubic") or transformation not in _COORDINATES:
        raise call.refuse(f"mode '{mode}' with coordinates '{transformation}' is not supported")
    if call.integer("antialias", 0) or call.integer("exclude_outside", 0):
        raise call.refuse("antialias and exclude_outside are not supported")
    result = call.variable()
    for axis, (source, target, scale) in enumerate(_sizes(call)):
        if (source, scale) == (target, 1.0):
            continue
        matrix = torch.zeros(target, source, dtype=torch.float64)
        for row in range(target):
            x = _COORDINATES[transformation](row, source, target, scale)
            if mode == "linear":
                x = min(max(x, 0.0), source - 1.0)
            for place, weight in _weights(call, mode, x):
                matrix[row, min(max(place, 0), source - 1)] += weight
        result = parts.along(call, result, axis, matrix)
    return [result]


def _sizes(call: Call) -> list[tuple[int, int, float]]:
    """For each axis its size before and after, and the scale."""
    shape = call.shape()
    if call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refuse("keep_aspect_ratio_policy is not supported")
    axes = [axis % len(shape) for axis in call.integers("axes") or range(len(shape))]
    sizes = call.constant(3)
    if sizes is not None and sizes.size:
        wanted = {axis: int(n) for axis, n in zip(axes, sizes.tolist(), strict=True)}
        return [(n, wanted.get(axis, n), wanted.get(axis, n) / n) for axis, n in enumerate(shape)]
    scales = call.constant(2 if call.opset >= 11 and call.node.op_type == "Resize" else 1)
    if scales is None:
        scales = np.array(call.attributes["scales"])
    factors = dict(zip(axes, (float(v) for v in scales), strict=True))
    return [(n, floor(n * factors.get(axis, 1.0)), factors.get(axis, 1.0)) for axis, n in enumerate(shape)]


def _weights(call: Call, mode: str, x: float) -> list[tuple[int, float]]:
    """The places that the value at coordinate x is made of, and their weights; the sum is 1."""
    first = floor(x)
    t = x - first
    if mode == "linear":
        return [(first, 1 - t), (first + 1, t)]
    a = call.number("cubic_coeff_a", -0.75)

    def near(d: float) -> float:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: float) -> float:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [(first - 1, far(1 + t)), (first, near(t)), (first + 1, near(1 - t)), (first + 2, far(2 - t))]


def _half_pixel(x: int, source: int, target: int, scale: float) -> float:
    return (x + 0.5) / scale - 0.5


def _symmetric(x: int, source: int, target: int, scale: float) -> float:
    return source / 2 * (1 - target / (scale * source)) + (x + 0.5) / scale - 0.5


def _pytorch(x: int, source: int, target: int, scale: float) -> float:
    return _half_pixel(x, source, target, scale) if target > 1 else 0.0


def _corners(x: int, source: int, target: int, scale: float) -> float:
    return x * (source - 1) / (target - 1) if target > 1 else 0.0


def _asymmetric(x: int, source: int, target: int, scale: float) -> float:
    return x / scale


_COORDINATES: dict[str, Callable[[int, int, int, float], float]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": _pytorch,
    "align_corners": _corners,
    "asymmetric": _asymmetric,
}
"""The coordinate in the input of an output's place: ONNX, Resize, `coordinate_transformation_mode`."""
