"""Relaxations of smooth functions and products: any multipliers give valid bounds, gradients are right, and branch and
bound over their arguments says what sampling says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.pipeline.verify.bounding import root
from secateur.pipeline.verify.bounding.crown import Box, Tape, backward, relaxed_values
from secateur.pipeline.verify.bounding.forward import Lines, through_affine, through_nonlinear
from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.bounding.root import NodeBounds, bound_nodes, magnitudes
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, Node
from secateur.pipeline.verify.graph.curves import Sigmoid, Tanh
from secateur.pipeline.verify.graph.operations import (
    Affine,
    Bilinear,
    Dense,
    Elementwise,
    Input,
    Normalised,
    Operation,
    Product,
    Relu,
    Reshape,
    Scale,
    Select,
    Sum,
)
from secateur.pipeline.verify.region.embed import embed
from secateur.pipeline.verify.search.cut_split import Arguments, Search
from secateur.pipeline.verify.search.problem import Clauses, Progress

INPUTS, WIDTH = 3, 5
DOUBLE = torch.float64


class Network:
    """A small random network of given nonlinear operations: affine maps between them, and one that skips."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.nodes = [Node("x", Input(), (), (INPUTS,))]

    def add(self, operation: Operation, *inputs: int, size: int | tuple[int, ...] = WIDTH) -> int:
        shape = (size,) if isinstance(size, int) else size
        self.nodes.append(Node(f"n{len(self.nodes)}", operation, inputs, shape))
        return len(self.nodes) - 1

    def shaped(self, source: int, shape: tuple[int, ...]) -> int:
        return self.add(Reshape(self.nodes[source].shape, shape), source, size=shape)

    def dense(self, source: int, size: int = WIDTH, gain: float = 1.0) -> int:
        shape = (size, self.nodes[source].size)
        weight = gain * torch.randn(shape, generator=self.generator, dtype=DOUBLE)
        bias = torch.randn(size, generator=self.generator, dtype=DOUBLE)
        return self.add(Dense(weight, bias), source, size=size)


def sigmoids(net: Network) -> int:
    first = net.add(Elementwise(Sigmoid()), net.dense(0))
    return net.add(Elementwise(Tanh()), net.dense(first))


def product(net: Network) -> int:
    return net.add(Product(), net.dense(0), net.add(Relu(), net.dense(0)))


def attention(net: Network) -> int:
    """A product whose arguments are moved numbers of earlier ones, added to what skips it."""
    left = net.add(Select(torch.tensor([1, 0, 2, 2, 4]), (WIDTH,), (WIDTH,)), net.dense(0))
    gate = net.add(Elementwise(Sigmoid()), net.dense(0))
    return net.add(Sum((1.0, -1.0)), net.add(Product(), left, gate), left)


def mixed(net: Network) -> int:
    hidden = net.add(Relu(), net.dense(0))
    return net.add(Elementwise(Tanh()), net.add(Sum((1.0, 1.0)), net.dense(hidden), net.dense(0)))


def matrices(net: Network) -> int:
    """Stacks of two matrices (2, 2) and (2, 1) of variables, one of which a ReLU bends."""
    left = net.shaped(net.dense(0, 8), (2, 2, 2))
    right = net.shaped(net.add(Relu(), net.dense(0, 4), size=4), (2, 2, 1))
    return net.shaped(net.add(Bilinear(), left, right, size=(2, 2, 1)), (4,))


def shares(net: Network) -> int:
    """Softmax of two numbers, twice, and means of variables with these weights."""
    logit = net.dense(0, 2)
    both = net.add(Select(torch.tensor([0, 0, 1, 1]), (2,), (4,)), logit, size=4)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=DOUBLE)
    chances = net.add(Elementwise(Sigmoid()), net.add(Scale(signs, None), both, size=4), size=4)
    weights = net.add(Normalised(), net.shaped(chances, (2, 1, 2)), size=(2, 1, 2))
    values = net.shaped(net.dense(0, 8), (2, 2, 2))
    return net.shaped(net.add(Bilinear(), weights, values, size=(2, 1, 2)), (4,))


KINDS = {
    "sigmoids": sigmoids,
    "product": product,
    "attention": attention,
    "mixed": mixed,
    "matrices": matrices,
    "shares": shares,
}
kinds, seeds = st.sampled_from(list(KINDS)), st.integers(0, 10**6)


