"""Every part of a loss against its formula, written out once more, and its gradient against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, linear, softmax
from trainable import CLASSES, graph_of, images, network

from secateur.pipeline.train.bounds.propagate import ball, intervals
from secateur.pipeline.train.bounds.trace import trace
from secateur.pipeline.train.graph import TrainableGraph
from secateur.pipeline.train.objectives import gradalign, slimming, stability
from secateur.pipeline.train.objectives.batch import Batch
from secateur.pipeline.train.objectives.table import outcome, regularisers, total
from secateur.pipeline.train.ramp import Stage
from secateur.pipeline.train.settings import Settings

EPSILON = 0.05
SEEDS = range(10)

Bounds = list[tuple[Tensor, Tensor, Tensor]]


def by_hand(module: nn.Sequential, x: Tensor) -> tuple[Bounds, tuple[Tensor, Tensor], Tensor]:
    """l, u and γ² of every layer of ReLUs, the bounds in front of the last layer, and that layer's weight: interval
    arithmetic by the signs of weights, on the module's own parameters, BatchNormalization by its running statistics."""
    low, high = (x - EPSILON).clamp(0, 1), (x + EPSILON).clamp(0, 1)
    found: Bounds = []
    square = torch.ones(())
    for layer in module:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if layer is module[-1]:
                return found, (low, high), layer.weight
            positive, negative = layer.weight.clamp(min=0), layer.weight.clamp(max=0)

            def run(v: Tensor, weight: Tensor, layer: nn.Module = layer) -> Tensor:
                if isinstance(layer, nn.Conv2d):
                    return conv2d(v, weight, None, layer.stride, layer.padding)
                return linear(v, weight)

            assert layer.bias is not None
            bias = layer.bias if isinstance(layer, nn.Linear) else layer.bias[:, None, None]
            low, high = (
                run(low, positive) + run(high, negative) + bias,
                run(high, positive) + run(low, negative) + bias,
            )
            square = torch.ones(())
        elif isinstance(layer, nn.BatchNorm2d):
            ends = [layer(side) for side in (low, high)]
            low, high = torch.minimum(*ends), torch.maximum(*ends)
            square = layer.weight.detach()[:, None, None] ** 2
        elif isinstance(layer, nn.ReLU):
            found.append((low, high, square))
            low, high = low.clamp(min=0), high.clamp(min=0)
        else:
            low, high = layer(low), layer(high)
    raise AssertionError


def nrs_by_hand(bounds: Bounds) -> Tensor:
    return -torch.cat([torch.tanh(1 + low * high / square).flatten() for low, high, square in bounds]).mean()


def rs_by_hand(bounds: Bounds) -> Tensor:
    return -torch.cat([torch.tanh(1 + low * high).flatten() for low, high, _ in bounds]).mean()


def instability_by_hand(bounds: Bounds) -> Tensor:
    """An image at a time."""
    sums = [
        sum((-low[i] * high[i])[(low[i] < 0) & (high[i] > 0)].sum() for low, high, _ in bounds)
        for i in range(len(bounds[0][0]))
    ]
    return torch.stack([torch.as_tensor(each) for each in sums]).mean()


BY_HAND: dict[str, tuple[Callable[..., Tensor], Callable[[Bounds], Tensor]]] = {
    "nrs": (stability.nrs, nrs_by_hand),
    "rs": (stability.rs, rs_by_hand),
    "instability": (stability.instability, instability_by_hand),
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("seed", SEEDS)
def test_stability_losses_and_their_gradients(name: str, seed: int) -> None:
    ours, theirs = BY_HAND[name]
    module, (x, _) = network(seed).eval(), images(5, seed)
    graph = graph_of(module)
    run = trace(graph, x)
    found = ours(run, intervals(run, *ball(x, EPSILON)))
    expected = theirs(by_hand(module, x)[0])
    assert torch.allclose(found, expected, atol=1e-12)
    same_gradients(graph, found, module, expected)


def same_gradients(graph: TrainableGraph, found: Tensor, module: nn.Module, expected: Tensor) -> None:
    names = list(graph.parameters)
    ours = torch.autograd.grad(
        found, list(graph.parameters.values()), materialize_grads=True, allow_unused=True
    )
    weights = dict(module.named_parameters())
    theirs = torch.autograd.grad(
        expected, [weights[name] for name in names], materialize_grads=True, allow_unused=True
    )
    assert any(gradient.abs().max() > 1e-6 for gradient in theirs)
    for name, gradient, reference in zip(names, ours, theirs, strict=True):
        assert torch.allclose(gradient, reference, rtol=1e-8, atol=1e-10), name


def test_larger_scales_make_nothing_better() -> None:
    """NRSLoss does not see a common factor of γ and β."""
    module, (x, _) = network(1).eval(), images(4, 0)
    values = []
    for factor in (1.0, 3.0):
        with torch.no_grad():
            module.bn1.weight.mul_(factor)  # type: ignore[union-attr, operator]
            module.bn1.bias.mul_(factor)  # type: ignore[union-attr, operator]
        bounds = by_hand(module, x)[0][:1]
        graph = graph_of(module)
        run = trace(graph, x)
        first = replace(run, nodes=run.nodes[: run.relus[0] + 1])
        values.append(stability.nrs(first, intervals(first, *ball(x, EPSILON))))
        assert torch.allclose(values[-1], nrs_by_hand(bounds))
    assert torch.allclose(*values)


def test_a_scale_of_zero_counts_as_it_is() -> None:
    module, (x, _) = network(1).eval(), images(4, 0)
    with torch.no_grad():
        module.bn1.weight[0] = 0  # type: ignore[union-attr, index, operator]
    graph = graph_of(module)
    run = trace(graph, x)
    loss = stability.nrs(run, intervals(run, *ball(x, EPSILON)))
    gradients = torch.autograd.grad(loss, list(graph.parameters.values()), allow_unused=True)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)


