"""Functions of one variable: lines of any slope lie below and above them, judged in 40 digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf
from torch import Tensor

from secateur.pipeline.verify.graph import curves, gates, steps
from secateur.pipeline.verify.graph.functions import Function, large, unknown

DOUBLE = torch.float64
mpmath.mp.dps = 40


@dataclass(frozen=True)
class Subject:
    """A function, the same in 40 digits, and where it is defined."""

    function: Function
    exact: Callable[[mpf], mpf]
    least: float = -math.inf
    open: bool = False


def _elu(a: float, c: float, scale: float) -> Callable[[mpf], mpf]:
    return lambda x: mpf(scale) * (x if x > 0 else mpf(a) * mpmath.expm1(x / mpf(c)))


SUBJECTS = {
    "Sigmoid": Subject(curves.Sigmoid(), lambda x: 1 / (1 + mpmath.exp(-x))),
    "Tanh": Subject(curves.Tanh(), mpmath.tanh),
    "Erf": Subject(curves.Erf(), mpmath.erf),
    "Atan": Subject(curves.Atan(), mpmath.atan),
    "Softsign": Subject(curves.Softsign(), lambda x: x / (1 + abs(x))),
    "Softplus": Subject(curves.Softplus(), lambda x: mpmath.log1p(mpmath.exp(-abs(x))) + max(x, 0)),
    "Exp": Subject(curves.Exp(), mpmath.exp),
    "Log": Subject(curves.Log(), mpmath.log, 0.0, open=True),
    "Square": Subject(curves.Square(), lambda x: x * x),
    "Sqrt": Subject(curves.Sqrt(), mpmath.sqrt, 0.0),
    "Root": Subject(curves.Root(), lambda x: mpmath.sqrt(max(x, mpf(0)))),
    "Reciprocal": Subject(curves.Reciprocal(), lambda x: 1 / x, 0.0, open=True),
    "cube": Subject(curves.Power(3.0), lambda x: x**3),
    "fourth power": Subject(curves.Power(4.0), lambda x: x**4),
    "power 1.5": Subject(curves.Power(1.5), lambda x: mpmath.power(x, mpf(1.5)), 0.0),
    "power 0.3": Subject(curves.Power(0.3), lambda x: mpmath.power(x, mpf(0.3)), 0.0),
    "power -0.5": Subject(curves.Power(-0.5), lambda x: 1 / mpmath.sqrt(x), 0.0, open=True),
    "power -2": Subject(curves.Power(-2.0), lambda x: 1 / x**2, 0.0, open=True),
    "Sin": Subject(curves.Sin(), mpmath.sin),
    "Cos": Subject(curves.Cos(), mpmath.cos),
    "Elu": Subject(curves.Elu(0.7), _elu(0.7, 1.0, 1.0)),
    "Celu": Subject(curves.Elu(0.6, 0.6), _elu(0.6, 0.6, 1.0)),
    "Selu": Subject(curves.Elu(1.67, scale=1.05), _elu(1.67, 1.0, 1.05)),
    "HardSwish": Subject(curves.HardSwish(), lambda x: x * min(max((x + 3) / 6, mpf(0)), mpf(1))),
    "Gelu": Subject(gates.Gelu(), lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2),
    "Swish": Subject(gates.Swish(), lambda x: x / (1 + mpmath.exp(-x))),
    "Sign": Subject(steps.Sign(), mpmath.sign),
    "Floor": Subject(steps.Floor(), mpmath.floor),
    "Round": Subject(steps.Round(), mpmath.nint),
}
JUMPING = {"Sign", "Floor", "Round"}

WIDTHS = (0.0, 1e-15, 1e-12, 1e-6, 1e-2, 0.5, 2.0, 7.0, 40.0, 1e3)
CENTRES = st.one_of(st.floats(-6, 6), st.floats(-1e3, 1e3), st.sampled_from([0.0, 0.5, 1.0, -3.0, 3.0]))


@st.composite
def intervals(draw: st.DrawFn, subject: Subject) -> tuple[float, float]:
    """An interval in the function's domain, of any width down to none; often with an end at a special point."""
    centre, width = draw(CENTRES), draw(st.sampled_from(WIDTHS))
    share = draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))
    if subject.least == 0:
        low = max(abs(centre) - share * width, 1e-6 if subject.open else 0.0)
    else:
        low = centre - share * width
    return low, low + width


