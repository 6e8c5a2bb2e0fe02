"""Operators that are one function, number by number: smooth curves and steps (see `functions`)."""

from __future__ import annotations

import math

import numpy as np

from secateur.pipeline.verify.graph.call import Call, Rule, Value
from secateur.pipeline.verify.graph.curves import Elu, Softplus, Tanh, power
from secateur.pipeline.verify.graph.functions import Function
from secateur.pipeline.verify.graph.gates import Gelu, Swish
from secateur.pipeline.verify.graph.operators import parts
from secateur.pipeline.verify.graph.steps import Floor


def function(f: Function) -> Rule:
    """The rule of an operator that is `f`."""
    return lambda call: [parts.applied(call, f, call.variable())]


def ceil(call: Call) -> list[Value]:
    """-⌊-x⌋."""
    opposite = parts.applied(call, Floor(), parts.negated(call, call.variable()))
    return [parts.negated(call, opposite)]


def elu(call: Call) -> list[Value]:
    return [parts.applied(call, Elu(call.number("alpha", 1.0)), call.variable())]


def celu(call: Call) -> list[Value]:
    alpha = call.number("alpha", 1.0)
    return [parts.applied(call, Elu(alpha, alpha), call.variable())]


def selu(call: Call) -> list[Value]:
    alpha = call.number("alpha", float(np.float32(1.6732632423543772848170429916717)))
    gamma = call.number("gamma", float(np.float32(1.0507009873554804934193349852946)))
    return [parts.applied(call, Elu(alpha, scale=gamma), call.variable())]


def gelu(call: Call) -> list[Value]:
    """x·Φ(x), or what it is approximated by: x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))."""
    source = call.variable()
    if call.text("approximate", "none") == "none":
        return [parts.applied(call, Gelu(), source)]
    cubes = parts.scaled(call, parts.applied(call, power(3.0), source), 0.044715)
    inner = parts.scaled(call, parts.plus(call, source, cubes), math.sqrt(2 / math.pi))
    gate = parts.scaled(call, parts.applied(call, Tanh(), inner), 0.5, 0.5)
    return [parts.times(call, source, gate)]


def swish(call: Call) -> list[Value]:
    """x·σ(alpha·x)."""
    alpha = call.number("alpha", 1.0)
    if alpha == 0:
        return [parts.scaled(call, call.variable(), 0.5)]
    inner = parts.applied(call, Swish(), parts.scaled(call, call.variable(), alpha))
    return [parts.scaled(call, inner, 1 / alpha)]


def mish(call: Call) -> list[Value]:
    """x·tanh(softplus(x))."""
    source = call.variable()
    return [parts.times(call, source, parts.applied(call, Tanh(), parts.applied(call, Softplus(), source)))]
