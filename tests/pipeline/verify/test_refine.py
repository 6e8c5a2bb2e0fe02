"""Neurons' bounds refined by branch and bound: against enumeration, in exact arithmetic, and in the whole engine."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch

from factories import box_property
from nets import Net, ending_in_relu, mlp, residual, starting_with_relu
from oracles import exact, minimise, pieces
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline.verify import engine, verify
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.bounding.root import NodeBounds
from secateur.pipeline.verify.graph.lowering import lower
from secateur.pipeline.verify.region.fold import fold_and_bound
from secateur.pipeline.verify.region.refine import Allowance
from secateur.pipeline.verify.region.unit_box import UnitBox, on_unit_box

WIDTHS = (7, 5, 4)


def box_of(seed: int, inputs: int, radius: float = 0.8) -> Box:
    centre = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, inputs)) * 0.3)
    return Box(centre - radius, centre + radius)


def refined(
    model: Model, box: Box, multiplications: float, known: NodeBounds | None = None, stop: bool = False
) -> NodeBounds:
    graph = lower(model)
    allowance = Allowance(multiplications, max(1, len(graph.relus) - 1))
    return fold_and_bound(graph, box, Schedule(10), lambda: stop, known=known, allowance=allowance)[1]


def layers(model: Model, nodes: NodeBounds) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(low.flatten(), high.flatten()) for low, high in nodes.preactivations(lower(model)).values()]


def extremes(model: Model, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value of every output, by enumeration of all activation patterns."""
    lower_end, upper_end = box.lower.flatten().numpy(), box.upper.flatten().numpy()
    found = []
    for piece in pieces(model, lower_end, upper_end):
        both = []
        for sign in (1.0, -1.0):
            for slope, offset in zip(piece.slope, piece.offset, strict=True):
                least = minimise(sign * slope, piece.matrix, piece.limit, lower_end, upper_end)
                both.append(np.inf if least is None else least + sign * offset)
        found.append(both)
    least, most = np.split(np.min(found, axis=0), 2)
    return least, -most


@pytest.mark.parametrize("seed", [0, 3, 4])
def test_refined_bounds_are_those_of_enumeration(seed: int) -> None:
    """They hold, and given enough work they are as tight as can be, where α-CROWN's are not."""
    model, box = mlp(seed, 3, WIDTHS, 2), box_of(seed, 3)
    loose, tight = (layers(model, refined(model, box, work)) for work in (0, 1e8))
    gained = 0.0
    for depth in (1, 2):
        # Weights are drawn in order, so that this network computes the arguments of the layer `depth`.
        least, most = (
            torch.from_numpy(v) for v in extremes(mlp(seed, 3, WIDTHS[:depth], WIDTHS[depth]), box)
        )
        (low, high), (before_low, before_high) = tight[depth], loose[depth]
        assert (low <= least + 1e-6).all() and (high >= most - 1e-6).all()
        unstable = (before_low < 0) & (before_high > 0)
        slack = 0.15 * (before_high - before_low) + 1e-4
        assert (least - low <= slack)[unstable].all() and (high - most <= slack)[unstable].all()
        gained += float(((before_high - before_low) - (high - low)).sum())
    assert gained > 0.1


@pytest.mark.parametrize("kind", ["mlp", "residual", "ending in relu", "starting with relu"])
def test_bounds_hold_at_points_and_only_shrink(kind: str) -> None:
    nets: dict[str, Callable[[int], Model]] = {
        "mlp": lambda seed: mlp(seed, 6, (20, 15, 10, 8), 2),
        "residual": lambda seed: residual(seed, 6, 12, 3),
        "ending in relu": lambda seed: ending_in_relu(seed, 6),
        "starting with relu": lambda seed: starting_with_relu(seed, 6),
    }
    shrunk = 0.0
    for seed in range(4):
        model, box = nets[kind](seed), box_of(seed, 6)
        graph = lower(model)
        box = Box(box.lower.view(1, *graph.input.shape), box.upper.view(1, *graph.input.shape))
        known = None
        for work in (0, 1e5, 1e7):
            nodes = refined(model, box, work, known)
            if known is not None:
                for (low, high), (below, above) in zip(
                    layers(model, nodes), layers(model, known), strict=True
                ):
                    assert (low >= below).all() and (high <= above).all()
                    shrunk += float(((above - below) - (high - low)).sum())
            known = nodes
        random = np.random.default_rng(seed)
        share = torch.from_numpy(random.choice([0.0, 1.0, 0.5, 0.3], size=(2000, *graph.input.shape)))
        x = box.lower + share * (box.upper - box.lower)
        for position, value in graph.values(x):
            low, high = nodes.values[position]
            assert (value >= low - 1e-9).all() and (value <= high + 1e-9).all(), (kind, seed, position)
    assert shrunk > 0 or kind in ("ending in relu", "starting with relu")


