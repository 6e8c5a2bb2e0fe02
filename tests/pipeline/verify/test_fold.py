"""A folded network is the original inside its box, in values and in rigorous bounds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import RELU, case
from nets import INPUTS, Net, convolutional, ending_in_relu, mlp, residual, starting_with_relu, without_relu
from oracles import exact
from secateur.formats.onnx_model import Model
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.root import bound_nodes
from secateur.pipeline.verify.graph.lowering import lower
from secateur.pipeline.verify.region.fold import fold

ARCHITECTURES = {
    "mlp": lambda seed: mlp(seed, INPUTS, (12, 9), 2),
    "residual": lambda seed: residual(seed, INPUTS, 8, 2),
    "convolutional": convolutional,
    "ending in relu": lambda seed: ending_in_relu(seed, INPUTS),
    "starting with relu": lambda seed: starting_with_relu(seed, INPUTS),
    "without relu": lambda seed: without_relu(seed, INPUTS),
}


def check(model: Model, seed: int, widths: str) -> None:
    graph = lower(model)
    random = np.random.default_rng(seed)
    centre = random.normal(size=(1, *graph.input.shape))
    radius = random.uniform(0.05, 0.6, size=centre.shape)
    if widths == "some":
        radius[random.random(centre.shape) < 0.5] = 0
    elif widths == "none":
        radius[:] = 0
    box = Box(torch.from_numpy(centre - radius), torch.from_numpy(centre + radius))
    nodes = bound_nodes(graph, box)
    folded = fold(graph, nodes)
    n = len(folded.inputs)
    assert folded.graph.input.shape == (n,) and folded.box.lower.shape == folded.box.upper.shape == (1, n)
    assert n == max(1, int((radius > 0).sum()))
    assert set(folded.neurons) == set(folded.bounds) == set(folded.graph.relus)
    assert set(folded.magnitudes) == set(range(len(folded.graph.nodes)))
    for position, node in enumerate(folded.graph.nodes):
        assert folded.magnitudes[position].shape == (1, node.size)
    x = torch.from_numpy(centre + random.choice([-1, 1, 0.3, -0.2], size=(30, *centre.shape[1:])) * radius)
    original = dict(graph.values(x))
    ours = folded.graph.values(x.flatten(1)[:, folded.inputs])
    for position, value in ours:
        largest = folded.magnitudes[position]
        assert (value.abs() <= largest * (1 + 1e-9) + 1e-12).all()
        if position in folded.neurons:
            relu, kept = folded.neurons[position]
            torch.testing.assert_close(value, original[relu].flatten(1)[:, kept], rtol=1e-9, atol=1e-9)
            low, high = folded.bounds[position]
            assert low.shape == high.shape == (1, len(kept)) and (high > 0).all()
            dropped = torch.ones(graph.nodes[relu].size, dtype=torch.bool)
            dropped[kept] = False
            assert (original[relu].flatten(1)[:, dropped] == 0).all()
    torch.testing.assert_close(value, original[graph.output].flatten(1), rtol=1e-9, atol=1e-9)


@given(
    st.sampled_from(sorted(ARCHITECTURES)), st.integers(0, 10**6), st.sampled_from(["all", "some", "none"])
)
@settings(max_examples=60)
def test_folded_architectures(name: str, seed: int, widths: str) -> None:
    check(ARCHITECTURES[name](seed), seed, widths)


@pytest.mark.parametrize("name", RELU)
def test_folded_operators(name: str) -> None:
    check(case(name, 4), 4, "some")


def test_a_layer_may_lose_all_its_neurons() -> None:
    net = Net(0, 3)
    dead = net("Relu", net("Sub", net("Relu", "x"), net.constant(100.0)))
    model = net.finish(net("Add", net.dense(dead, 3, 2), net("MatMul", "x", net.weight(3, 2))))
    check(model, 0, "all")
    alone = Net(0, 3)
    dead = alone("Relu", alone("Sub", alone("Relu", "x"), alone.constant(100.0)))
    check(alone.finish(alone.dense(dead, 3, 2)), 0, "all")


@pytest.mark.parametrize("convolution", [False, True])
def test_the_sum_of_fixed_inputs_is_rounded_outward(convolution: bool) -> None:
    """8 ones and 6,000 numbers of half an ulp each: a float64 sum loses thousands of roundings one way.

    The folded network has one input and one neuron a layer, so that its own sizes say nothing of that sum.
    """
    size, ones, half = 6000, 8, 2.0**-53
    net = Net(0, size)
    if convolution:
        line = net("Reshape", "x", net.ints(1, 1, size))
        pairs = net("Conv", line, net.constant(np.ones((1, 1, 2))), strides=[2])
        total = net("Conv", pairs, net.constant(np.ones((1, 1, size // 2))))
        summed = net("Reshape", total, net.ints(1, 1))
    else:
        summed = net("Gemm", "x", net.constant(np.ones((1, size))), transB=1)
    graph = lower(net.finish(net("Neg", net("Relu", summed))))
    low = torch.full((1, size), half, dtype=torch.float64)
    low[0, :ones] = 1.0
    high = low.clone()
    low[0, -1], high[0, -1] = -1.0, 0.0
    truth = ones + (size - ones - 1) * Fraction(half)
    nodes = bound_nodes(graph, Box(low, high))
    folded = fold(graph, nodes)
    again = bound_nodes(folded.graph, folded.box, magnitudes=folded.magnitudes)
    lost = truth + Fraction(float(folded.graph.forward(torch.zeros(1, 1).double())))
    assert convolution or lost > 1e-13  # or there is nothing to test: the sum is exact
    for bounds, last in ((nodes, graph.output), (again, folded.graph.output)):
        assert Fraction(float(bounds.values[last][0])) <= -truth


@pytest.mark.parametrize("seed", range(20))
def test_folded_bounds_hold_exactly(seed: int) -> None:
    """At a corner, in exact arithmetic, with weights of very different sizes."""
    random = np.random.default_rng(seed)
    net = Net(seed, 4)
    value, width = "x", 4
    for _ in range(2):
        scale = 10.0 ** random.integers(-6, 7, size=(width, 5))
        weight = net.constant(random.normal(size=(width, 5)) * scale)
        value = net("Relu", net("Add", net("MatMul", value, weight), net.weight(5)))
        width = 5
    model = net.finish(net("MatMul", value, net.weight(5, 1)))
    graph = lower(model)
    low = torch.from_numpy(random.normal(size=(1, 4)))
    high = low + torch.tensor([0.3, 0.0, 0.0, 0.1], dtype=torch.float64)
    folded = fold(graph, bound_nodes(graph, Box(low, high)))
    for corner in (low, high):
        point = Box(corner[:, folded.inputs], corner[:, folded.inputs])
        again = bound_nodes(folded.graph, point, magnitudes=folded.magnitudes)
        bottom, top = (Fraction(float(side)) for side in again.values[folded.graph.output])
        (y,) = exact(model, corner.flatten().tolist())
        assert bottom <= y <= top
