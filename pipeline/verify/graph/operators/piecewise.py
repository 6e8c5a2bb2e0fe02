"""Piecewise linear operators as sums of ReLUs: LeakyRelu, PRelu, Abs, Clip, Max, Min, max pooling and their like.

So they have the ReLU's relaxation and are split where ReLUs are. Of the sums that are equal in value, those are chosen
whose intervals are exact too: clip(x) = hi - relu(hi - max(x, lo)), not lo + relu(x - lo) - relu(x - hi).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from secateur.pipeline.verify.graph.call import Array, Call, Value
from secateur.pipeline.verify.graph.operators import parts
from secateur.pipeline.verify.graph.operators.reductions import reduction
from secateur.pipeline.verify.graph.operators.windows import Windows, pooling_windows

ENDLESS = float(np.finfo(np.float32).max)
"""How exporters write a limit that is none."""


def relu(call: Call) -> list[Value]:
    return [parts.relu(call, call.variable())]


def leaky_relu(call: Call) -> list[Value]:
    return [parts.leaky(call, call.variable(), call.number("alpha", float(np.float32(0.01))))]


def prelu(call: Call) -> list[Value]:
    slope = call.constant(1)
    assert slope is not None
    return [parts.leaky(call, call.variable(), slope)]


def absolute(call: Call) -> list[Value]:
    return [parts.leaky(call, call.variable(), -1.0)]


def clip(call: Call) -> list[Value]:
    """The limits are attributes before opset 11, then inputs; either may be missing."""
    low, high = (
        call.constant(position) if call.opset >= 11 else call.attributes.get(name)
        for position, name in ((1, "min"), (2, "max"))
    )
    return [
        _clipped(
            call,
            call.variable(),
            -np.inf if low is None else float(np.asarray(low).item()),
            np.inf if high is None else float(np.asarray(high).item()),
        )
    ]


def hard_sigmoid(call: Call) -> list[Value]:
    """clip(alpha·x + beta, 0, 1)."""
    alpha, beta = call.number("alpha", float(np.float32(0.2))), call.number("beta", 0.5)
    return [_clipped(call, parts.scaled(call, call.variable(), alpha, beta), 0.0, 1.0)]


def maximum(call: Call) -> list[Value]:
    return [_joined(call, parts.maximum, np.maximum)]


def minimum(call: Call) -> list[Value]:
    return [_joined(call, parts.minimum, np.minimum)]


def max_pool(call: Call) -> list[Value]:
    """The maximum of a window, axis by axis; padding counts as -∞ and is left out."""
    if len(call.node.output) > 1 and call.node.output[1]:
        raise call.refuse("the positions of the maxima are not supported")
    result = call.variable()
    for axis, windows in enumerate(pooling_windows(call), 2):
        result = _window_maximum(call, result, axis, windows)
    return [result]


def global_max_pool(call: Call) -> list[Value]:
    return [_largest(call, call.variable(), range(2, len(call.shape())), keep=True)]


def reduce_max(call: Call) -> list[Value]:
    axes, keep = reduction(call)
    return [_largest(call, call.variable(), axes, keep=keep)]


def reduce_min(call: Call) -> list[Value]:
    """-max(-x)."""
    axes, keep = reduction(call)
    return [parts.negated(call, _largest(call, parts.negated(call, call.variable()), axes, keep=keep))]


def _clipped(call: Call, source: int, low: float, high: float) -> int:
    """min(max(x, low), high), also where low > high."""
    if low > -ENDLESS:
        source = parts.maximum(call, np.array(low), source)
    if high < ENDLESS:
        source = parts.minimum(call, np.array(high), source)
    return source


def _joined(
    call: Call, join: Callable[[Call, Value, Value], int], constants: Callable[[Array, Array], Array]
) -> Value:
    """All operands joined: the variables pairwise, so that chains of ReLUs are short, and the constants last."""
    variables = [value for value in call.arguments if isinstance(value, int)]
    fixed = [value for value in call.arguments if value is not None and not isinstance(value, int)]
    while len(variables) > 1:
        pairs = zip(variables[::2], variables[1::2], strict=False)
        odd = variables[-1:] if len(variables) % 2 else []
        variables = [join(call, left, right) for left, right in pairs] + odd
    return join(call, reduce(constants, fixed), variables[0]) if fixed else variables[0]


def _largest(call: Call, source: int, axes: Sequence[int], *, keep: bool) -> int:
    """The maximum over `axes`."""
    shape = call.shape_of(source)
    flat = parts.flattened(call, source, axes)
    *rest, count = call.shape_of(flat)
    largest = _window_maximum(call, flat, len(rest), [list(range(count))])
    return parts.reshaped(call, largest, parts.reduced(shape, axes, keep=keep))


def _window_maximum(call: Call, source: int, axis: int, windows: Windows) -> int:
    """The maxima of the windows along one axis, by halving: max(a, b) = a + relu(b - a), each pair once."""
    while any(len(window) > 1 for window in windows):
        groups = [[tuple(window[i : i + 2]) for i in range(0, len(window), 2)] for window in windows]
        met = dict.fromkeys(group for window in groups for group in window)
        ordered = sorted(met, key=len, reverse=True)  # the pairs, then what is left over
        place = {group: number for number, group in enumerate(ordered)}
        firsts = parts.taken(call, source, axis, [group[0] for group in ordered])
        pairs = [group for group in ordered if len(group) == 2]
        others = parts.taken(call, source, axis, [second for _, second in pairs])
        same = parts.taken(call, source, axis, [first for first, _ in pairs])
        excess = parts.relu(call, parts.plus(call, others, same, -1.0))
        after = [0] * len(call.shape_of(source))
        after[axis] = len(ordered) - len(pairs)
        source = parts.plus(call, firsts, parts.padded(call, excess, [0] * len(after), after))
        windows = [[place[group] for group in window] for window in groups]
    return parts.taken(call, source, axis, [window[0] for window in windows])
