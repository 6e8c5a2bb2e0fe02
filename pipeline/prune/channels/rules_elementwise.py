"""Rules of the operators that keep channels apart: elementwise functions, normalisation, pooling, reductions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import erf

from secateur.pipeline.onnxgraph import label, set_attribute
from secateur.pipeline.prune.channels.call import Call, Combine, Rule
from secateur.pipeline.prune.channels.ledger import Floats, Indices, Reading, Role, Spread, Value


def unary(function: Callable[[Call, Floats], Floats], *, partial: bool = False) -> Rule:
    """A function of each element of the first input. `partial`: it is not finite everywhere, as the logarithm; then
    channels whose masked value it does not take stay (a zero weight behind them would not mask them)."""

    def rule(call: Call) -> list[Value]:
        for index in range(1, len(call.node.input)):
            call.pin(call.value(index), "a parameter of")
        value = tuple(spread.mapped(lambda x: function(call, x)) for spread in call.value(0))
        for before, after in zip(call.value(0), value, strict=True):
            if partial:
                bad = np.isfinite(before.masked) & ~np.isfinite(after.masked)
                call.ledger.pin(after.ids[bad], f"not finite when masked by {label(call.node)}")
        return [value]

    return rule


def unknown(call: Call, x: Floats) -> Floats:
    """A function whose constants are not followed."""
    return np.full_like(x, np.nan)


def leaky(call: Call, x: Floats) -> Floats:
    return np.where(x < 0, float(call.attribute("alpha", 0.01)) * x, x)


def elu(call: Call, x: Floats) -> Floats:
    return np.where(x < 0, float(call.attribute("alpha", 1.0)) * np.expm1(x), x)


def sigmoid(call: Call, x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def hard_sigmoid(call: Call, x: Floats) -> Floats:
    alpha, beta = (float(call.attribute(*given)) for given in (("alpha", 0.2), ("beta", 0.5)))
    return np.asarray(np.clip(alpha * x + beta, 0.0, 1.0))


def gelu(call: Call, x: Floats) -> Floats:
    if call.attribute("approximate", "none") == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + erf(x / np.sqrt(2))))


def clip(call: Call, x: Floats) -> Floats:
    """Bounds come by attributes (before opset 11) or by inputs."""
    bounds = []
    for index, name in ((1, "min"), (2, "max")):
        bound = call.array(index)
        if bound is None:
            bounds.append(np.nan if call.given(index) else call.attribute(name, None))
        else:
            bounds.append(float(bound.reshape(())))
    low, high = bounds
    if low is not None:
        x = np.where(np.isnan(low), np.nan, np.maximum(x, low))
    return x if high is None else np.where(np.isnan(high), np.nan, np.minimum(x, high))


def combining(combine: Combine, *roles: Role) -> Rule:
    """A function of several inputs position by position; `roles` of constant inputs, the last for all that follow."""

    def rule(call: Call) -> list[Value]:
        rank = len(call.result)
        operands = [
            call.operand(index, rank, roles[min(index, len(roles) - 1)])
            for index in range(len(call.node.input))
        ]
        return [call.join(operands, call.result, combine)]

    return rule


def product(a: Floats, b: Floats) -> Floats:
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def division(call: Call) -> list[Value]:
    """A quotient whose divisor is live must not become one of zeros when masked."""
    rank = len(call.result)
    operands = [call.operand(0, rank), call.operand(1, rank, "fixed")]
    for spread in operands[1].spreads:
        call.ledger.pin(
            spread.ids[spread.masked == 0], f"they divide by zero when masked: {label(call.node)}"
        )
    return [call.join(operands, call.result, np.divide)]


def slope(x: Floats, factor: Floats) -> Floats:
    """PRelu."""
    return np.where(x < 0, factor * x, x)


def chosen(condition: Floats, a: Floats, b: Floats) -> Floats:
    """Where: known when both choices are the same."""
    return np.where(a == b, a, np.nan)


def unfollowed(*parts: Floats) -> Floats:
    """A result whose constants are not followed."""
    return np.full(np.broadcast_shapes(*(part.shape for part in parts)), np.nan)


def folded(pairwise: Combine) -> Combine:
    def combine(*parts: Floats) -> Floats:
        result = parts[0]
        for part in parts[1:]:
            result = pairwise(result, part)
        return result

    return combine


def batch_normalization(call: Call) -> list[Value]:
    spread = call.at(call.value(0), 1)
    rest = tuple(s for s in call.value(0) if 1 not in s.axes)
    if call.attribute("training_mode", 0):
        return call.refuse("training mode of")
    if spread is None:
        return [rest]
    size = len(spread.ids)
    if any(call.array(index) is None for index in range(1, 5)):
        return call.refuse("computed parameters of")
    scale, shift, mean, variance = (call.vector(index, 0, size) for index in range(1, 5))
    roles = [call.slot(index, 0, spread.ids, "parameter").role for index in (1, 2)]
    for index in (3, 4):
        call.slot(index, 0, spread.ids, "fixed")
    deviation = np.sqrt(variance + float(call.attribute("epsilon", 1e-5)))

    def normalise(x: Floats, scale: Floats, shift: Floats) -> Floats:
        return np.where(scale == 0, shift, scale * (x - mean) / deviation + shift)

    zeroed = [
        np.zeros(size) if role == "parameter" else v for role, v in zip(roles, (scale, shift), strict=True)
    ]
    after = Spread((1,), spread.ids, normalise(spread.now, scale, shift), normalise(spread.masked, *zeroed))
    return [(after, *rest)]


def _channels(call: Call) -> tuple[Spread | None, Value]:
    """The channels of a value that is normalised over its spatial axes, and what else of it can shrink."""
    value = call.without(call.value(0), range(2, len(call.shape(0))), "normalised over by")
    return call.at(value, 1), tuple(s for s in value if 1 not in s.axes)


def instance_normalization(call: Call) -> list[Value]:
    """Normalises over the spatial axes, each channel by itself."""
    spread, rest = _channels(call)
    if spread is None:
        return [rest]
    if call.array(1) is None or call.array(2) is None:
        return call.refuse("computed parameters of")
    return [(_affine(call, spread, spread.ids, spread.ids), *rest)]


def group_normalization(call: Call) -> list[Value]:
    """Normalises over each group of channels and the spatial axes: whole groups go."""
    spread, rest = _channels(call)
    if spread is None:
        return [rest]
    if call.array(1) is None or call.array(2) is None:
        return call.refuse("computed parameters of")
    groups = int(call.attribute("num_groups"))
    each = call.ledger.unite_along(spread.ids.reshape(groups, -1), 1)
    call.ledger.fix(
        call.place, lambda edit, node: set_attribute(node, "num_groups", int(edit.keep(each).sum()))
    )
    grouped = call.network.opset < 21  # where the parameters are a group's
    return [(_affine(call, spread, each if grouped else spread.ids, spread.ids), *rest)]


def _affine(call: Call, spread: Spread, parameters: Indices, ids: Indices) -> Spread:
    """What scale and shift (inputs 1 and 2, over the ids `parameters`) make of normalised values."""
    size, repeats = len(parameters), len(ids) // len(parameters)
    scale, shift = (np.repeat(call.vector(index, 0, size), repeats) for index in (1, 2))
    roles = [call.slot(index, 0, parameters, "parameter").role for index in (1, 2)]
    now = np.where((scale == 0) | (spread.now == 0), shift, np.nan)
    known = (scale == 0) | (spread.masked == 0) | (roles[0] == "parameter")
    masked = np.where(known, np.zeros(len(ids)) if roles[1] == "parameter" else shift, np.nan)
    return Spread((1,), ids, now, masked)


def along_axis(name: str = "axis", default: int = -1, *, to_end: bool = False) -> Rule:
    """An operator that mixes one axis (Softmax), or all axes from one on (LayerNormalization), which cannot shrink."""

    def rule(call: Call) -> list[Value]:
        rank = len(call.result)
        old = call.network.opset < 13 and not to_end  # then Softmax flattened from its axis on
        first = int(call.attribute(name, 1 if old else default)) % rank
        axes = range(first, rank) if to_end or old else [first]
        value = call.without(call.value(0), axes, "normalised over by")
        for index in range(1, len(call.node.input)):
            call.pin(call.value(index), "a parameter of")
        return [tuple(spread.mapped(lambda x: unknown(call, x)) for spread in value)]

    return rule


def pool(call: Call) -> list[Value]:
    """Pooling over the spatial axes. Padding mixes zeros into averages at the border."""
    value = call.without(call.value(0), range(2, len(call.shape(0))), "pooled over by")
    border = call.node.op_type == "AveragePool" and (padded(call) or call.attribute("ceil_mode", 0))
    if border or call.node.op_type in ("LpPool", "GlobalLpPool"):
        value = tuple(spread.mapped(lambda x: np.where(x == 0, 0.0, np.nan)) for spread in value)
    if any(call.network.uses[name] for name in call.node.output[1:] if name):
        call.pin(value, "positions are read from")
    return [value]


def padded(call: Call) -> bool:
    return any(call.attribute("pads", ())) or str(call.attribute("auto_pad", "NOTSET")).startswith("SAME")


def reduction(kind: str) -> Rule:
    """Reductions: `sum` over channels reads them (a zero adds nothing); others cannot do without a channel."""

    def rule(call: Call) -> list[Value]:
        rank = len(call.shape(0))
        axes = _axes(call)
        if axes is None:
            return call.refuse("computed axes of")
        if not axes and call.attribute("noop_with_empty_axes", 0):
            return [call.value(0)]
        reduced = sorted({axis % rank for axis in axes}) or list(range(rank))
        keep = bool(call.attribute("keepdims", 1))
        after = []
        for spread in call.value(0):
            for axis in [a for a in reduced if a in spread.axes]:
                if len(spread.axes) > 1:
                    spread = call.drop(spread, axis)
                elif kind == "sum":
                    _summed(call, spread)
                else:
                    call.pin(spread, "reduced over by")
            if not set(spread.axes) & set(reduced):
                new = tuple(a if keep else a - sum(r < a for r in reduced) for a in spread.axes)
                after.append(spread.moved(new).mapped(_reduced(kind)))
        return [tuple(after)]

    return rule


def _reduced(kind: str) -> Callable[[Floats], Floats]:
    """What a reduction over other axes makes of constants."""
    if kind == "mean":
        return lambda x: x
    if kind == "sum":
        return lambda x: np.where(x == 0, 0.0, np.nan)
    return lambda x: np.full_like(x, np.nan)


def _summed(call: Call, spread: Spread) -> None:
    call.ledger.pin(spread.ids[spread.masked != 0], f"they are not zero when masked at {label(call.node)}")
    call.ledger.readings.append(Reading(call.place, None, spread.ids, spread.now))


def _axes(call: Call) -> list[int] | None:
    if not call.given(1):
        return [int(axis) for axis in call.attribute("axes", ())]
    axes = call.array(1)
    return None if axes is None else [int(axis) for axis in axes]
