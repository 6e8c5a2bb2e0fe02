"""Small random problems on folded networks, and their truth on a grid of the box."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from factories import box_property
from nets import mlp, residual
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline.verify import engine
from secateur.pipeline.verify.bounding.root import bound_nodes
from secateur.pipeline.verify.bounding.specification import subproblems
from secateur.pipeline.verify.region.fold import fold
from secateur.pipeline.verify.search import strategy
from secateur.pipeline.verify.search.problem import Problem


def problem_of(model: Model, text: str) -> Problem:
    ready = engine.Engine(model)
    problems = subproblems([vnnlib.parse(text, "p")])
    folded = fold(ready.graph, bound_nodes(ready.graph, ready.shaped(problems.boxes)))
    return Problem(*strategy.specification(problems, folded), folded)


def instance(seed: int) -> Problem:
    random = np.random.default_rng(seed)
    model = residual(seed, 2, 4, 2) if seed % 3 == 2 else mlp(seed, 2, (5,) if seed % 3 else (4, 3), 2)
    a, b = random.normal(size=2).round(2)
    text = box_property(
        [-1.0, -1.0], [1.0, 1.0], 2, f"(and (<= (+ Y_0 (* 0.5 X_0)) {a}) (>= (- Y_1 Y_0) {b}))"
    )
    return problem_of(model, text)


def grid(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Points of the box, all neurons' arguments there (N, U), and the clause's largest row (N,)."""
    axis = torch.linspace(-1, 1, 101, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    graph, layout = problem.folded.graph, problem.layout
    values = dict(graph.values(x))
    z = layout.join({p: values[graph.preactivation(p)] for p in layout.sizes})
    assert problem.direct is not None
    rows = values[graph.output] @ problem.rows[0].T + x @ problem.direct[0].T + problem.constant[0]
    return x, z, rows.amax(1)
