"""Bounds against exact rational evaluation, where float64 alone would be wrong; overflow; the edges of float types."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import box_property
from nets import Net
from oracles import exact, satisfied
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline.verify import bounds, engine, verify
from secateur.pipeline.verify.bounding.bilinear import BilinearRelaxation
from secateur.pipeline.verify.bounding.crown import Box, backward
from secateur.pipeline.verify.bounding.normalised import NormalisedRelaxation
from secateur.pipeline.verify.bounding.relaxation import Relaxation, ReluRelaxation
from secateur.pipeline.verify.bounding.root import bound_nodes, magnitudes
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, gamma
from secateur.pipeline.verify.graph.lowering import lower


def cancelling(seed: int) -> Model:
    """Large weights that nearly cancel, in two layers: the output is small, its terms are not."""
    random = np.random.default_rng(seed)
    net = Net(seed, 3)
    half = random.normal(size=(3, 4)) * 1e6
    first = np.concatenate([half, half * (1 + 1e-6 * random.normal(size=half.shape))], axis=1)
    hidden = net("Relu", net("Add", net("MatMul", "x", net.constant(first)), net.weight(8)))
    second = random.normal(size=(4, 1)) * 1e6
    return net.finish(net("MatMul", hidden, net.constant(np.concatenate([second, -second]))))


def clause_bound(graph: BoundGraph, box: Box, rows: torch.Tensor, rigorous: bool) -> torch.Tensor:
    """The CROWN bound of rows on a box, with or without margins for rounding."""
    nothing = {p: torch.zeros(1, *node.shape, dtype=torch.float64) for p, node in enumerate(graph.nodes)}
    nodes = bound_nodes(graph, box, magnitudes=None if rigorous else nothing)
    largest = magnitudes(graph, nodes) if rigorous else None
    return backward(graph, nodes.relaxations(graph), graph.output, rows, magnitudes=largest).minimum(box)


def test_bounds_hold_in_exact_arithmetic() -> None:
    """On boxes that are a point the bounds must enclose the exact value; without margins they do not."""
    naive_failures = 0
    for seed in range(25):
        model = cancelling(seed)
        graph = lower(model)
        x = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (1, 3)))
        (y,) = exact(model, x.flatten().tolist())
        rows = torch.tensor([1.0, -1.0], dtype=torch.float64).view(1, 2, 1, 1)
        for rigorous in (False, True):
            low, high = clause_bound(graph, Box(x, x), rows, rigorous).flatten().tolist()
            encloses = Fraction(low) <= y <= -Fraction(high)
            naive_failures += not rigorous and not encloses
            assert encloses or not rigorous
        low, high = (Fraction(float(side)) for side in bound_nodes(graph, Box(x, x)).values[graph.output])
        assert low <= y <= high
    assert naive_failures > 5  # or the cases are too easy to show anything


@pytest.mark.parametrize("method", ["ibp", "crown", "alpha-crown"])
def test_clause_bounds_hold_in_exact_arithmetic(method: str) -> None:
    """Through the public function, with coefficients and constants that float64 does not hold."""
    for seed in range(10):
        model = cancelling(seed)
        random = np.random.default_rng(seed)
        low = random.uniform(-1, 1, 3)
        high = low + np.array([1e-9, 0, 0.5])
        condition = "(<= (+ (* 0.1 Y_0) (* 3333333.3 X_1) 0.7) 0.0)"
        query = vnnlib.parse(box_property(low.tolist(), high.tolist(), 1, condition), "p")
        (bound,) = bounds(model, query, method).regions[0].clauses
        for corner in (low, high):
            x = [Fraction(repr(float(v))) for v in corner]
            (y,) = exact(model, x)
            value = Fraction("0.1") * y + Fraction("3333333.3") * x[1] + Fraction("0.7")
            assert Fraction(bound) <= value


@pytest.mark.parametrize("few", [0, 8])
def test_a_property_met_exactly_is_never_refuted(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equations y = c with c attained exactly (in rational arithmetic): the violation is 0 somewhere, never more.

    Several scaled rows a side, so that the proof of a leaf combines rows that cancel.
    """
    monkeypatch.setattr(engine, "FEW_INPUTS", few)
    verdicts = []
    for seed in (15, 38, 58, 107, 110, *range(25)):
        random = np.random.default_rng(seed)
        inputs, width = int(random.integers(1, 4)), int(random.integers(2, 6))
        outputs = int(random.integers(1, min(inputs, 2) + 1))
        net = Net(seed, inputs)
        hidden = net("Relu", net.dense("x", inputs, width))
        shift = net.constant(random.normal(size=outputs) * 10.0 ** random.integers(-2, 5))
        model = net.finish(net("Add", net("MatMul", hidden, net.weight(width, outputs)), shift))
        x = random.uniform(-1, 1, inputs).round(12)
        y = exact(model, [Fraction(repr(float(v))) for v in x])
        atoms = []
        for o in range(outputs):
            for sign in ("<=", ">="):
                scale = Fraction(int(random.integers(1, 30)), 2 ** int(random.integers(0, 6)))
                left = f"(* {vnnlib.decimal(scale)} Y_{o})"
                atoms.append(f"({sign} {left} {vnnlib.decimal(scale * y[o])})")
        text = box_property([-1.0] * inputs, [1.0] * inputs, outputs, f"(and {' '.join(atoms)})")
        assert satisfied(text, [Fraction(repr(float(v))) for v in x], y)
        verdicts.append(verify(model, vnnlib.parse(text, "p"), timeout=0.4).verdict)
    assert "unsat" not in verdicts


