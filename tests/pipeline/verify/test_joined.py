"""Instances of one network whose domains share batches: the same bounds and verdicts as one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from factories import box_property
from nets import mlp, residual
from problems import problem_of
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline.verify import engine, verify, verify_many
from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.graph.stacked import Parts, Stacked
from secateur.pipeline.verify.search import joined, relu_split, strategy
from secateur.pipeline.verify.search.joined import Joined, Member, alike, join, search
from secateur.pipeline.verify.search.problem import Problem, Progress

INPUTS = 4


def texts(seed: int, model: Model, count: int) -> list[str]:
    """Properties on boxes of several sizes, some with a fixed input, of one to three clauses, near the truth."""
    random = np.random.default_rng(seed)
    replay = Engine(model).replay
    result = []
    for i in range(count):
        centre, radius = random.uniform(-1, 1, INPUTS), random.uniform(0.3, 1.5, INPUTS)
        radius[random.integers(INPUTS)] *= i % 2
        low, high = (centre - radius).round(3), (centre + radius).round(3)
        x = np.concatenate(
            [
                random.uniform(low, high, (3_000, INPUTS)),
                random.choice([0.0, 1.0], (64, INPUTS)) * (high - low) + low,
            ]
        )
        y = replay.outputs(x)
        margin = random.choice([-0.05, 0.05]) * (1 + np.ptp(y))
        most, least = (y.max(0) + np.array([margin, 1.0])).tolist(), (y.min(0) - abs(margin)).tolist()
        clauses = [f"(and (>= Y_0 {most[0]!r}) (<= Y_1 {most[1]!r}))"]
        clauses += [f"(and (<= Y_{k} {least[k]!r}))" for k in (0, 1)[: i % 3]]
        result.append(box_property(low.tolist(), high.tolist(), 2, f"(or {' '.join(clauses)})"))
    return result


def problems(seed: int, count: int = 4) -> list[Problem]:
    """Those of one network that can be joined."""
    model = residual(seed, INPUTS, 8, 2) if seed % 3 == 0 else mlp(seed, INPUTS, (12, 9), 2)
    each = [problem_of(model, text) for text in texts(seed, model, count)]
    kinds = [alike(problem.folded) for problem in each]
    known = [kind for kind in kinds if kind is not None]
    return [problem for problem, kind in zip(each, kinds, strict=True) if kind == max(known, key=known.count)]


def padded(problem: Joined) -> None:
    """Let it compute as on a GPU."""

    def changed(graph: BoundGraph) -> BoundGraph:
        return BoundGraph(
            tuple(
                replace(node, operation=replace(node.operation, padded=True))
                if isinstance(node.operation, Stacked)
                else node
                for node in graph.nodes
            )
        )

    problem.folded = replace(problem.folded, graph=changed(problem.folded.graph))
    problem.fast = changed(problem.fast)


@given(st.integers(1, 5), st.integers(0, 10**6), st.integers(1, 3))
def test_stacked_maps_are_those_of_each_instance(instances: int, seed: int, times: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 4, (instances,), generator=generator)
    weight = torch.randn(instances, 3, 5, generator=generator, dtype=torch.float64)
    bias = torch.randn(instances, 3, generator=generator, dtype=torch.float64)
    owner = torch.arange(instances).repeat_interleave(counts)
    x = torch.randn(len(owner), times, 5, generator=generator, dtype=torch.float64)
    a = torch.randn(len(owner), times, 3, generator=generator, dtype=torch.float64)
    for in_slots in (False, True):
        stacked = Stacked(weight, bias, Parts.of(owner, instances), in_slots)
        expected = torch.einsum("boi,bsi->bso", weight[owner], x)
        assert torch.allclose(
            stacked.forward(x.flatten(0, 1)).view(*x.shape[:2], 3), expected + bias[owner, None]
        )
        assert torch.allclose(stacked.linear(x.flatten(0, 1)).view(*x.shape[:2], 3), expected)
        assert torch.allclose(stacked.transpose_rows(a)[0], torch.einsum("boi,bso->bsi", weight[owner], a))
        offset = stacked.offset(a.flatten(0, 1))
        assert offset is not None and torch.allclose(offset.view(a.shape[:2]), (a * bias[owner, None]).sum(2))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_domains_have_the_bounds_that_they_have_alone(seed: int, in_slots: bool) -> None:
    """Rigorous bounds of random domains with random multipliers, and what the ascent makes of the roots."""
    members = problems(seed)
    together = join(members)
    if in_slots:
        padded(together)
    random = torch.Generator().manual_seed(seed)
    start = 0
    rows = {"clause": [], "weights": [], "signs": [], "multipliers": []}
    expected = []
    for i, member in enumerate(members):
        clause = torch.arange(len(member.constant)).repeat(2)
        total = member.layout.total
        signs = torch.randint(-1, 2, (len(clause), total), generator=random, dtype=torch.int8)
        multipliers = torch.rand(len(clause), total, generator=random)
        weights = member.weights()[clause]
        expected.append(member.certified(clause, weights, signs, multipliers))
        place = together.places[i]
        rows["clause"].append(clause + start)
        start += len(member.constant)
        wide = torch.zeros(len(clause), together.layout.total)
        rows["signs"].append(wide.to(torch.int8).index_copy(1, place, signs))
        rows["multipliers"].append(wide.index_copy(1, place, multipliers))
        rest = together.constant.shape[1] - weights.shape[1]
        rows["weights"].append(torch.nn.functional.pad(weights, (0, rest)))
    found = together.certified(
        *(torch.cat(rows[name]) for name in ("clause", "weights", "signs", "multipliers"))
    )
    assert torch.allclose(found, torch.cat(expected), rtol=1e-9, atol=1e-9)

    def rooted(problem: Problem) -> Progress:
        progress = Progress()
        clause = torch.arange(len(problem.constant))
        signs = torch.zeros(len(clause), problem.layout.total, dtype=torch.int8)
        new = {"clause": clause, "signs": signs, "weights": problem.weights()}
        relu_split.bounded(problem, new, None, Schedule(5), lambda: False, lambda *_: False, progress)
        return progress

    all_rows = rooted(together).store.rows()
    for i, member in enumerate(members):
        alone = rooted(member).store.rows()
        mine = together.rows_of(i, all_rows) if all_rows else {}
        assert alone.keys() == (mine.keys() if len(mine.get("clause", ())) else {}.keys())
        for name, values in alone.items():
            assert mine[name].shape == values.shape and mine[name].dtype == values.dtype
            if name != "neuron":  # equal costs may stand in another order
                assert torch.allclose(mine[name].double(), values.double(), atol=1e-4), name


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_a_member_s_rows_say_what_the_joint_ones_do(seed: int) -> None:
    """Of domains some levels down: signs, multipliers, weights and neurons find their places."""
    members = problems(seed)
    problem = join(members)
    random = torch.Generator().manual_seed(seed)
    clause = torch.arange(len(problem.owner)).repeat_interleave(3)
    bounds = problem.layout.join({p: low < 0 for p, (low, _) in problem.bounds_of(clause).items()})
    unstable = bounds & problem.layout.join(
        {p: high > 0 for p, (_, high) in problem.bounds_of(clause).items()}
    )
    signs = torch.randint(-1, 2, unstable.shape, generator=random) * unstable
    chosen = torch.rand(unstable.shape, generator=random).masked_fill(~unstable, -1.0).topk(2, 1)
    rows = {
        "clause": clause,
        "signs": signs.to(torch.int8),
        "weights": problem.weights()[clause],
        "multipliers": torch.rand(unstable.shape, generator=random) * unstable,
        "neuron": torch.where(chosen.values < 0, -1, chosen.indices),
        "bound": torch.rand(len(clause), generator=random),
    }
    arguments = [rows[name] for name in ("clause", "weights", "signs", "multipliers")]
    expected = problem.certified(*arguments)
    for i, member in enumerate(members):
        mine, those = problem.rows_of(i, rows), problem.owner[clause] == i
        found = member.certified(*(mine[name] for name in ("clause", "weights", "signs", "multipliers")))
        assert torch.allclose(found, expected[those], rtol=1e-9, atol=1e-9)
        assert torch.equal(mine["bound"], rows["bound"][those])
        place = torch.cat([problem.places[i], torch.tensor([-1])])
        assert torch.equal(place[mine["neuron"]], rows["neuron"][those])


def believe(x: Tensor, clause: int) -> bool:
    return True


def together(members: list[Member], most: int) -> None:
    search(members, first=Schedule(5), schedule=Schedule(3), batch=16, most=most, expired=lambda: False)


def alone(problem: Problem, progress: Progress) -> str:
    options = {"first": Schedule(5), "schedule": Schedule(3)}
    return relu_split.solve(
        problem, batch=16, expired=lambda: False, suspect=believe, progress=progress, **options
    )


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5])
def test_what_is_left_open_goes_on_alone(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few domains together, the rest by each one's own search: the same verdicts as that gives alone."""
    monkeypatch.setattr(relu_split, "TIGHTENED_NUMBERS", 0)
    members = [Member(problem, Progress(), believe) for problem in problems(seed, 5)]
    together(members, 20)
    for member in members:
        outcome = member.outcome
        if outcome == "unknown":
            assert len(member.progress.store)
            outcome = alone(member.problem, member.progress)
        assert outcome == alone(member.problem, Progress())


