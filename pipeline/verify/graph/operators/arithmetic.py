"""Elementwise arithmetic: sums, differences, products, quotients and powers of variables and constants."""

from __future__ import annotations

from functools import reduce

import numpy as np

from secateur.pipeline.verify.graph.call import Call, Value
from secateur.pipeline.verify.graph.curves import Exp, Reciprocal, power
from secateur.pipeline.verify.graph.operators import parts


def add(call: Call) -> list[Value]:
    _check_broadcasting(call)
    return [parts.plus(call, call.operand(0), call.operand(1))]


def sub(call: Call) -> list[Value]:
    _check_broadcasting(call)
    return [parts.plus(call, call.operand(0), call.operand(1), -1.0)]


def neg(call: Call) -> list[Value]:
    return [parts.negated(call, call.variable())]


def mul(call: Call) -> list[Value]:
    _check_broadcasting(call)
    return [parts.times(call, call.operand(0), call.operand(1))]


def div(call: Call) -> list[Value]:
    """By a constant, or x·(1/y)."""
    _check_broadcasting(call)
    left, right = call.operand(0), call.operand(1)
    if isinstance(right, int):
        return [parts.times(call, left, parts.applied(call, Reciprocal(), right))]
    if not np.all(right):
        raise call.refuse("division by zero")
    return [parts.times(call, left, 1 / np.asarray(right, np.float64))]


def raised(call: Call) -> list[Value]:
    """A variable to one constant power, or a positive constant to a variable power."""
    _check_broadcasting(call)
    base, exponent = call.operand(0), call.operand(1)
    if isinstance(exponent, int):
        if isinstance(base, int):
            raise call.refuse("a variable to the power of a variable is not supported")
        if not np.all(np.asarray(base, np.float64) > 0):
            raise call.refuse("only a positive constant to the power of a variable is supported")
        return [parts.applied(call, Exp(), parts.times(call, exponent, np.log(np.asarray(base, np.float64))))]
    assert isinstance(base, int)
    powers = np.unique(np.asarray(exponent, np.float64))
    if not np.all(np.isfinite(powers)):
        raise call.refuse("expected a finite power")
    if len(powers) != 1:
        raise call.refuse("different powers in one node are not supported")
    source = parts.broadcast(call, base, np.broadcast_shapes(call.shape(0), call.shape(1)))
    return [_raised(call, source, float(powers[0]))]


def total(call: Call) -> list[Value]:
    return [_total(call)]


def mean(call: Call) -> list[Value]:
    return [parts.scaled(call, _total(call), 1.0 / len(call.arguments))]


def _raised(call: Call, source: int, exponent: float) -> Value:
    if exponent == 0:
        return np.ones(call.shape_of(source))
    if exponent == 1:
        return source
    return parts.applied(call, power(exponent), source)


def _total(call: Call) -> int:
    variables = [value for value in call.arguments if isinstance(value, int)]
    constants = [
        np.asarray(v, np.float64) for v in call.arguments if v is not None and not isinstance(v, int)
    ]
    result = reduce(lambda left, right: parts.plus(call, left, right), variables)
    return parts.plus(call, result, reduce(np.add, constants)) if constants else result


def _check_broadcasting(call: Call) -> None:
    if "axis" in call.attributes:  # before opset 7 a smaller operand could stand at any axis
        raise call.refuse("broadcasting along a given axis is not supported")
