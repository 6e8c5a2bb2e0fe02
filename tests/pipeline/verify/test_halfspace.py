"""Bounds of neurons from the half-space of a domain's bound: no input that may satisfy the clause lies outside them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from factories import box_property
from nets import mlp
from problems import grid, instance, problem_of
from secateur.pipeline.verify.search.halfspace import Tightening


@pytest.mark.parametrize("seed", range(12))
def test_points_that_may_satisfy_the_clause_stay_inside(seed: int) -> None:
    """Random signs, slopes, weights and β's, so that half-spaces cut anywhere; and bounds only become tighter."""
    problem = instance(seed)
    tightening = Tightening(problem)
    _, z, worst = grid(problem)
    random = np.random.default_rng(seed)
    least, most = problem.bounds()
    unstable = ((least < 0) & (most > 0))[0].numpy()
    count = 40
    signs = torch.from_numpy(
        np.where(unstable, random.integers(-1, 2, (count, len(unstable))), 0).astype(np.int8)
    )
    multipliers = torch.from_numpy(random.random((count, len(unstable))))
    weights = torch.from_numpy(random.dirichlet([1.0, 1.0], count))
    clause = torch.zeros(count, dtype=torch.long)
    bounds = (least.expand(count, -1), most.expand(count, -1))
    linear = problem.certified_linear(clause, weights, signs, multipliers, bounds)
    lower, upper = tightening.bounds(linear)
    tighter = 0
    for i in range(count):
        may = (z * signs[i] >= 0).all(1) & (worst <= 0)
        assert (z[may] >= lower[i]).all() and (z[may] <= upper[i]).all()
        tighter += int(((lower[i] > least) | (upper[i] < most)).sum())
    assert tighter > 0


def test_the_bound_is_the_best_of_the_half_space() -> None:
    """On one layer the bounds approach those of the linear program over box and half-space."""
    from scipy.optimize import linprog

    problem = problem_of(
        mlp(1, 6, (8,), 2), box_property([-1.0] * 6, [1.0] * 6, 2, "(and (<= Y_0 -4.0) (>= (- Y_1 Y_0) 1.0))")
    )
    tightening = Tightening(problem)
    signs = torch.zeros(1, problem.layout.total, dtype=torch.int8)
    half = torch.full((1, problem.layout.total), 0.5, dtype=torch.float64)
    weights = torch.full((1, 2), 0.5, dtype=torch.float64)
    linear = problem.certified_linear(torch.zeros(1, dtype=torch.long), weights, signs, half)
    lower, _ = tightening.bounds(linear)
    least, _ = problem.bounds()
    normal, shift = linear.coefficient[0, 0].numpy(), float(linear.constant)
    layer = problem.folded.graph.nodes[1].operation
    gained, possible = 0.0, 0.0
    for j, (row, offset) in enumerate(zip(layer.weight.numpy(), layer.bias.tolist(), strict=True)):
        best = linprog(row, A_ub=normal[None], b_ub=[-shift], bounds=(-1, 1))
        assert best.status == 0
        assert lower[0, j] <= best.fun + offset + 1e-9
        gained += max(0.0, float(lower[0, j] - least[0, j]))
        possible += best.fun + offset - float(least[0, j])
    assert possible > 0.1
    assert gained > 0.7 * possible
