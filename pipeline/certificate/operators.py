"""ONNX operators as affine maps and ReLUs, one rule each: a table by operator.

Operators that only move numbers (`MOVES`) are run by ONNX's reference implementation on the numbers' positions: what
comes out says where each number is from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from secateur.formats.query import Floats
from secateur.pipeline.certificate.call import Array, Call, Value, Variable
from secateur.pipeline.certificate.maps import Convolution, Gathered, Map, Matrix
from secateur.pipeline.certificate.network import Affine

MOVES = {
    "Concat": None,
    "DepthToSpace": (0,),
    "Expand": (0,),
    "Flatten": (0,),
    "Gather": (0,),
    "Identity": (0,),
    "Pad": (0, 2),
    "Reshape": (0,),
    "Slice": (0,),
    "SpaceToDepth": (0,),
    "Split": (0,),
    "Squeeze": (0,),
    "Tile": (0,),
    "Transpose": (0,),
    "Unsqueeze": (0,),
}
"""Which inputs hold numbers that are moved (None: all); the others say where to."""

EPSILON = float(np.float32(1e-5))
"""ONNX's default of BatchNormalization's `epsilon`, a float32 number."""

EXACT = {*MOVES, "Cast", "Constant", "ConstantOfShape", "Shape"}
"""Operators that are evaluated where all their inputs are constant, because nothing is rounded in them."""


def apply(call: Call) -> list[Value]:
    """The node's outputs.

    Raises:
        UnsupportedError: it is neither affine nor a ReLU, or constant and not exact.
    """
    operator = call.node.op_type
    if call.node.domain not in ("", "ai.onnx"):
        raise call.refuse("an operator of another domain")
    variables = [value for value in call.arguments if isinstance(value, Variable)]
    if not variables:
        if operator not in EXACT:
            raise call.refuse("its inputs are all constant: fold it first (secateur convert)")
        return list(call.evaluate(tuple(None if v is None else np.asarray(v) for v in call.arguments)))
    if operator == "Shape":
        return list(call.evaluate((np.zeros(variables[0].shape, np.bool_),)))
    if operator in MOVES:
        return list(_moved(call))
    if operator not in RULES:
        raise call.refuse("not an operator that a certificate can be about")
    return [RULES[operator](call)]


def _moved(call: Call) -> list[Variable]:
    """An operator that moves numbers: its outputs."""
    data = MOVES[call.node.op_type]
    carried = [i for i in range(len(call.arguments)) if data is None or i in data]
    if any(isinstance(v, Variable) and i not in carried for i, v in enumerate(call.arguments)):
        raise call.refuse("where its numbers go depends on the network's input")

    def run(positions: int | None) -> list[Array]:
        """Its outputs where all that is carried is 0: but the positions (from 1) of one variable's numbers, or the
        constants as they are."""
        given: list[Array | None] = []
        for i, value in enumerate(call.arguments):
            if isinstance(value, Variable):
                numbers = np.arange(1, prod(value.shape) + 1).reshape(value.shape)
                given.append(
                    numbers.astype(np.int64 if positions is not None else np.float64) * (i == positions)
                )
            elif value is not None and i in carried:
                given.append(
                    np.zeros(value.shape, np.int64) if positions is not None else value.astype(np.float64)
                )
            else:
                given.append(value)
        return call.evaluate(tuple(given))

    biases = run(None)
    parts: list[list[tuple[Variable, Map]]] = [[] for _ in biases]
    for i, value in enumerate(call.arguments):
        if isinstance(value, Variable):
            for own, came in zip(parts, run(i), strict=True):
                own.append((value, _gathered(came.astype(np.int64) - 1, prod(value.shape))))
    return [call.builder.affine(own, bias.shape, bias) for own, bias in zip(parts, biases, strict=True)]


def _gathered(index: Array, size: int, factor: Array | float = 1.0) -> Gathered:
    """A map by the positions (from 0) that numbers come from, in the shape of the result."""
    factors = np.broadcast_to(np.asarray(factor, np.float64), index.shape)
    return Gathered(index.reshape(-1).astype(np.int64), factors.reshape(-1), size)


def _scaled(
    call: Call,
    value: Variable,
    shape: tuple[int, ...],
    factor: Array | float,
    bias: Array | float = 0.0,
    size: Array | float | None = None,
) -> Variable:
    """factor · value + bias, all of them broadcast to `shape`."""
    index = np.broadcast_to(np.arange(prod(value.shape)).reshape(value.shape), shape)
    own = (value, _gathered(index, prod(value.shape), factor))
    return call.builder.affine([own], shape, bias, size=size)


def _shape(*values: Value) -> tuple[int, ...]:
    return np.broadcast_shapes(*(value.shape for value in values))


def _sum(sign: float) -> Callable[[Call], Variable]:
    """Add or Sub."""

    def rule(call: Call) -> Variable:
        shape = _shape(*(value for value in call.arguments if value is not None))
        parts: list[tuple[Variable, Map]] = []
        bias = np.zeros(shape)
        for value, factor in zip(call.arguments, (1.0, sign), strict=True):
            if isinstance(value, Variable):
                index = np.broadcast_to(np.arange(prod(value.shape)).reshape(value.shape), shape)
                parts.append((value, _gathered(index, prod(value.shape), factor)))
            elif value is not None:
                bias = np.broadcast_to(factor * value.astype(np.float64), shape)
        return call.builder.affine(parts, shape, bias)

    return rule


def _product(call: Call) -> Variable:
    variable, constant = (0, 1) if isinstance(call.arguments[0], Variable) else (1, 0)
    value, factor = call.variable(variable), call.constant(constant)
    return _scaled(call, value, _shape(value, factor), factor)


def _quotient(call: Call) -> Variable:
    value, divisor = call.variable(0), call.constant(1)
    if not divisor.all():
        raise call.refuse("a division by zero")
    return _scaled(call, value, _shape(value, divisor), 1.0 / divisor)


def _negated(call: Call) -> Variable:
    value = call.variable(0)
    return _scaled(call, value, value.shape, -1.0)


def _matmul(call: Call) -> Variable:
    left = call.arguments[0]
    if isinstance(left, Variable):
        weight = call.constant(1)
        weight = weight.reshape(weight.shape[-2:]) if weight.size == prod(weight.shape[-2:]) else weight
        if weight.ndim != 2:
            raise call.refuse(f"expected a matrix, found a constant of shape {weight.shape}")
        return _multiplied(call, left, weight)
    weight, value = call.constant(0), call.variable(1)
    if weight.ndim != 2 or len(value.shape) < 1:
        raise call.refuse(f"expected a matrix, found a constant of shape {weight.shape}")
    column = len(value.shape) == 1
    turned = value if column else _swapped(call, value)
    product = _multiplied(call, turned, weight.T)
    return product if column else _swapped(call, product)


def _swapped(call: Call, value: Variable) -> Variable:
    """The last two axes exchanged."""
    index = np.swapaxes(np.arange(prod(value.shape)).reshape(value.shape), -1, -2)
    return call.builder.affine([(value, _gathered(index, index.size))], index.shape)


def _gemm(call: Call) -> Variable:
    value, weight = call.variable(0), call.constant(1)
    if call.number("transA", 0):
        value = _swapped(call, value)
    weight = weight.T if call.number("transB", 0) else weight
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    bias = beta * call.constant(2, 0.0)
    # Where alpha or beta are not 1, products are rounded: `terms` has room for that.
    return _multiplied(call, value, alpha * weight, bias)


def _multiplied(call: Call, value: Variable, weight: Floats, bias: Array | float = 0.0) -> Variable:
    """value @ weight + bias."""
    if value.shape[-1:] != weight.shape[:1]:
        raise ValueError(f"shapes {value.shape} and {weight.shape}")
    return call.builder.affine([(value, Matrix(weight))], (*value.shape[:-1], weight.shape[1]), bias)


def _conv(call: Call) -> Variable:
    value, weight = call.variable(0), call.constant(1)
    group = int(call.number("group", 1))
    kernel = weight.shape[2:]
    grouped = weight.reshape(group, len(weight) // group, *weight.shape[1:])
    bias = call.constant(2, 0.0)
    return _windows(call, value, grouped, kernel, bias.reshape(-1, *(1 for _ in kernel)))


def _windows(
    call: Call, value: Variable, weight: Array, kernel: Sequence[int], bias: Array | float
) -> Variable:
    """A convolution with the node's strides, pads and dilations; weight as in `Convolution`."""
    if len(value.shape) != len(kernel) + 2 or value.shape[0] != 1:
        raise call.refuse(f"expected a batch of one, found the shape {value.shape}")
    if value.shape[1] != weight.shape[0] * weight.shape[2]:
        raise ValueError(f"{value.shape[1]} channels, expected {weight.shape[0] * weight.shape[2]}")
    space = value.shape[2:]
    strides, dilations = (call.numbers(name, [1] * len(space)) for name in ("strides", "dilations"))
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    pads = _pads(call, space, reach, strides)
    over = [n + before + after - r for n, (before, after), r in zip(space, pads, reach, strict=True)]
    outputs = weight.shape[0] * weight.shape[1]
    target = (outputs, *(o // s + 1 for o, s in zip(over, strides, strict=True)))
    own = Convolution(
        np.asarray(weight, np.float64), value.shape[1:], target, tuple(strides), tuple(pads), tuple(dilations)
    )
    return call.builder.affine([(value, own)], (1, *target), bias)


def _pads(
    call: Call, space: Sequence[int], reach: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    auto = call.attributes.get("auto_pad", b"NOTSET")
    if auto == b"NOTSET":
        flat = call.numbers("pads", [0] * (2 * len(space)))
        return list(zip(flat[: len(space)], flat[len(space) :], strict=True))
    if auto == b"VALID":
        return [(0, 0)] * len(space)
    pairs = []
    for n, r, s in zip(space, reach, strides, strict=True):
        total = max(0, (-(-n // s) - 1) * s + r - n)
        small, large = total // 2, total - total // 2
        pairs.append((small, large) if auto == b"SAME_UPPER" else (large, small))
    return pairs


def _pool(call: Call) -> Variable:
    """AveragePool and GlobalAveragePool."""
    value = call.variable(0)
    space = list(value.shape[2:])
    kernel = call.numbers("kernel_shape", space) if call.node.op_type == "AveragePool" else space
    if call.number("ceil_mode", 0):
        raise call.refuse("windows that reach beyond the padding (ceil_mode)")
    ones = np.ones((value.shape[1], 1, 1, *kernel))
    total = _windows(call, value, ones, kernel, 0.0)
    count: Array | float = float(prod(kernel))
    if not call.number("count_include_pad", 0):
        node = call.builder.nodes[total.node]
        assert isinstance(node, Affine)
        ((_, window),) = node.parts
        count = window.forward(np.ones((1, prod(value.shape)))).reshape(total.shape)
    return _scaled(call, total, total.shape, 1.0 / np.asarray(count))


def _normalised(call: Call) -> Variable:
    """BatchNormalization in inference. The factor is rounded four times, and so is the shift: see `terms`."""
    value = call.variable(0)
    if call.number("training_mode", 0):
        raise call.refuse("in training mode")
    scale, shift, mean, variance = (
        call.constant(i).reshape(-1, *(1 for _ in value.shape[2:])) for i in range(1, 5)
    )
    spread = variance + call.number("epsilon", EPSILON)
    if not (spread > 0).all():
        raise call.refuse("a variance that is not positive")
    factor = scale / np.sqrt(spread)
    return _scaled(
        call, value, value.shape, factor, shift - mean * factor, np.abs(shift) + np.abs(mean * factor)
    )


def _dropout(call: Call) -> Variable:
    mode = call.arguments[2] if len(call.arguments) > 2 else None
    if isinstance(mode, Variable) or (mode is not None and np.any(mode)):
        raise call.refuse("in training mode")
    return call.variable(0)


def _relu(call: Call) -> Variable:
    return call.builder.relu(call.variable(0))


RULES: dict[str, Callable[[Call], Variable]] = {
    "Add": _sum(1.0),
    "AveragePool": _pool,
    "BatchNormalization": _normalised,
    "Conv": _conv,
    "Div": _quotient,
    "Dropout": _dropout,
    "Gemm": _gemm,
    "GlobalAveragePool": _pool,
    "MatMul": _matmul,
    "Mul": _product,
    "Neg": _negated,
    "Relu": _relu,
    "Sub": _sum(-1.0),
}