def network(kind: str, seed: int) -> tuple[BoundGraph, Box]:
    """A graph and three boxes, the last one a point."""
    net = Network(seed)
    net.dense(KINDS[kind](net), 2)
    centre = torch.randn(3, INPUTS, generator=net.generator, dtype=DOUBLE)
    radius = torch.rand(3, INPUTS, generator=net.generator, dtype=DOUBLE)
    radius[2] = 0
    return BoundGraph(tuple(net.nodes)), Box(centre - radius, centre + radius)


def samples(box: Box, count: int, seed: int) -> Tensor:
    """(count, B, inputs), the first of them corners."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(count, *box.lower.shape, generator=generator, dtype=DOUBLE)
    shares[: count // 4] = shares[: count // 4].round()
    x = box.lower + shares * (box.upper - box.lower)
    return torch.maximum(torch.minimum(x, box.upper), box.lower)


@given(kinds, seeds, st.sampled_from(["ibp", "crown", "alpha-crown"]))
@settings(max_examples=60)
def test_bounds_of_every_node_hold(kind: str, seed: int, method: str) -> None:
    graph, box = network(kind, seed)
    nodes = bound_nodes(graph, box, method, search=graph.to(torch.float32), schedule=Schedule(4))
    x = samples(box, 200, seed)
    for position, value in graph.values(x.flatten(0, 1)):
        low, high = nodes.values[position]
        value = value.unflatten(0, x.shape[:2])
        assert bool((value >= low - 1e-12 * low.abs()).all()), position
        assert bool((value <= high + 1e-12 * high.abs()).all()), position


@given(st.sampled_from([kind for kind in KINDS if kind not in ("matrices", "shares")]), seeds)
@settings(max_examples=60)
def test_lines_propagated_forwards_hold(kind: str, seed: int) -> None:
    graph, box = network(kind, seed)
    nodes = bound_nodes(graph, box, "ibp")
    relaxations = nodes.relaxations(graph)
    lines = {0: Lines.of(box)}
    x = samples(box, 200, seed)
    for position, value in graph.values(x.flatten(0, 1)):
        if position:
            node = graph.nodes[position]
            sources = [lines[source] for source in node.inputs]
            if isinstance(node.operation, Affine):
                lines[position] = through_affine(node.operation, sources, None)
            else:
                lines[position] = through_nonlinear(relaxations[position], sources)
        low, high = lines[position].range()
        value = value.unflatten(0, x.shape[:2])
        assert bool(((value >= low) & (value <= high)).all()), position
        # And the lines themselves, at the same points.
        centre, radius = (box.lower + box.upper) / 2, (box.upper - box.lower) / 2
        t = ((x - centre) / radius.clamp(min=1e-300)).clamp(-1, 1)
        below, above = (
            torch.einsum("sbk,kbn->sbn", t, line[:-1]) + line[-1]
            for line in (lines[position].lower, lines[position].upper)
        )
        slack = 1e-9 * (1 + value.abs())
        assert bool(((value >= below - slack) & (value <= above + slack)).all()), position


def test_wide_networks_of_few_inputs_are_bounded_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where substitution would cost too much, forward bounds are better than intervals."""
    net = Network(0)
    wide = net.add(Relu(), net.dense(0, 600), size=600)
    net.dense(
        net.add(Elementwise(Tanh()), net.dense(net.add(Relu(), net.dense(wide, 500, 0.1), size=500))), 2
    )
    graph = BoundGraph(tuple(net.nodes))
    centre = torch.zeros(2, INPUTS, dtype=DOUBLE)
    box = Box(centre - 0.2, centre + 0.2)
    monkeypatch.setattr(root, "DEAREST_BESIDE", 0)
    nodes, intervals = (bound_nodes(graph, box, method) for method in ("crown", "ibp"))
    widths = [(b.values[5][1] - b.values[5][0]).mean() for b in (nodes, intervals)]
    assert widths[0] < 0.5 * widths[1]
    x = samples(box, 500, 0)
    for position, value in graph.values(x.flatten(0, 1)):
        low, high = nodes.values[position]
        value = value.unflatten(0, x.shape[:2])
        assert bool(((value >= low - 1e-9) & (value <= high + 1e-9)).all()), position