def slopes_of(function: Function, lower: Tensor, upper: Tensor, more: list[float]) -> Tensor:
    """Slopes worth trying: given ones, those of the envelopes, and the derivative inside, so that lines touch there."""
    ends = function.slopes(lower, upper)
    inner = lower + (upper - lower) * torch.tensor([0.1, 0.37, 0.62, 0.9], dtype=DOUBLE)
    step = 1e-6 * (1 + inner.abs())
    inside = (function(inner + step) - function(inner - step)) / (2 * step)
    own = torch.stack([ends.below_at_lower, ends.below_at_upper, ends.above_at_lower, ends.above_at_upper])
    found = torch.cat([torch.tensor([0.0, *more], dtype=DOUBLE), own.flatten(), inside])
    return torch.where(found.isfinite() & (found.abs() < 1e100), found, 1.0)


def stated(bounds: Tensor) -> list[float]:
    """What is said of a bound: what is unknown may be infinite."""
    return [x if abs(x) < unknown(DOUBLE) else math.copysign(math.inf, x) for x in bounds.tolist()]


@pytest.mark.parametrize("name", SUBJECTS)
@given(data=st.data())
@settings(max_examples=30)
def test_lines_of_any_slope_hold(name: str, data: st.DataObject) -> None:
    subject = SUBJECTS[name]
    low, high = data.draw(intervals(subject))
    lower, upper = torch.tensor([low], dtype=DOUBLE), torch.tensor([high], dtype=DOUBLE)
    slopes = slopes_of(subject.function, lower, upper, data.draw(st.lists(st.floats(-3, 3), max_size=3)))
    below = subject.function.below(slopes, lower.expand_as(slopes), upper.expand_as(slopes))
    above = subject.function.above(slopes, lower.expand_as(slopes), upper.expand_as(slopes))
    assert below.value.isfinite().all() and above.value.isfinite().all()
    even = torch.linspace(0, 1, 17, dtype=DOUBLE)
    points = torch.cat([lower + (upper - lower) * even, below.point, above.point])
    near = torch.cat([points, points.nextafter(points + 1), points.nextafter(points - 1)])
    samples = [x for x in sorted({*near.tolist(), low, high}) if low <= x <= high]
    values = [subject.exact(mpf(x)) for x in samples]
    lines = zip(slopes.tolist(), stated(below.value), stated(above.value), strict=True)
    for slope, least, most in lines:
        for x, value in zip(samples, values, strict=True):
            height = value - mpf(slope) * mpf(x)
            assert mpf(least) <= height <= mpf(most), (slope, x, low, high)
    (least,), (most,) = (stated(side) for side in subject.function.range(lower, upper))
    assert all(mpf(least) <= value <= mpf(most) for value in values)
    if name not in JUMPING:  # the bound is attained, but for rounding: it is not just sound
        for extreme in (below, above):
            assert ((extreme.point >= lower) & (extreme.point <= upper)).all()
            there = subject.function(extreme.point)
            scale = there.abs() + (slopes * extreme.point).abs() + 1e-6
            share = 1e-6 if isinstance(subject.function, gates.Gate) else 1e-9  # what `doubt` allows for
            missed = (there - slopes * extreme.point - extreme.value).abs()
            assert ((missed <= share * scale) | (extreme.value.abs() == unknown(DOUBLE))).all()


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_nothing_is_lost_in_wide_intervals(name: str, dtype: torch.dtype) -> None:
    """Infinite, overflowing and undefined bounds give finite lines, and never too tight a range (nor NaN)."""
    subject = SUBJECTS[name]
    ends = [-math.inf, -1e38, -1e30, -800.0, -1.0, -1e-30, 0.0, 1e-30, 1.0, 800.0, 1e30, 1e38, math.inf]
    pairs = [(a, b) for a in ends for b in ends if a <= b and a < math.inf and b > -math.inf]
    lower, upper = torch.tensor(pairs, dtype=dtype).unbind(1)
    slopes = subject.function.slopes(lower, upper)
    for slope in (
        slopes.below_at_lower,
        slopes.above_at_upper,
        torch.zeros_like(lower),
        torch.ones_like(lower),
    ):
        assert slope.isfinite().all()
        for extreme in (
            subject.function.below(slope, lower, upper),
            subject.function.above(slope, lower, upper),
        ):
            assert extreme.value.isfinite().all()
    least, most = subject.function.range(lower, upper)
    assert (least <= most).all()
    slack = 0.0 if dtype == DOUBLE else 1e-5
    for (low, high), smallest, largest in zip(pairs, least.tolist(), most.tolist(), strict=True):
        for x in (low, high, 0.5 * low + 0.5 * high, low + 1e-3, high - 1e-3):
            if not (math.isfinite(x) and low <= x <= high and abs(x) < 1e3) or (
                x < subject.least or (subject.open and x == subject.least)
            ):
                continue
            value = subject.exact(mpf(float(torch.tensor(x, dtype=dtype))))
            if abs(value) < large(dtype):
                room = slack * (1 + abs(value))
                assert smallest - room <= value <= largest + room, (low, high, x)


