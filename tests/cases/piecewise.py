"""Piecewise linear operators and what is affine beside them: one case a way of using each."""

from __future__ import annotations

from cases.shared import IMAGE, LINE, ROW, Case, both
from nets import Build, Net


def _pool(kernel: tuple[int, ...], operator: str = "MaxPool", **attributes: object) -> Build:
    return lambda net, v: net(
        operator, net("Sub", v, net.constant(0.5)), kernel_shape=list(kernel), **attributes
    )


def _signed(operator: str, **attributes: object) -> Build:
    """The operator on numbers of both signs."""
    return lambda net, v: net(operator, net.dense(v, 6, 5), **attributes)


def _clip(low: float | None, high: float | None) -> Build:
    def build(net: Net, v: str) -> str:
        limits = ["" if limit is None else net.constant(limit) for limit in (low, high)]
        return net("Clip", net.dense(v, 6, 5), *limits)

    return build


PIECEWISE: dict[str, Case] = {
    "Abs": (ROW, _signed("Abs")),
    "LeakyRelu": (ROW, _signed("LeakyRelu", alpha=0.1)),
    "LeakyRelu default": (ROW, _signed("LeakyRelu")),
    "LeakyRelu negative": (ROW, _signed("LeakyRelu", alpha=-0.5)),
    "PRelu": (IMAGE, lambda n, v: n("PRelu", n("Sub", v, n.constant(0.4)), n.weight(2, 1, 1))),
    "PRelu number": (ROW, lambda n, v: n("PRelu", n.dense(v, 6, 5), n.constant([0.3]))),
    "Clip": (ROW, _clip(-0.3, 0.6)),
    "Clip from below": (ROW, _clip(0.2, None)),
    "Clip from above": (ROW, _clip(None, 0.2)),
    "Clip not": (ROW, _clip(None, None)),
    "Clip opset 10": (ROW, lambda n, v: n("Clip", n.dense(v, 6, 5), min=-0.3, max=0.6), 10),
    "Clip opset 10 endless": (ROW, lambda n, v: n("Clip", n.dense(v, 6, 5), min=0.25), 10),
    "HardSigmoid": (ROW, _signed("HardSigmoid")),
    "HardSigmoid steep": (ROW, _signed("HardSigmoid", alpha=1.5, beta=0.25)),
    "Max": (ROW, both(lambda n, a, b: n("Max", a, b))),
    "Max of many": (ROW, both(lambda n, a, b: n(
        "Max", n.constant(0.2), a, n.weight(1, 6), b, n("Neg", a)))),
    "Max of one": (ROW, lambda n, v: n("Max", v)),
    "Max broadcast": (LINE, lambda n, v: n("Max", v, n("Slice", v, n.ints(0), n.ints(1), n.ints(1)))),
    "Min": (ROW, both(lambda n, a, b: n("Min", a, b))),
    "Min of many": (ROW, both(lambda n, a, b: n(
        "Min", n.constant([[0.2], [0.5]]), a, b, n("Neg", a), n.weight(6)))),
    "MaxPool": (IMAGE, _pool((2, 2))),
    "MaxPool odd": (IMAGE, _pool((3, 3), strides=[1, 1])),
    "MaxPool padded": (IMAGE, _pool((3, 2), strides=[2, 1], pads=[1, 1, 1, 0])),
    "MaxPool same": (IMAGE, _pool((2, 2), strides=[2, 2], auto_pad="SAME_UPPER")),
    "MaxPool same lower": (IMAGE, _pool((2, 2), strides=[2, 2], auto_pad="SAME_LOWER")),
    "MaxPool dilated": ((1, 1, 5, 5), _pool((2, 2), dilations=[3, 2])),
    "MaxPool ceil": (IMAGE, _pool((2, 2), strides=[2, 2], ceil_mode=1)),
    "MaxPool ceil padded": ((1, 1, 5, 5), _pool((3, 3), strides=[2, 2], pads=[1, 1, 0, 0], ceil_mode=1)),
    "MaxPool line": (LINE, _pool((3,), strides=[2], pads=[1, 0])),
    "AveragePool ceil": (IMAGE, _pool((2, 2), "AveragePool", strides=[2, 2], ceil_mode=1)),
    "GlobalMaxPool": (IMAGE, lambda n, v: n("GlobalMaxPool", v)),
    "ReduceMax": (IMAGE, lambda n, v: n("ReduceMax", v, axes=[-1, 1], keepdims=0)),
    "ReduceMax opset 18": (IMAGE, lambda n, v: n("ReduceMax", v, n.ints(2)), 18),
    "ReduceMin": (IMAGE, lambda n, v: n("ReduceMin", v)),
    "ReduceL1": (LINE, lambda n, v: n("ReduceL1", n("Sub", v, n.constant(0.5)), axes=[2])),
}  # fmt: skip
