"""Conv and ConvTranspose with constant weights, over one or two spatial axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from secateur.pipeline.verify.graph.call import Array, Call, Value, tensor
from secateur.pipeline.verify.graph.operations import Convolution, Deconvolution, Dense
from secateur.pipeline.verify.graph.operators import parts
from secateur.pipeline.verify.graph.operators.windows import halves, paddings

if TYPE_CHECKING:
    from torch import Tensor


def conv(call: Call) -> list[Value]:
    weight, spatial = _weight(call)
    stride = call.integers("strides") or [1] * spatial
    dilation = call.integers("dilations") or [1] * spatial
    size = call.shape(0)[2:]
    begin, end = paddings(call, size, weight.shape[2:], stride, dilation)
    source = call.variable(0)
    plain = max(dilation) == 1 and call.integer("group", 1) == 1 and not any(begin) and not any(end)
    if (
        plain
        and spatial == 2
        and all(k == s > 1 and n % s == 0 for k, s, n in zip(weight.shape[2:], stride, size, strict=True))
    ):
        return [_patches(call, source, weight)]
    if begin != end:  # torch pads both sides alike: pad by hand
        source = parts.padded(call, source, [0, 0, *begin], [0, 0, *end])
        size = tuple(n + b + e for n, b, e in zip(size, begin, end, strict=True))
        begin = [0] * spatial
    operation = Convolution(
        tensor(weight),
        _bias(call),
        tuple(stride),
        tuple(begin),
        tuple(dilation),
        call.integer("group", 1),
        tuple(size),
    )
    return [call.emit(operation, source)]


def _patches(call: Call, source: int, weight: Array) -> int:
    """Windows side by side, as where an image is cut into patches: a product of matrices, which is much faster when
    transposed than a convolution."""
    count, channels, height, width = weight.shape
    *batch, _, rows, columns = call.shape_of(source)
    across, along = rows // height, columns // width
    cut = parts.reshaped(call, source, (*batch, channels, across, height, along, width))
    n = len(batch)
    ordered = parts.permuted(call, cut, [*range(n), *(n + axis for axis in (1, 3, 0, 2, 4))])
    flat = parts.reshaped(call, ordered, (*batch, across * along, channels * height * width))
    product = call.emit(Dense(tensor(weight.reshape(count, -1)), _bias(call)), flat)
    first = parts.permuted(call, product, [*range(n), n + 1, n])
    return parts.reshaped(call, first, (*batch, count, across, along))


def conv_transpose(call: Call) -> list[Value]:
    """What torch cannot crop (other padding at the end than at the beginning) is cropped afterwards."""
    weight, spatial = _weight(call)
    stride = call.integers("strides") or [1] * spatial
    dilation = call.integers("dilations") or [1] * spatial
    extra = call.integers("output_padding") or [0] * spatial
    full = [
        s * (n - 1) + e + (k - 1) * d + 1
        for n, s, e, k, d in zip(call.shape(0)[2:], stride, extra, weight.shape[2:], dilation, strict=True)
    ]
    begin, end = _cropping(call, full, stride)
    if min(begin + end) < 0:
        raise call.refuse("negative padding is not supported")
    alike = begin == end
    operation = Deconvolution(
        tensor(weight),
        _bias(call),
        tuple(stride),
        tuple(begin) if alike else (0,) * spatial,
        tuple(dilation),
        call.integer("group", 1),
        tuple(extra),
    )
    result = call.emit(operation, call.variable(0))
    if not alike:
        for axis, (size, first, last) in enumerate(zip(full, begin, end, strict=True), 2):
            result = parts.taken(call, result, axis, range(first, size - last))
    return [result]


def _cropping(call: Call, full: list[int], stride: list[int]) -> tuple[list[int], list[int]]:
    """How much of a transposed convolution's `full` output is cut off at the beginning and the end of each axis."""
    mode = call.text("auto_pad", "NOTSET")
    target = call.integers("output_shape")
    if target is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        target = [n * s for n, s in zip(call.shape(0)[2:], stride, strict=True)]
    if target is None:
        pads = (call.integers("pads") if mode == "NOTSET" else None) or [0] * 2 * len(full)
        return pads[: len(full)], pads[len(full) :]
    total = [max(0, n - wanted) for n, wanted in zip(full, target[-len(full) :], strict=True)]
    return halves(total, larger_end=mode == "SAME_UPPER")


def _weight(call: Call) -> tuple[Array, int]:
    """The constant weight, and how many spatial axes it has: one or two."""
    weight = call.constant(1)
    assert weight is not None
    spatial = weight.ndim - 2
    if spatial not in (1, 2):
        raise call.refuse(f"{spatial}-dimensional convolutions are not supported")
    if call.shape(0)[0] != 1:
        raise call.refuse("expected a batch of one")
    return weight, spatial


def _bias(call: Call) -> Tensor | None:
    bias = call.constant(2)
    return None if bias is None or not np.any(bias) else tensor(bias)
