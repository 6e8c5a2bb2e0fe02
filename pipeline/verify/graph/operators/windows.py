"""The windows of convolutions and pooling: paddings, and which places a window covers."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.pipeline.verify.graph.call import Call

Windows = list[list[int]]
"""For every output place along one axis the input places that its window covers."""


def paddings(
    call: Call, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The padding at the beginning and at the end of each spatial axis, `auto_pad` resolved."""
    spatial = len(kernel)
    mode = call.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
            for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
        ]
        return halves(total, larger_end=mode == "SAME_UPPER")
    pads = (call.integers("pads") if mode == "NOTSET" else None) or [0] * 2 * spatial
    return pads[:spatial], pads[spatial:]


def halves(total: Sequence[int], *, larger_end: bool) -> tuple[list[int], list[int]]:
    """A padding of each axis divided between its ends; what is odd goes to the end, or to the beginning."""
    small, large = [n // 2 for n in total], [n - n // 2 for n in total]
    return (small, large) if larger_end else (large, small)


def pooling_windows(call: Call) -> list[Windows]:
    """The windows of a pooling node, an axis each; places in the padding are left out."""
    kernel = call.integers("kernel_shape")
    if kernel is None or len(kernel) not in (1, 2):
        raise call.refuse("only one- and two-dimensional pooling is supported")
    size = call.shape()[2:]
    stride = call.integers("strides") or [1] * len(kernel)
    dilation = call.integers("dilations") or [1] * len(kernel)
    begin, end = paddings(call, size, kernel, stride, dilation)
    result = []
    for n, k, s, d, before, after in zip(size, kernel, stride, dilation, begin, end, strict=True):
        room = n + before + after - d * (k - 1) - 1
        count = (-(-room // s) if call.integer("ceil_mode", 0) else room // s) + 1
        starts = [
            i * s - before for i in range(count) if i * s - before < n
        ]  # none begins in the end's padding
        places = [[start + j * d for j in range(k) if 0 <= start + j * d < n] for start in starts]
        if not places or not all(places):
            raise call.refuse("a window lies in the padding alone")
        result.append(places)
    return result