def cut_problem(kind: str, seed: int) -> tuple[BoundGraph, Box, Arguments, Tensor, Tensor, NodeBounds]:
    """A graph, one box, and random cuts of its arguments: bounds (1, V)."""
    graph, boxes = network(kind, seed)
    box = boxes[torch.tensor([0])]
    nodes = bound_nodes(graph, box, "crown")
    arguments = Arguments.of(graph, nodes)
    generator = torch.Generator().manual_seed(seed + 1)
    lower, upper = arguments.lower.clone(), arguments.upper.clone()
    for index in torch.randperm(lower.shape[1], generator=generator)[:3].tolist():
        point = arguments.points(lower, upper, torch.tensor([index]))
        (lower if torch.rand((), generator=generator) < 0.5 else upper)[0, index] = point
    return graph, box, arguments, lower, upper, nodes


@given(kinds, seeds)
@settings(max_examples=60)
def test_any_multipliers_give_valid_bounds_where_the_cuts_hold(kind: str, seed: int) -> None:
    graph, box, arguments, lower, upper, nodes = cut_problem(kind, seed)
    relaxations = arguments.relaxations(lower, upper, DOUBLE)
    generator = torch.Generator().manual_seed(seed + 2)
    rows = torch.randn(1, 2, 2, generator=generator, dtype=DOUBLE)
    multipliers = {
        p: relaxation.project(
            2 * torch.randn(relaxation.initial_multiplier(2).shape, generator=generator, dtype=DOUBLE)
        )
        for p, relaxation in relaxations.items()
    }
    bound = backward(
        graph, relaxations, graph.output, rows, multipliers, magnitudes=magnitudes(graph, nodes)
    ).minimum(box)
    x = samples(box, 2000, seed)[:, 0]
    found = dict(graph.values(x))
    z = torch.cat([found[s].flatten(1) for s in arguments.sizes], 1)
    allowed = ((z >= lower) & (z <= upper)).all(1)
    values = found[graph.output] @ rows[0].T
    assert bool((values[allowed] >= bound[0]).all())


@given(kinds, seeds)
@settings(max_examples=40)
def test_gradient_is_that_of_autograd(kind: str, seed: int) -> None:
    graph, box, arguments, lower, upper, _ = cut_problem(kind, seed)
    relaxations = arguments.relaxations(lower, upper, DOUBLE)
    generator = torch.Generator().manual_seed(seed + 2)
    rows = torch.randn(1, 2, 2, generator=generator, dtype=DOUBLE)
    multipliers = {
        p: r.project(torch.rand(r.initial_multiplier(2).shape, generator=generator, dtype=DOUBLE))
        for p, r in relaxations.items()
    }
    leaves = {p: m.clone().requires_grad_(True) for p, m in multipliers.items()}
    bound = backward(graph, relaxations, graph.output, rows, leaves).minimum(box)
    wanted = torch.autograd.grad(bound.sum(), list(leaves.values()), allow_unused=True)
    tape = Tape()
    linear = backward(graph, relaxations, graph.output, rows, multipliers, tape=tape)
    arguments_met = dict(
        relaxed_values(graph, relaxations, multipliers, tape, linear.minimiser(box), graph.output)
    )
    for (p, multiplier), expected in zip(multipliers.items(), wanted, strict=True):
        ours = relaxations[p].gradient(tape.traces[p], multiplier, *arguments_met[p])
        free = (relaxations[p].rate(Schedule(1)) > 0).expand_as(ours) & (multiplier != 0)
        theirs = torch.zeros_like(ours) if expected is None else expected
        torch.testing.assert_close(
            torch.where(free, ours, 0.0), torch.where(free, theirs, 0.0), rtol=1e-6, atol=1e-8
        )