def test_one_that_is_violated_leaves_the_others_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relu_split, "TIGHTENED_NUMBERS", 0)
    each = problems(1, 6)
    asked: list[int] = []

    def judge(i: int) -> Callable[[Tensor, int], bool]:
        def suspect(x: Tensor, clause: int) -> bool:
            asked.append(i)
            member = each[i]
            assert x.shape == (member.folded.graph.input.size,) and 0 <= clause < len(member.constant)
            value = member.folded.graph.forward(x.unsqueeze(0))
            rows = member.specification(torch.tensor([clause]), torch.float64)
            assert (rows.values(x.view(1, 1, -1), value.unsqueeze(1)) <= 1e-4).all()
            return True

        return suspect

    members = [Member(problem, Progress(), judge(i)) for i, problem in enumerate(each)]
    together(members, 10_000)
    assert len(asked) == len(set(asked))
    assert {member.outcome for member in members} == {"sat", "unsat"}
    for member in members:
        assert member.outcome in (alone(member.problem, Progress()), "unknown")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_are_decided_as_one_by_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FEW_INPUTS", 0)
    monkeypatch.setattr(engine, "BURST", 30)
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    monkeypatch.setattr(relu_split, "TIGHTENED_NUMBERS", 0)
    shared = []
    original = joined.search
    monkeypatch.setattr(
        strategy, "search", lambda members, **rest: (shared.append(len(members)), original(members, **rest))
    )
    model = mlp(seed, INPUTS, (12, 9), 2)
    queries: list[Query] = [vnnlib.parse(text, f"p{i}") for i, text in enumerate(texts(seed, model, 7))]
    together = [result.verdict for result in verify_many([(model, query) for query in queries], timeout=60)]
    assert together == [verify(model, query, timeout=60).verdict for query in queries]
    assert {"sat", "unsat"} == set(together) and max(shared) >= 2