def test_an_unknown_bound_stays_unknown() -> None:
    """What overflows is no bound for the next function: exp of [0, 1000], its logarithm and its reciprocal."""
    least, most = curves.Exp().range(torch.zeros(1, dtype=DOUBLE), torch.full((1,), 1e3, dtype=DOUBLE))
    assert most.item() == math.inf
    assert curves.Log().range(least, most)[1].item() == math.inf
    # And where a number stands for it, even after it has been scaled down: log(1e-20·exp(1000)) = 954.
    assert (
        curves.Log().range(1e-20 * least, 1e-20 * unknown(DOUBLE) * torch.ones(1, dtype=DOUBLE))[1].item()
        == math.inf
    )
    assert curves.Reciprocal().range(least, most)[0].item() <= math.exp(-700)


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (curves.Log(), 0.0, 1.0),
        (curves.Reciprocal(), -1.0, 1.0),
        (curves.Sqrt(), -1e-300, 1.0),
        (curves.Power(-2.0), -1.0, 1.0),
        (curves.Power(0.3), -1.0, 1.0),
        (curves.Exp(), math.nan, 1.0),
    ],
)
def test_where_it_is_undefined_nothing_is_known(function: Function, low: float, high: float) -> None:
    lower, upper = torch.tensor([low], dtype=DOUBLE), torch.tensor([high], dtype=DOUBLE)
    for slope in (0.0, 1.0, -1.0):
        line = torch.tensor([slope], dtype=DOUBLE)
        assert function.below(line, lower, upper).value.item() == -unknown(DOUBLE)
        assert function.above(line, lower, upper).value.item() == unknown(DOUBLE)


def test_derivatives_of_gates() -> None:
    x = torch.linspace(-12, 12, 481, dtype=DOUBLE).requires_grad_()
    for gate in (gates.Gelu(), gates.Swish()):
        (first,) = torch.autograd.grad(gate(x).sum(), x, create_graph=True)
        torch.testing.assert_close(gate.derivative(x), first)
        (second,) = torch.autograd.grad(first.sum(), x)
        torch.testing.assert_close(gate.curvature(x), second)
        turn = torch.tensor([gate.turn], dtype=DOUBLE)
        assert gate.curvature(turn).abs().item() < 1e-14