@given(kinds, seeds)
@settings(max_examples=30)
def test_an_embedded_network_is_the_network(kind: str, seed: int) -> None:
    graph, boxes = network(kind, seed)
    box = boxes[torch.tensor([1])]
    box.upper[0, 1] = box.lower[0, 1]  # an input that does not vary
    nodes = bound_nodes(graph, box, "crown")
    folded, inside = embed(graph, nodes)
    assert folded.inputs.tolist() == [0, 2]
    x = samples(box, 20, seed)[:, 0]
    torch.testing.assert_close(folded.graph.forward(x[:, folded.inputs]), graph.forward(x), rtol=0, atol=0)
    assert set(inside.values) == set(range(len(folded.graph.nodes)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_search_agrees_with_sampling(kind: str, seed: int) -> None:
    graph, boxes = network(kind, seed)
    box = boxes[torch.tensor([0])]
    x = samples(box, 20_000, seed)[:, 0]
    values = graph.forward(x)[:, 0]
    least, spread = float(values.min()), float(values.max() - values.min())
    nodes = bound_nodes(graph, box, "crown")
    outcomes = []
    for shift in (-0.15, 0.02):  # y₀ ≤ least + shift·spread: refutable, and satisfiable
        threshold = least + shift * spread
        rows = torch.tensor([[[1.0, 0.0]]], dtype=DOUBLE)
        clauses = Clauses(rows, None, torch.tensor([[-threshold]], dtype=DOUBLE))
        witnesses = []

        def suspect(
            point: Tensor, _: int, threshold: float = threshold, witnesses: list[float] = witnesses
        ) -> bool:
            value = float(graph.forward(point.unsqueeze(0))[0, 0])
            witnesses.append(value)
            return value <= threshold

        folded, inside = embed(graph, nodes)
        progress = Progress()
        outcome = Search(folded, inside, clauses).run(
            first=Schedule(10),
            schedule=Schedule(5),
            batch=64,
            expired=lambda progress=progress: progress.domains > 4_000,
            suspect=suspect,
            progress=progress,
        )
        outcomes.append(outcome)
        assert outcome != "unsat" or least > threshold  # never against a sample
        assert outcome != "sat" or min(witnesses) <= threshold
    assert outcomes[1] in ("sat", "unknown")
    assert outcomes[0] == "unsat"


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_affine_maps_before_any_nonlinear_node_are_bounded_exactly(seed: int) -> None:
    """Intervals of maps one after the other are wide; their product's is what there is."""
    net = Network(seed)
    value = net.dense(net.add(Sum((1.0, 1.0)), net.dense(net.dense(0)), net.dense(0)))
    net.add(Elementwise(Tanh()), value)
    graph = BoundGraph(tuple(net.nodes))
    centre = torch.randn(1, INPUTS, generator=net.generator, dtype=DOUBLE)
    box = Box(centre - 0.5, centre + 0.5)
    low, high = (side.flatten() for side in bound_nodes(graph, box).values[value])
    corners = torch.cartesian_prod(*torch.stack([box.lower[0], box.upper[0]], 1))
    *_, (_, y) = graph.values(corners, value)
    assert torch.allclose(low, y.amin(0)) and torch.allclose(high, y.amax(0))
    assert bool((low <= y.amin(0) + 1e-13).all()) and bool((high >= y.amax(0) - 1e-13).all())


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_means_are_bounded_the_better_for_weights_that_sum_to_one(seed: int) -> None:
    """Of means of numbers far from zero: what is known of the weights takes that distance out."""
    net = Network(seed)
    output = shares(net)
    far = list(net.nodes)
    place = next(i for i, n in enumerate(far) if isinstance(n.operation, Bilinear))
    values = far[place].inputs[1]
    source = far[values].inputs[0]
    dense = far[source].operation
    assert isinstance(dense, Dense) and dense.bias is not None
    far[source] = replace(far[source], operation=Dense(dense.weight, dense.bias + 100))
    graph = BoundGraph(tuple(far))
    unaware = BoundGraph(
        tuple(
            replace(n, operation=Reshape(n.shape, n.shape)) if isinstance(n.operation, Normalised) else n
            for n in far
        )
    )
    box = Box(torch.full((1, INPUTS), -0.1, dtype=DOUBLE), torch.full((1, INPUTS), 0.1, dtype=DOUBLE))
    rows = torch.eye(4, dtype=DOUBLE).unsqueeze(0)
    lost = []
    for each in (graph, unaware):
        nodes = bound_nodes(each, box)
        linear = backward(each, nodes.relaxations(each), output, rows, magnitudes=magnitudes(each, nodes))
        *_, (_, y) = each.values(samples(box, 200, seed)[:, 0])
        lost.append(float((y.amin(0) - linear.minimum(box)[0]).mean()))
    assert 0 <= lost[0] < lost[1]