@pytest.mark.parametrize("few", [0, 8])
@pytest.mark.parametrize("offset", [Fraction(0), Fraction(1, 2**20)])
def test_the_maximum_itself_is_attainable(
    few: int, offset: Fraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """y = c - Σ kᵢ|⟨wᵢ, x - a⟩| with exact weights has its maximum c at a alone: y ≥ c is met, y ≥ c + δ is not."""
    monkeypatch.setattr(engine, "FEW_INPUTS", few)
    for seed in range(6):
        random = np.random.default_rng(seed)
        w = random.integers(-8, 9, size=(2, 3)) / 8
        a = random.integers(-4, 5, size=2) / 8
        w, b = np.concatenate([w, -w], axis=1), np.concatenate([-(a @ w), a @ w])
        net = Net(seed, 2)
        hidden = net("Relu", net("Add", net("MatMul", "x", net.constant(w)), net.constant(b)))
        out = net("MatMul", hidden, net.constant(-random.integers(1, 9, size=(6, 1)) / 8))
        c = Fraction(int(random.integers(-40, 40)), 8)
        model = net.finish(net("Add", out, net.constant(float(c))))
        assert exact(model, a.tolist()) == [c]
        text = box_property([-1.0] * 2, [1.0] * 2, 1, f"(>= Y_0 {vnnlib.decimal(c + offset)})")
        verdict = verify(model, vnnlib.parse(text, "p"), timeout=2).verdict
        if offset:
            assert verdict == "unsat"
        else:
            assert verdict != "unsat"


def overflowing(depth: int) -> Model:
    """y = -1 everywhere, through differences of equal ReLUs times 1e38: bounds grow past float64, values do not."""
    net = Net(0, 1)
    value = "x"
    for _ in range(depth):
        twice = net("Relu", net("MatMul", value, net.constant([[1, 1]])))
        value = net("Mul", net("MatMul", twice, net.constant([[1], [-1]])), net.constant(1e38))
    return net.finish(net("Neg", net("Relu", net("Add", value, net.constant(1.0)))))


@pytest.mark.parametrize("depth", [1, 4, 8, 9, 12])
def test_overflow_refutes_nothing(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """1e38 overflows float32 in two layers, float64 in nine; a bound that is NaN must count as no bound at all."""
    model = overflowing(depth)
    query = vnnlib.parse(box_property([-1.0], [1.0], 1, "(<= Y_0 -0.5)"), "p")  # true everywhere
    for method in ("ibp", "crown", "alpha-crown"):
        known = bounds(model, query, method)
        assert not known.refuted
        assert not any(math.isnan(v) for r in known.regions for v in (*r.lower, *r.upper))
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})  # the proof alone
    for few in (0, 8):
        monkeypatch.setattr(engine, "FEW_INPUTS", few)
        assert verify(model, query, timeout=1).verdict != "unsat"
    assert verify(model, query, timeout=1, verifier="milp").verdict != "unsat"


def test_no_neuron_of_unknown_bounds_counts_as_stable() -> None:
    graph = lower(overflowing(12))
    box = Box(-torch.ones(1, 1).double(), torch.ones(1, 1).double())
    for low, high in bound_nodes(graph, box).values.values():
        assert not low.isnan().any() and not high.isnan().any()
        assert (low <= high).all()