def test_slimming() -> None:
    module = network(5)
    graph = graph_of(module)
    scales = [layer.weight for layer in module if isinstance(layer, nn.BatchNorm2d)]
    assert len(scales) == 2
    found, expected = slimming.bn_l1(graph), torch.cat([scale.abs() for scale in scales]).mean()
    assert torch.equal(found, expected)
    same_gradients(graph, found, module, expected)
    assert slimming.bn_l1(graph_of(network(0))) == 1


def batch(seed: int, settings: Settings, stage: Stage, training: bool = False) -> Batch:
    graph, (x, y) = graph_of(network(seed)), images(5, seed)
    if training:
        graph.train()
    return Batch(graph, x, y, settings, stage, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_ibp_loss_and_its_gradient(seed: int) -> None:
    """Written out: the worst margins with the last layer merged, an image and a class at a time."""
    module, (x, y) = network(seed).eval(), images(5, seed)
    kappa = 0.3
    _, (low, high), weight = by_hand(module, x)
    bias = module[-1].bias
    losses, proved = [], []
    for image, label in enumerate(y.tolist()):
        worst = []
        for other in range(CLASSES):
            row = weight[other] - weight[label]
            most = (row.clamp(min=0) * high[image] + row.clamp(max=0) * low[image]).sum()
            worst.append(most + bias[other] - bias[label])  # type: ignore[index]
        losses.append(torch.log(torch.exp(torch.stack(worst)).sum()))
        proved.append(max(float(most.detach()) for other, most in enumerate(worst) if other != label) < 0)
    clean = -torch.log(softmax(module(x), 1)[torch.arange(len(y)), y]).mean()
    expected = kappa * clean + (1 - kappa) * torch.stack(losses).mean()
    given = batch(seed, Settings(objective="ibp", epsilon=EPSILON), Stage(EPSILON, kappa, 0.0))
    found = outcome(given)
    assert torch.allclose(found.loss, expected, atol=1e-10)
    same_gradients(given.graph, found.loss, module, expected)
    assert found.right.tolist() == proved


CASES = {
    "ibp": Settings(objective="ibp", epsilon=EPSILON),
    "crown-ibp": Settings(objective="crown-ibp", epsilon=EPSILON, loss_fusion=False),
    "fused": Settings(objective="crown-ibp", epsilon=EPSILON),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_certified_gradients_by_finite_differences(name: str, seed: int) -> None:
    """Along a random direction of all weights, statistics of the batch included."""
    stage = Stage(EPSILON, 0.2, 0.6)
    given = batch(seed, CASES[name], stage, training=True)
    found = outcome(given).loss
    parameters = given.graph.parameters
    gradients = torch.autograd.grad(found, list(parameters.values()))
    generator = torch.Generator().manual_seed(seed)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters.values()]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    values = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for parameter, way in zip(parameters.values(), direction, strict=True):
                parameter.add_(way, alpha=step)
        again = Batch(given.graph, given.x, given.y, given.settings, stage, torch.Generator())
        values.append(float(outcome(again).loss.detach()))
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_certified_losses_bound_the_loss_anywhere_in_the_ball(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    losses = {
        name: float(outcome(batch(seed, settings, Stage(EPSILON, 0.0, 1.0))).loss.detach())
        for name, settings in CASES.items()
    }
    given = batch(seed, CASES["ibp"], Stage(EPSILON, 0.0, 1.0))
    low, high = ball(given.x, EPSILON)
    with torch.no_grad():
        for _ in range(50):
            point = low + (high - low) * torch.rand(low.shape, generator=generator, dtype=low.dtype).round()
            loss = float(cross_entropy(given.graph(point).flatten(1), given.y))
            assert all(loss <= bound + 1e-9 for bound in losses.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_gradalign_and_its_gradient(seed: int) -> None:
    """1 − cos of two input gradients, on the torch module; a second derivative of the network."""
    module, (x, y) = network(seed), images(5, seed)
    graph = graph_of(module)
    graph.train()
    module.train()
    before = graph.snapshot()
    found = gradalign.misalignment(graph, x, y, EPSILON, torch.Generator().manual_seed(7))
    assert all((before[name] == array).all() for name, array in graph.snapshot().items())
    noise = (
        2 * EPSILON * torch.rand(x.shape, generator=torch.Generator().manual_seed(7), dtype=x.dtype) - EPSILON
    )
    sides = []
    for point in (x, x + noise):
        point.requires_grad_()
        (side,) = torch.autograd.grad(cross_entropy(module(point), y), point, create_graph=True)
        sides.append(side.flatten(1))
    products = (sides[0] * sides[1]).sum(1) / (sides[0].square().sum(1) * sides[1].square().sum(1)).sqrt()
    expected = (1 - products[~products.isnan()]).mean()
    assert float(found.detach()) > 1e-4
    assert torch.allclose(found, expected, atol=1e-9)
    same_gradients(graph, found, module, expected)


def test_a_batch_s_loss_is_the_weighted_sum_of_its_parts() -> None:
    settings = Settings(
        objective="adversarial", epsilon=EPSILON, gradalign=0.5, nrs=2.0, rs=3.0, instability=0.1, bn_l1=7.0
    )
    given = batch(5, settings, Stage(EPSILON, 1.0, 0.0), training=True)
    found = outcome(given)
    terms = regularisers(given)
    assert set(terms) == {"nrs", "rs", "instability", "bn_l1"}
    expected = (
        found.loss + 2 * terms["nrs"] + 3 * terms["rs"] + 0.1 * terms["instability"] + 7 * terms["bn_l1"]
    )
    assert torch.allclose(total(given, found, terms), expected)