def test_bounds_hold_in_exact_arithmetic() -> None:
    """Large weights that nearly cancel: without margins for rounding, some of these bounds are wrong."""
    for seed in range(10):
        random = np.random.default_rng(seed)
        half = random.normal(size=(3, 4)) * 1e6
        first = np.concatenate([half, half * (1 + 1e-6 * random.normal(size=half.shape))], axis=1)
        second = random.normal(size=(4, 3)) * 1e3

        def net(
            last: bool, *, seed: int = seed, first: np.ndarray = first, second: np.ndarray = second
        ) -> Model:
            net = Net(seed, 3)
            hidden = net("Relu", net("Add", net("MatMul", "x", net.constant(first)), net.weight(8)))
            value = net("MatMul", hidden, net.constant(np.concatenate([second, -second])))
            return net.finish(net("MatMul", net("Relu", value), net.weight(3, 1)) if last else value)

        box = box_of(seed, 3, 1e-5)
        _, (low, high) = layers(net(True), refined(net(True), box, 1e7))
        for share in (0.0, 0.5, 1.0, 0.3):
            x = (box.lower + share * (box.upper - box.lower)).flatten().tolist()
            for value, least, most in zip(exact(net(False), x), low.tolist(), high.tolist(), strict=True):
                assert Fraction(least) <= value <= Fraction(most)


def test_no_time_and_no_work_change_nothing() -> None:
    model, box = mlp(1, 6, (20, 15, 10), 2), box_of(1, 6)
    plain = fold_and_bound(lower(model), box, Schedule(10))[1]
    for (low, high), (below, above) in zip(
        layers(model, refined(model, box, 1e8, plain, stop=True)), layers(model, plain), strict=True
    ):
        assert torch.equal(low, below) and torch.equal(high, above)


@pytest.mark.parametrize("seed", range(2))
def test_engine_decides_as_the_milp_does_on_refined_bounds(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hardly any search between refinements that grow slowly: verdicts come after some of these."""
    monkeypatch.setattr(engine, "BURST", 0)
    monkeypatch.setattr(engine, "FIRST_REFINEMENT", 2e5)
    model = mlp(seed, 9, (16, 12, 10), 1)
    x = np.random.default_rng(seed).uniform(-1, 1, (20_000, 9))
    most = float(engine.Engine(model).replay.outputs(x).max())
    refinements = []
    for margin in (-0.05, 0.5, 1.5):
        text = box_property([-1.0] * 9, [1.0] * 9, 1, f"(>= Y_0 {most + margin!r})")
        query = vnnlib.parse(text, "p")
        result = verify(model, query, timeout=60)
        reference = verify(model, query, timeout=60, verifier="milp").verdict
        assert result.verdict == reference or (result.verdict, reference) == ("sat", "unknown")
        refinements.append("refine" in result.phases and result.verdict == "unsat")
    assert any(refinements)


def test_the_unit_box_is_the_box_moved() -> None:
    model, box = mlp(3, 5, (8, 6), 2), box_of(3, 5)
    folded, _ = fold_and_bound(lower(model), box, None)
    centre, radius = (box.lower + box.upper) / 2, (box.upper - box.lower) / 2
    u = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (50, 5)))
    moved = on_unit_box(folded.graph, folded.box).forward(u)
    torch.testing.assert_close(moved, folded.graph.forward(centre + radius * u))
    coefficient = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 3, 5)))
    unit = UnitBox.like(folded.box)
    torch.testing.assert_close(unit.minimum(coefficient), Box(unit.lower, unit.upper).minimum(coefficient))
    corner = unit.minimiser(coefficient)
    torch.testing.assert_close((corner * coefficient).sum(2), unit.minimum(coefficient))