def test_underflow_refutes_nothing() -> None:
    """x · 1e-38⁹ · 1e38⁸ = 1e-38 x in real arithmetic, of which float64 loses all."""
    net = Net(0, 1)
    value = "x"
    for factor in [1e-38] * 9 + [1e38] * 8:
        value = net("MatMul", net("Relu", value), net.constant([[factor]]))
    model = net.finish(value)
    limit = Fraction(1, 10**39)
    assert exact(model, [1])[0] > limit
    query = vnnlib.parse(box_property([0.0], [1.0], 1, f"(>= Y_0 {vnnlib.decimal(limit)})"), "p")
    assert verify(model, query, timeout=2).verdict != "unsat"


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e30])
def test_extreme_scales(scale: float) -> None:
    """Weights near the ends of float32 (the search's type): verdicts as at scale 1."""
    for factor, expected in ((1.05, "unsat"), (0.9, "sat")):
        net = Net(0, 2)
        weight = np.array([[1, -1, 1, -1], [1, 1, -1, -1]]) * scale
        hidden = net("Relu", net("MatMul", "x", net.constant(weight)))
        model = net.finish(net("MatMul", hidden, net.constant([[1.0], [1.0], [1.0], [1.0]])))
        # The sum of the four is |a + b| + |a - b| = 2 max(|a|, |b|), scaled.
        limit = Fraction(float(np.float32(scale))) * 2 * Fraction(factor)
        query = vnnlib.parse(box_property([-1.0] * 2, [1.0] * 2, 1, f"(>= Y_0 {vnnlib.decimal(limit)})"), "p")
        assert verify(model, query, timeout=10).verdict == expected


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 0.0), (-0.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (-5e-324, 1.0), (-1.0, 5e-324), (-1e-300, 1e-300),
     (-5e-324, 5e-324), (-1e308, 1e308), (-math.inf, math.inf), (-math.inf, 1.0), (-1.0, math.inf),
     (-math.inf, -1.0), (1.0, math.inf)],
)  # fmt: skip
def test_relaxation_at_the_edges(low: float, high: float) -> None:
    """Each line is valid, or NaN (which no bound survives); never quietly wrong beyond the least normal number."""
    sides = (torch.tensor([[side]], dtype=torch.float64) for side in (low, high))
    relaxation = ReluRelaxation.of(*sides)
    slope, intercept = float(relaxation.slope), float(relaxation.intercept)
    if math.isnan(slope) or not math.isfinite(intercept):
        assert high - low == math.inf and not intercept < 0
        return
    tiny = Fraction(float(np.finfo(np.float64).tiny))
    for x in (low, high):
        if math.isfinite(x):
            line = Fraction(slope) * Fraction(x) + Fraction(intercept)
            assert line >= max(Fraction(x), Fraction(0)) - tiny
    if low >= 0:
        assert slope == 1 and not relaxation.unstable.any()


def test_what_overflows_is_not_bounded_by_scaling_it_down() -> None:
    """exp(990) is beyond all numbers; 1e-370 times that is still 1e60, and no bound may say that it is small."""
    net = Net(0, 2)
    value = net("Exp", "x")
    for _ in range(10):
        value = net("Mul", value, net.constant(1e-37))
    model = net.finish(value)
    query = vnnlib.parse(box_property([990.0, 0.0], [1000.0, 1.0], 2, "(>= Y_0 1.0)"), "p")
    for method in ("ibp", "crown", "alpha-crown"):
        assert not bounds(model, query, method).refuted
    assert verify(model, query, timeout=2).verdict != "unsat"


def inner(one: torch.Tensor, other: torch.Tensor) -> Fraction:
    """The sum of products, exactly."""
    pairs = zip(one.flatten().tolist(), other.flatten().tolist(), strict=True)
    return sum((Fraction(a) * Fraction(b) for a, b in pairs), Fraction(0))


def substituted(relaxation: Relaxation, a: torch.Tensor, *z: torch.Tensor, seed: int) -> Fraction:
    """What the lines for random multipliers say of ⟨a, f(z)⟩ at one point, exactly, less the margin for rounding."""
    generator = torch.Generator().manual_seed(seed)
    shape = relaxation.initial_multiplier(1).shape
    multiplier = relaxation.project(torch.rand(shape, generator=generator, dtype=torch.float64))
    chosen = None if seed % 3 == 0 else multiplier
    line = relaxation.substitute(a, chosen, traced=False)
    error = relaxation.error(a, chosen, gamma(a[0, 0].numel() + 8, a))
    assert error is not None
    terms = [inner(c, value) for c, value in zip(line.coefficients, z, strict=True)]
    return sum(terms, Fraction(line.shift.item()) - Fraction(error.item()))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 1e8]))
def test_margins_of_products_of_matrices_cover_their_rounding(seed: int, scale: float) -> None:
    """On boxes of no width there is nothing but rounding between the planes and the product."""
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(1, 2, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(1, 5, 3, generator=generator, dtype=torch.float64)
    a = torch.randn(1, 1, 2, 3, generator=generator, dtype=torch.float64)
    exact = sum(
        Fraction(a[0, 0, i, j].item()) * inner(x[0, i], y[0, :, j]) for i in range(2) for j in range(3)
    )
    bound = substituted(BilinearRelaxation.of((x, x), (y, y)), a, x, y, seed=seed)
    assert exact - Fraction(1e-9 * scale) <= bound <= exact


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_margins_of_shares_cover_their_rounding(seed: int) -> None:
    """Of numbers that sum to 1 exactly."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.tensor([[[1, 2, 5], [3, 4, 1]]], dtype=torch.float64) / 8
    a = torch.randn(1, 1, 2, 3, generator=generator, dtype=torch.float64)
    wide = torch.rand(1, 2, 3, generator=generator, dtype=torch.float64) / 7
    bound = substituted(NormalisedRelaxation.of((p - wide, p + wide)), a, p, seed=seed)
    assert inner(a, p) - Fraction(1, 10**12) <= bound <= inner(a, p)
