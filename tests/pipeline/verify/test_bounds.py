"""Bounds hold at sampled points and corners, for every operator and method; the ascent's gradient is right."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cases import CASES, case
from factories import box_property
from nets import INPUTS, convolutional, ending_in_relu, mlp, residual, starting_with_relu, without_relu
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline.verify import bounds
from secateur.pipeline.verify.bounding.crown import Box, Tape, backward, relaxed_values
from secateur.pipeline.verify.bounding.optimise import optimise
from secateur.pipeline.verify.bounding.relaxation import ReluRelaxation, Schedule
from secateur.pipeline.verify.bounding.root import NodeBounds, bound_nodes, magnitudes
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.graph.lowering import lower

METHODS = ("ibp", "crown", "alpha-crown")


def boxes(graph: BoundGraph, seed: int, count: int = 3) -> Box:
    """Random boxes (count, *input shape), of which the last is a point and some sides have no width."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *graph.input.shape)
    centre = torch.randn(shape, dtype=torch.float64, generator=generator)
    radius = torch.rand(shape, dtype=torch.float64, generator=generator)
    radius[torch.rand(shape, generator=generator) < 0.2] = 0
    radius[-1] = 0
    return Box(centre - radius, centre + radius)


def points(box: Box, seed: int, count: int = 40) -> Iterator[tuple[int, Tensor]]:
    """For each box its number and points (count, *input shape) of it, half of them corners."""
    generator = torch.Generator().manual_seed(seed)
    for i in range(len(box.lower)):
        shares = torch.rand(count, *box.lower.shape[1:], dtype=torch.float64, generator=generator)
        shares[: count // 2] = shares[: count // 2].round()
        x = box.lower[i] + shares * (box.upper[i] - box.lower[i])
        yield i, torch.maximum(torch.minimum(x, box.upper[i]), box.lower[i])


def all_bounds(graph: BoundGraph, box: Box) -> dict[str, NodeBounds]:
    search = graph.to(torch.float32)
    return {m: bound_nodes(graph, box, m, search=search, schedule=Schedule(5)) for m in METHODS}


def check_nodes(graph: BoundGraph, seed: int) -> None:
    box = boxes(graph, seed)
    known = all_bounds(graph, box)
    for i, x in points(box, seed):
        for position, value in graph.values(x):
            for method, nodes in known.items():
                low, high = (side[i] for side in nodes.values[position])
                # Rounding of the sampled value itself; the exact test is in test_rounding.py.
                slack = 1e-12 * (1 + value.abs())
                assert (value >= low - slack).all() and (value <= high + slack).all(), (method, position)
    for position in range(len(graph.nodes)):
        low, high = known["ibp"].values[position]
        for tighter in ("crown", "alpha-crown"):
            inner_low, inner_high = known[tighter].values[position]
            slack = 1e-9 * (1 + low.abs() + high.abs())
            assert (inner_low >= low - slack).all() and (inner_high <= high + slack).all(), (
                tighter,
                position,
            )


@pytest.mark.parametrize("name", CASES)
def test_bounds_of_every_operator_hold(name: str) -> None:
    check_nodes(lower(case(name, 3)), 3)


ARCHITECTURES = {
    "mlp": lambda seed: mlp(seed, INPUTS, (8, 6), 2),
    "residual": lambda seed: residual(seed, INPUTS, 6, 2),
    "convolutional": convolutional,
    "ending in relu": lambda seed: ending_in_relu(seed, INPUTS),
    "starting with relu": lambda seed: starting_with_relu(seed, INPUTS),
    "without relu": lambda seed: without_relu(seed, INPUTS),
}


@given(st.sampled_from(sorted(ARCHITECTURES)), st.integers(0, 10**6))
@settings(max_examples=25)
def test_bounds_of_architectures_hold(name: str, seed: int) -> None:
    check_nodes(lower(ARCHITECTURES[name](seed)), seed)


def clause_text(model: Model, seed: int) -> tuple[str, np.ndarray, np.ndarray]:
    """A property of one box, two clauses, atoms that mix inputs and outputs; and the box."""
    random = np.random.default_rng(seed)
    graph = lower(model)
    size = graph.input.size
    lower_, upper = (side.view(-1).numpy() for side in _first(boxes(graph, seed, 2)))
    c = [float(v) for v in random.normal(size=4).round(3)]
    first = f"(<= (+ (* {c[0]} Y_0) (* {c[1]} Y_1) (* {c[2]} X_{size - 1})) {c[3]})"
    condition = f"(or (and {first} (>= Y_1 {c[2]})) (< Y_0 Y_1))"
    return box_property(lower_.tolist(), upper.tolist(), 2, condition), lower_, upper


def _first(box: Box) -> tuple[Tensor, Tensor]:
    return box.lower[0], box.upper[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp", "residual", "ending in relu", "starting with relu", "without relu"])
def test_clause_bounds_are_below_the_sampled_minimum(method: str, name: str) -> None:
    for seed in range(4):
        model = ARCHITECTURES[name](seed)
        text, low, high = clause_text(model, seed)
        query = vnnlib.parse(text, "p")
        (region,) = bounds(model, query, method).regions
        graph = lower(model)
        x = torch.from_numpy(np.random.default_rng(seed).uniform(low, high, (400, len(low))))
        y = graph.forward(x.view(-1, *graph.input.shape)).flatten(1)
        assert (y >= torch.tensor(region.lower, dtype=torch.float64) - 1e-12).all()
        assert (y <= torch.tensor(region.upper, dtype=torch.float64) + 1e-12).all()
        for clause, bound in zip(query.regions[0].clauses, region.clauses, strict=True):
            rows = (
                x @ torch.from_numpy(clause.inputs.T)
                + y @ torch.from_numpy(clause.outputs.T)
                + torch.from_numpy(clause.constant)
            )
            assert bound <= float(rows.amax(1).min()) + 1e-12


def test_optimised_bounds_are_no_looser() -> None:
    model = mlp(5, INPUTS, (10, 10), 2)
    query = vnnlib.parse(clause_text(model, 5)[0], "p")
    values = {m: bounds(model, query, m).regions[0].clauses for m in METHODS}
    for ibp, crown, alpha in zip(*values.values(), strict=True):
        assert ibp <= crown + 1e-9 and crown <= alpha + 1e-6


@pytest.mark.parametrize("name", ["identity", "reshape only"])
def test_a_network_that_passes_its_input_on(name: str) -> None:
    """Atoms that mix the input with an output that is the input: neither part may be forgotten."""
    from nets import Net

    net = Net(0, 1)
    model = net.finish(net("Identity", "x") if name == "identity" else net("Flatten", "x"))
    query = vnnlib.parse(box_property([0.0], [2.0], 1, "(<= (+ Y_0 (* -2.0 X_0) 1.0) 0.0)"), "p")
    for method in METHODS:  # y - 2x + 1 = 1 - x on [0, 2], least at x = 2
        assert bounds(model, query, method).regions[0].clauses[0] <= -1.0
    assert bounds(model, query, "crown").regions[0].clauses[0] == pytest.approx(-1.0)


def split_problem(
    seed: int, name: str
) -> tuple[BoundGraph, Box, dict[int, ReluRelaxation], dict[int, Tensor], Tensor]:
    """A graph, B = 3 boxes, relaxations with random split signs, random α and β, and S = 2 rows."""
    graph = lower(ARCHITECTURES[name](seed))
    generator = torch.Generator().manual_seed(seed)
    box = boxes(graph, seed, 3)
    nodes = bound_nodes(graph, box)
    relaxations, multipliers = {}, {}
    for position, (low, high) in nodes.preactivations(graph).items():
        signs = torch.randint(-1, 2, low.shape, generator=generator)
        signs = torch.where((low < 0) & (high > 0), signs, 0)
        relaxations[position] = ReluRelaxation.of(low, high, signs)
        numbers = torch.rand(3, 2, *low.shape[1:], dtype=torch.float64, generator=generator)
        scale = torch.where(signs.unsqueeze(1) == 0, 1.0, 3.0)
        multipliers[position] = numbers * scale
    rows = torch.randn(3, 2, *graph.nodes[graph.output].shape, dtype=torch.float64, generator=generator)
    return graph, box, relaxations, multipliers, rows


SPLIT_NAMES = ["mlp", "residual", "convolutional", "ending in relu", "starting with relu"]


@given(st.sampled_from(SPLIT_NAMES), st.integers(0, 10**6))
@settings(max_examples=25)
def test_gradient_is_that_of_autograd(name: str, seed: int) -> None:
    graph, box, relaxations, multipliers, rows = split_problem(seed, name)
    leaves = {p: m.clone().requires_grad_(True) for p, m in multipliers.items()}
    bound = backward(graph, relaxations, graph.output, rows, leaves).minimum(box)
    wanted = torch.autograd.grad(bound.sum(), list(leaves.values()), allow_unused=True)
    tape = Tape()
    linear = backward(graph, relaxations, graph.output, rows, multipliers, tape=tape)
    x = linear.minimiser(box)
    values = dict(relaxed_values(graph, relaxations, multipliers, tape, x, graph.output))
    assert wanted  # there are ReLUs
    for position, expected in zip(leaves, wanted, strict=True):
        free = (relaxations[position].unstable > 0) | (relaxations[position].sign != 0)
        ours = torch.zeros(1)
        if position in values:
            trace = tape.traces[position]
            ours = relaxations[position].gradient(trace, multipliers[position], *values[position])
        theirs = torch.zeros_like(multipliers[position]) if expected is None else expected
        free = free.expand_as(theirs)
        torch.testing.assert_close(
            torch.where(free, ours.double(), 0.0), torch.where(free, theirs, 0.0), rtol=1e-8, atol=1e-10
        )


@given(st.sampled_from(SPLIT_NAMES), st.integers(0, 10**6))
@settings(max_examples=25)
def test_any_multipliers_give_a_valid_bound(name: str, seed: int) -> None:
    """At every sampled point that keeps the split constraints, whatever α ∈ [0, 1] and β ≥ 0 are."""
    graph, box, relaxations, multipliers, rows = split_problem(seed, name)
    linear = backward(graph, relaxations, graph.output, rows, multipliers)
    bound = linear.minimum(box)
    assert torch.isfinite(bound).all()
    for i, x in points(box, seed, 60):
        keeps = torch.ones(len(x), dtype=torch.bool)
        values = dict(graph.values(x))
        for position, relaxation in relaxations.items():
            assert relaxation.sign is not None
            z = values[graph.preactivation(position)] * relaxation.sign[i]
            keeps &= (z >= 0).flatten(1).all(1)
        y = values[graph.output].flatten(1)
        attained = y[keeps] @ rows[i].flatten(1).T
        assert (attained >= bound[i] - 1e-9).all()


@given(st.sampled_from(SPLIT_NAMES), st.integers(0, 10**6))
@settings(max_examples=10)
def test_the_ascent_never_loses_and_stays_feasible(name: str, seed: int) -> None:
    graph, box, relaxations, multipliers, rows = split_problem(seed, name)
    start = backward(graph, relaxations, graph.output, rows, multipliers).minimum(box)
    result = optimise(graph, relaxations, box, graph.output, rows, Schedule(8), multipliers)
    assert (result.bound >= start).all()
    for position, best in result.multipliers.items():
        sign = relaxations[position].sign
        assert sign is not None
        free = (relaxations[position].unstable > 0).expand_as(best)
        assert (best[free] >= 0).all() and (best[free] <= 1).all()
        assert (best[(sign != 0).expand_as(best)] >= 0).all()
    again = backward(graph, relaxations, graph.output, rows, result.multipliers).minimum(box)
    torch.testing.assert_close(again, result.bound)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_relaxation_lies_above_the_relu(one: float, other: float) -> None:
    """The upper line, in exact arithmetic, at both ends; and stable neurons have the ReLU itself."""
    from fractions import Fraction

    low, high = min(one, other), max(one, other)
    relaxation = ReluRelaxation.of(*(torch.tensor([[side]], dtype=torch.float64) for side in (low, high)))
    slope, intercept = (Fraction(float(t)) for t in (relaxation.slope, relaxation.intercept))
    for x in (Fraction(low), Fraction(high)):
        assert slope * x + intercept >= max(x, Fraction(0)) or abs(x) < Fraction(1e-300)
    if low >= 0:
        assert (slope, intercept) == (1, 0)
    elif high <= 0:
        assert (slope, intercept) == (0, 0)


def test_magnitudes_bound_values() -> None:
    graph = lower(convolutional(1))
    box = boxes(graph, 1)
    nodes = bound_nodes(graph, box)
    largest = magnitudes(graph, nodes)
    for i, x in points(box, 1):
        for position, value in graph.values(x):
            assert (value.abs() <= largest[position][i] * (1 + 1e-12)).all()
