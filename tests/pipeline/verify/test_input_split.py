"""Splitting the input box: bounds on parts of it, planted counterexamples, and which input is split."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import box_property
from nets import Net, mlp, residual
from oracles import exact
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline.verify import engine, verify
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.optimise import Specification
from secateur.pipeline.verify.bounding.root import bound_nodes
from secateur.pipeline.verify.bounding.sensitivity import input_scores
from secateur.pipeline.verify.bounding.specification import NEVER, subproblems
from secateur.pipeline.verify.region.fold import Folded, fold_and_bound
from secateur.pipeline.verify.search import input_split, strategy
from secateur.pipeline.verify.search.input_split import Bounded
from secateur.pipeline.verify.search.problem import Clauses, Progress


def folded_of(model: Model, radius: float = 1.0) -> Folded:
    ready = engine.Engine(model)
    side = torch.full((1, ready.graph.input.size), radius, dtype=torch.float64)
    return fold_and_bound(ready.graph, ready.shaped(Box(-side, side)), None)[0]


def random_clauses(generator: torch.Generator, count: int, rows: int, outputs: int, inputs: int) -> Clauses:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    constant = normal(count, rows)
    constant[0, 1:] = NEVER  # a clause with fewer rows than the others
    return Clauses(normal(count, rows, outputs), normal(count, rows, inputs), constant)


def parts_of(box: Box, generator: torch.Generator, count: int) -> Box:
    ends = torch.rand(2, count, box.lower.shape[1], generator=generator, dtype=torch.float64)
    low, high = ends.amin(0), ends.amax(0)
    width = box.upper - box.lower
    return Box(box.lower + low * width, box.lower + high * width)


@pytest.mark.parametrize("build", [lambda s: mlp(s, 3, (8, 8, 6), 3), lambda s: residual(s, 3, 7, 3)])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_bounds_of_clauses_hold_on_parts_of_the_box(build: object, seed: int) -> None:
    """The largest row of a clause is nowhere below its bound, whatever the weights the ascent began with."""
    assert callable(build)
    folded = folded_of(build(seed % 50))
    generator = torch.Generator().manual_seed(seed)
    boxes = parts_of(folded.box, generator, 6)
    clauses = random_clauses(generator, 2, 3, 3, 3)
    nodes = bound_nodes(folded.graph, boxes, magnitudes=folded.magnitudes)
    open_ = torch.rand(6, 2, generator=generator) < 0.8
    weights = clauses.equal_weights(torch.float64).expand(6, -1, -1).contiguous()
    bounded = Bounded.of(folded, clauses, nodes, open_, weights)
    assert torch.equal(open_.nonzero(), torch.stack([bounded.domain, bounded.clause], 1))
    assert (bounded.weights >= 0).all() and (bounded.weights[bounded.clause == 0, 1:] == 0).all()
    for i, k, bound in zip(bounded.domain, bounded.clause, bounded.bound, strict=True):
        share = torch.rand(200, 3, generator=generator, dtype=torch.float64)
        corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
        x = boxes.lower[i] + torch.cat([share, corners]) * (boxes.upper - boxes.lower)[i]
        assert clauses.direct is not None
        rows = folded.graph.forward(x) @ clauses.rows[k].T + x @ clauses.direct[k].T + clauses.constant[k]
        assert rows.amax(1).min() >= bound


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), clauses=st.integers(1, 3))
def test_a_planted_counterexample_is_never_lost(seed: int, clauses: int) -> None:
    """A property that one point meets with equality, its clause among others, is never refuted by the search."""
    random = np.random.default_rng(seed)
    model = mlp(seed % 40, 2, (6, 6), 2)
    x = (random.integers(-64, 65, size=2) / 64).tolist()
    y = exact(model, [Fraction(v) for v in x])
    atoms = [
        f"(>= (+ Y_{i} (* {scale} X_0)) {vnnlib.decimal(y[i] + Fraction(scale) * Fraction(x[0]))})"
        for i, scale in ((0, "0.5"), (1, "-0.25"))
    ]
    planted = f"(and {' '.join(atoms)})"
    others = [f"(and (>= Y_0 {50 + i}.0) (<= Y_1 0.0))" for i in range(clauses - 1)]
    text = box_property([-1.0] * 2, [1.0] * 2, 2, f"(or {' '.join([*others, planted])})")
    folded = folded_of(model)
    clauses_of = Clauses(*strategy.specification(subproblems([vnnlib.parse(text, "p")]), folded))
    progress = Progress()
    for steps in (0, 4, 1, 15):  # the search stops and goes on from what it has left open
        outcome = input_split.solve(
            folded,
            clauses_of,
            batch=4,
            expired=iter([False] * steps + [True] * 10**6).__next__,
            suspect=lambda *_: False,
            progress=progress,
        )
        assert outcome == "unknown"
        assert progress.open or progress.undecided


def test_wide_networks_are_cut_into_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the cutting, and for every batch size, the verdict is that of the exact maximum."""
    model = mlp(3, 2, (12, 12), 1)
    graph = engine.Engine(model).graph
    axis = torch.linspace(-1, 1, 301, dtype=torch.float64)
    most = float(graph.forward(torch.cartesian_prod(axis, axis)).max())
    for wide, batch in ((800, 256), (800, 1), (6, 64)):
        monkeypatch.setattr(input_split, "WIDE", wide)
        monkeypatch.setattr(strategy, "INPUT_BATCH", batch)
        for limit, verdict in ((most + 0.05, "unsat"), (most - 0.01, "sat")):
            text = box_property([-1.0] * 2, [1.0] * 2, 1, f"(>= Y_0 {limit!r})")
            assert verify(model, vnnlib.parse(text, "p"), timeout=30).verdict == verdict


def test_an_input_behind_stable_neurons_is_not_split() -> None:
    """x₀ reaches the output through ReLUs that are always active, x₁ through one that is not."""
    net = Net(0, 2)
    weight = net.constant([[3.0, 0.0], [0.0, 1.0]])
    hidden = net("Relu", net("Add", net("MatMul", "x", weight), net.constant([10.0, 0.0])))
    folded = folded_of(net.finish(net("MatMul", hidden, net.constant([[1.0], [-1.0]]))))
    nodes = bound_nodes(folded.graph, folded.box, magnitudes=folded.magnitudes)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    lossy = input_scores(folded.graph, nodes, Specification(one, None, None))
    assert lossy[0, 1] > lossy[0, 0]
    # Where nothing is lost the rows' own slopes decide.
    corner = Box(folded.box.lower.clone(), folded.box.upper.clone())
    corner.lower[0, 1] = 0.5
    nodes = bound_nodes(folded.graph, corner, magnitudes=folded.magnitudes)
    exact_scores = input_scores(folded.graph, nodes, Specification(one, None, None))
    assert exact_scores[0, 0] > exact_scores[0, 1] > 0
