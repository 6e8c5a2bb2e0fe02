"""Splitting neurons without tightening their bounds: verdicts, warm starts that are not the best, contradictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from factories import box_property
from nets import mlp
from problems import grid, instance, problem_of
from secateur.formats import vnnlib
from secateur.pipeline.verify import engine
from secateur.pipeline.verify.bounding.branching import costliest
from secateur.pipeline.verify.bounding.optimise import optimise
from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.search import relu_split
from secateur.pipeline.verify.search.problem import Problem, Progress


def searched(problem: Problem, schedule: Schedule) -> tuple[str, int]:
    """The verdict, and how many domains it took."""

    def suspect(x: Tensor, clause: int) -> bool:
        y = problem.folded.graph.forward(x.unsqueeze(0))
        rows = problem.specification(torch.tensor([clause]), torch.float64)
        return bool((rows.values(x.view(1, 1, -1), y.unsqueeze(1)) <= 0).all())

    progress = Progress()
    verdict = relu_split.solve(
        problem,
        first=schedule,
        schedule=schedule,
        batch=8,
        expired=lambda: False,
        suspect=suspect,
        progress=progress,
    )
    return verdict, progress.domains


@pytest.mark.parametrize(("iterations", "short"), [(0, 1), (0, 128), (2, 1), (10, 1), (10, 128)])
@pytest.mark.parametrize("seed", range(12))
def test_verdicts_agree_with_a_grid(
    seed: int, iterations: int, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where domains are split several times at once (`short` = 1)."""
    monkeypatch.setattr(relu_split, "TIGHTENED_NUMBERS", 0)
    monkeypatch.setattr(relu_split, "SHORT", short)
    problem = instance(seed)
    _, _, worst = grid(problem)
    verdict, _ = searched(problem, Schedule(iterations))
    assert verdict in ("sat", "unsat")
    if (worst <= 0).any():
        assert verdict == "sat"


@given(st.data())
def test_children_share_out_their_domain(data: st.DataObject) -> None:
    """Every assignment of signs that the domain allows is allowed by one child, and no other is by any."""
    count, total = data.draw(st.integers(1, 4)), data.draw(st.integers(3, 6))
    rows = torch.tensor(
        [
            data.draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=total, max_size=total))
            for _ in range(count)
        ]
    )
    costs = torch.where(rows == 0, torch.rand(count, total), -1.0)
    neurons = costliest(costs)
    splittable = neurons[:, 0] >= 0  # the others are leaves
    picked = {
        "signs": rows[splittable].to(torch.int8),
        "multipliers": torch.ones(int(splittable.sum()), total),
        "neuron": neurons[splittable],
        "id": torch.nonzero(splittable).flatten(),
    }
    children = relu_split.children(picked, data.draw(st.integers(0, 40)))
    patterns = torch.cartesian_prod(*[torch.tensor([-1, 1])] * total)
    allows = ((children["signs"].unsqueeze(1) == 0) | (children["signs"].unsqueeze(1) == patterns)).all(2)
    for i in torch.nonzero(splittable).flatten().tolist():
        expected = ((rows[i] == 0) | (rows[i] == patterns)).all(1)
        assert (allows[children["id"] == i].sum(0) == expected).all()
    fresh = children["signs"] != rows[children["id"]]
    assert ((children["multipliers"] == 0) == fresh).all() and fresh.any(1).all()


@pytest.mark.parametrize("seed", range(6))
def test_the_last_multipliers_give_valid_bounds(seed: int) -> None:
    """Children go on from them, and the bound of what is open at the end is evaluated there."""
    problem = instance(seed)
    _, z, worst = grid(problem)
    layout = problem.layout
    signs = torch.zeros(1, layout.total, dtype=torch.int8)
    least, most = problem.bounds()
    signs[0, int(torch.nonzero((least < 0) & (most > 0))[0, 1])] = 1
    clause = torch.tensor([0])
    rows = problem.specification(clause, torch.float32)
    weights = problem.weights()
    result = optimise(
        problem.fast,
        problem.relaxations(clause, signs, torch.float32),
        problem.box_of(clause, torch.float32),
        problem.fast.output,
        rows.rows,
        Schedule(7, alpha_rate=0.5, beta_rate=0.5),
        direct=rows.direct,
        constant=rows.constant,
        weights=weights,
    )
    last = layout.join(result.last).squeeze(1)
    assert (last >= 0).all() and (last[signs == 0] <= 1).all()
    inside = (z * signs[0] >= 0).all(1)
    bound = problem.certified(torch.tensor([0]), weights, signs, last)
    assert bound <= worst[inside].min()


