"""Operators that move numbers, fill in constants or depend on shapes: one case a way of using each."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from cases.shared import IMAGE, LINE, ROW, Case, both
from nets import Build, Net


def _resize(scales: tuple[float, ...] = (), sizes: tuple[int, ...] = (), **attributes: object) -> Build:
    def build(net: Net, v: str) -> str:
        if sizes:
            return net("Resize", v, "", "", net.ints(*sizes), **attributes)
        return net("Resize", v, "", net.constant(scales), **attributes)

    return build


def _mask(net: Net, shape: tuple[int, ...]) -> str:
    """A condition that the graph computes from constants, as exporters write attention masks."""
    zeros = net("ConstantOfShape", net.ints(*shape))
    numbers = net("Range", net.constant(0.0), net.constant(shape[-1]), net.constant(1.0))
    odd = net("Equal", net("Sub", numbers, net("Floor", numbers)), net("Add", zeros, net.constant(0.0)))
    few = net("Less", numbers, net.constant(4.0))
    many = net("GreaterOrEqual", numbers, net.constant(5.0))
    either = net("Or", few, net("And", many, net("Not", net("LessOrEqual", numbers, net.constant(5.0)))))
    return net("And", net("And", odd, either), net("Greater", numbers, net.constant(0.0)))


def _size(net: Net, v: str) -> str:
    """The mean as a sum divided by the number of elements."""
    count = net("Cast", net("Size", v), to=TensorProto.FLOAT)
    return net("Div", net("ReduceSum", v), count)


def _constant(net: Net, v: str) -> str:
    return net("Add", v, net("Constant", value_floats=[1.0, -2.0, 0.5, 0.0, 3.0, 0.25]))


MOVES: dict[str, Case] = {
    "Concat constants": (ROW, both(lambda n, a, b: n(
        "Concat", n.weight(1, 2), b, n.constant([[0.5]]), a, axis=1))),
    "Constant": (ROW, _constant),
    "CastLike": (ROW, lambda n, v: n("CastLike", v, n.constant(0.0))),
    "CumSum": (LINE, lambda n, v: n("CumSum", v, n.constant(-1, np.int64))),
    "CumSum backwards": (LINE, lambda n, v: n(
        "CumSum", v, n.constant(1, np.int64), exclusive=1, reverse=1)),
    "DepthToSpace": ((1, 8, 2, 1), lambda n, v: n("DepthToSpace", v, blocksize=2)),
    "DepthToSpace CRD": ((1, 8, 1, 2), lambda n, v: n("DepthToSpace", v, blocksize=2, mode="CRD")),
    "SpaceToDepth": ((1, 2, 4, 2), lambda n, v: n("SpaceToDepth", v, blocksize=2)),
    "GatherElements": (ROW, lambda n, v: n("GatherElements", v, n.constant([[5, 0, -1, 2]], np.int64), axis=1)),
    "GatherND": (LINE, lambda n, v: n("GatherND", v, n.constant([[0, 1, 5], [0, 0, -2]], np.int64))),
    "Gather matrix": (LINE, lambda n, v: n("Gather", v, n.constant([[5, 0], [-1, 2]], np.int64), axis=2)),
    "Pad value": (IMAGE, lambda n, v: n("Pad", v, n.ints(0, 0, 1, 0, 0, 1, 0, 2), n.constant(-0.7))),
    "Pad axes": (IMAGE, lambda n, v: n("Pad", v, n.ints(1, 2), n.constant(0.3), n.ints(-1)), 18),
    "Pad negative": (IMAGE, lambda n, v: n("Pad", v, n.ints(0, 0, -1, 1, 0, 1, -1, 0))),
    "Pad reflect": (IMAGE, lambda n, v: n("Pad", v, n.ints(0, 0, 2, 0, 0, 0, 1, 2), mode="reflect")),
    "Pad edge": (IMAGE, lambda n, v: n("Pad", v, n.ints(0, 0, 2, 0, 0, 0, 1, 2), mode="edge")),
    "Resize nearest": (IMAGE, _resize((1, 1, 2, 1.5))),
    "Resize nearest down": (IMAGE, _resize((1, 1, 0.5, 0.7), nearest_mode="ceil")),
    "Resize nearest asymmetric": (IMAGE, _resize(
        sizes=(1, 2, 7, 5), coordinate_transformation_mode="asymmetric", nearest_mode="floor")),
    "Resize linear": (IMAGE, _resize((1, 1, 2, 1.5), mode="linear")),
    "Resize linear down": (IMAGE, _resize((1, 1, 0.5, 0.7), mode="linear")),
    "Resize linear corners": (IMAGE, _resize(
        sizes=(1, 2, 7, 5), mode="linear", coordinate_transformation_mode="align_corners")),
    "Resize linear pytorch": (IMAGE, _resize(
        sizes=(1, 2, 1, 5), mode="linear", coordinate_transformation_mode="pytorch_half_pixel")),
    "Resize linear symmetric": (IMAGE, _resize(
        (1, 1, 1.3, 1.7), mode="linear", coordinate_transformation_mode="half_pixel_symmetric"), 19),
    "Resize cubic": (IMAGE, _resize((1, 1, 2, 1.5), mode="cubic")),
    "Resize opset 10": (IMAGE, lambda n, v: n(
        "Resize", v, n.constant([1.0, 1.0, 2.0, 3.0]), mode="linear"), 10),
    "Upsample": (IMAGE, lambda n, v: n("Upsample", v, n.constant([1.0, 1.0, 2.0, 3.0])), 9),
    "Upsample linear": (IMAGE, lambda n, v: n("Upsample", v, n.constant([1.0, 1.0, 2.0, 2.0]), mode="linear"), 9),
    "Upsample scales": (IMAGE, lambda n, v: n("Upsample", v, scales=[1.0, 1.0, 2.0, 3.0]), 8),
    "Size": (ROW, _size),
    "Slice opset 9": (IMAGE, lambda n, v: n("Slice", v, starts=[1, -3], ends=[4, 99], axes=[2, 3]), 9),
    "Split opset 11": (ROW, lambda n, v: n("Split", v, outputs=2, split=[4, 2], axis=1), 11),
    "Split in parts": ((1, 2, 5), lambda n, v: n("Split", v, outputs=2, num_outputs=2, axis=-1), 18),
    "Squeeze opset 11": ((1, 1, 6), lambda n, v: n("Squeeze", v, axes=[1]), 11),
    "Unsqueeze opset 11": (ROW, lambda n, v: n("Unsqueeze", v, axes=[0, -1]), 11),
    "Unsqueeze constant opset 9": (ROW, lambda n, v: n(
        "Add", v, n("Unsqueeze", n("Constant", value_floats=[1.0] * 6), axes=[0])), 12),
    "Tile": (LINE, lambda n, v: n("Tile", v, n.ints(1, 2, 2))),
    "Trilu": ((1, 3, 3), lambda n, v: n("Trilu", v, n.constant(1, np.int64), upper=0)),
    "Where variables": (ROW, both(lambda n, a, b: n("Where", _mask(n, (1, 6)), a, b))),
    "Where constant": (ROW, lambda n, v: n("Where", _mask(n, (6,)), v, n.constant([[0.5], [-1.0]]))),
    "Where first constant": (ROW, lambda n, v: n("Where", _mask(n, (2, 1, 6)), n.weight(6), v)),
}  # fmt: skip
