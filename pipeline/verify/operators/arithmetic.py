"""Elementwise operators: sums and differences of variables, products with constants, ReLU."""

from __future__ import annotations

import numpy as np

from secateur.pipeline.verify.call import Call, Value, tensor
from secateur.pipeline.verify.operations import Relu, Scale, Sum
from secateur.pipeline.verify.operators.shapes import broadcast


def relu(call: Call) -> list[Value]:
    return [call.emit(Relu(), call.variable())]


def add(call: Call) -> list[Value]:
    return [_sum(call, 1.0)]


def sub(call: Call) -> list[Value]:
    return [_sum(call, -1.0)]


def neg(call: Call) -> list[Value]:
    return [call.emit(Scale(tensor(np.array(-1.0)), None), call.variable())]


def mul(call: Call) -> list[Value]:
    left, right = call.arguments
    if isinstance(left, int) and isinstance(right, int):
        raise call.refuse("products of two variables are not supported")
    variable, position = (left, 1) if isinstance(left, int) else (right, 0)
    assert isinstance(variable, int)
    constant = call.constant(position)
    assert constant is not None
    source = broadcast(call, variable, _target(call))
    return [call.emit(Scale(tensor(constant), None), source)]


def div(call: Call) -> list[Value]:
    divisor = call.constant(1)
    assert divisor is not None
    if not np.all(divisor):
        raise call.refuse("division by zero")
    source = broadcast(call, call.variable(0), _target(call))
    return [call.emit(Scale(1 / tensor(divisor), None), source)]


def _sum(call: Call, sign: float) -> int:
    left, right = call.arguments
    target = _target(call)
    if isinstance(left, int) and isinstance(right, int):
        return call.emit(Sum((1.0, sign)), broadcast(call, left, target), broadcast(call, right, target))
    if isinstance(left, int):
        assert right is not None
        constant = tensor(np.asarray(right))
        return call.emit(Scale(None, sign * constant), broadcast(call, left, target))
    assert left is not None
    assert isinstance(right, int)
    weight = None if sign == 1 else tensor(np.array(sign))
    return call.emit(Scale(weight, tensor(left)), broadcast(call, right, target))


def _target(call: Call) -> tuple[int, ...]:
    """The shape of both operands, broadcast."""
    if "axis" in call.attributes:  # before opset 7 a smaller operand could stand at any axis
        raise call.refuse("broadcasting along a given axis is not supported")
    return np.broadcast_shapes(call.shape(0), call.shape(1))