def test_out_of_reach_of_the_clause_a_contradiction_is_looked_for() -> None:
    """With the last layer split off as inactive the clause's bound is a constant, and no neuron costs anything."""
    problem = problem_of(mlp(3, 4, (8, 6), 2), box_property([-1.0] * 4, [1.0] * 4, 2, "(<= Y_0 0.5)"))
    layout = problem.layout
    least, most = problem.bounds()
    unstable = ((least < 0) & (most > 0)).view(-1)
    first, _ = layout.sizes.values()
    signs = torch.zeros(1, layout.total, dtype=torch.int8)
    signs[0, first:][unstable[first:]] = -1
    domains = {
        "clause": torch.tensor([0]),
        "signs": signs,
        "weights": problem.weights(),
        "multipliers": torch.zeros(1, layout.total),
        "bound": torch.tensor([-1.0]),
    }
    nothing = {p: torch.zeros(1, 1, size) for p, size in layout.sizes.items()}
    graph = problem.fast
    arguments = [graph.preactivation(p) for p in layout.sizes]
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    last = dict(graph.values(corners))[arguments[1]]
    x = corners[last.clamp(min=0).sum(1).argmax()].unsqueeze(0)
    z = dict(graph.values(x))[arguments[1]]
    chosen = relu_split._neurons(problem, domains, nothing, x)
    # By hand: z₂ = Wh + b ≤ 0, so that the bound of Σ v z₂ owes something to h where (vW)⁻ meets an upper line.
    weight = graph.nodes[arguments[1]].operation.weight
    v = (z * unstable[first:]).clamp(min=0) * unstable[first:]
    assert (v > 0).any()
    low, high = least[0, :first].float(), most[0, :first].float()
    intercept = torch.where(unstable[:first], -low * high / (high - low), 0.0)
    cost = -(v @ weight).clamp(max=0) * intercept
    cost = torch.where(unstable[:first], cost, -1.0)
    assert cost.max() > 0
    assert chosen.tolist() == costliest(cost).tolist()


@pytest.mark.parametrize("seed", range(6))
def test_filtered_branching_splits_first_what_helps_the_worse_part_most(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the costliest neurons, tried one by one here."""
    monkeypatch.setattr(relu_split, "TIGHTENED_NUMBERS", 0)
    problem = instance(seed)
    problem.filtered = True
    layout, clause = problem.layout, torch.tensor([0])
    signs = torch.zeros(1, layout.total, dtype=torch.int8)
    progress = Progress()
    new = {"clause": clause, "signs": signs, "weights": problem.weights()}
    relu_split.bounded(problem, new, None, Schedule(3), lambda: False, lambda *_: False, progress)
    for row in range(len(progress.store)):
        domain = {name: values[row : row + 1] for name, values in progress.store.rows().items()}
        worse = []
        for neuron in [n for n in domain["neuron"][0].tolist() if n >= 0]:
            bounds = []
            for sign in (1, -1):
                child, multipliers = domain["signs"].clone(), domain["multipliers"].clone()
                child[0, neuron], multipliers[0, neuron] = sign, 0.0
                bounds.append(float(problem.certified(clause, domain["weights"], child, multipliers)))
            worse.append(min(0.0, *bounds))
        assert worse and all(worse[0] >= other - 1e-4 for other in worse)


@pytest.mark.parametrize("seed", range(4))
def test_filtered_branching_decides_as_the_other_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FEW_INPUTS", 0)
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    model = mlp(seed, 4, (10, 8), 1)
    x = np.random.default_rng(seed).uniform(-1, 1, (20_000, 4))
    most = float(engine.Engine(model).replay.outputs(x).max())
    for margin, expected in ((0.05, "unsat"), (-0.05, "sat")):
        text = box_property([-1.0] * 4, [1.0] * 4, 1, f"(>= Y_0 {most + margin * (1 + abs(most))!r})")
        filtered = engine.Engine(model, branching="fsb")
        (result,) = filtered.verify([vnnlib.parse(text, "p")], timeout=60)
        assert result.verdict == expected
