"""Instances of one network whose domains share batches: the same bounds and verdicts as one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from factories import box_property
from nets import Net, convolutional, mlp, residual, residual_convolutional
from problems import problem_of
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline.verify import engine, verify, verify_many
from secateur.pipeline.verify.bounding.branching import LEVELS
from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.bounding.specification import subproblems
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.graph.operations import Dense, Sparse, Sum
from secateur.pipeline.verify.graph.stacked import Beside, Map, Parts, Stacked
from secateur.pipeline.verify.memory import USUAL
from secateur.pipeline.verify.pgd import Effort, attack
from secateur.pipeline.verify.region import fold
from secateur.pipeline.verify.search import checkpoint, joined, relu_split, strategy
from secateur.pipeline.verify.search.joined import Member, join, search
from secateur.pipeline.verify.search.problem import Problem, Progress
from secateur.pipeline.verify.search.work import Deadline, Work, joint_deadline, parted

INPUTS = 4


def gated(seed: int) -> Model:
    """Two layers, and a path around the second whose neurons, and one that starts at the input whose neurons, are all
    dead on some boxes."""
    net = Net(seed, INPUTS)
    first = net("Relu", net.dense("x", INPUTS, 8))
    second = net("Relu", net.dense(first, 8, 6))
    around = net("Relu", net("Add", net.dense(first, 8, 3), net.constant([-4.0] * 3)))
    beside = net("Relu", net("Add", net.dense("x", INPUTS, 3), net.constant([-2.0] * 3)))
    value = net("Add", net.dense(second, 6, 2), net.dense(around, 3, 2))
    return net.finish(net("Add", value, net.dense(beside, 3, 2)))


NETWORKS: dict[str, Callable[[int], Model]] = {
    "mlp": lambda seed: mlp(seed, INPUTS, (12, 9), 2),
    "residual": lambda seed: residual(seed, INPUTS, 8, 2),
    "gated": gated,
    "convolutional": convolutional,
    "residual convolutional": residual_convolutional,
}


def texts(seed: int, model: Model, count: int) -> list[str]:
    """Properties on boxes of several sizes, some with a fixed input, of one to three clauses, near the truth."""
    random = np.random.default_rng(seed)
    ready = Engine(model)
    replay, inputs = ready.replay, ready.graph.input.size
    outputs = ready.graph.nodes[ready.graph.output].size
    result = []
    for i in range(count):
        centre, radius = random.uniform(-1, 1, inputs), random.uniform(0.3, 1.5, inputs)
        radius *= min(1.0, 3 * INPUTS / inputs)
        radius[random.integers(inputs)] *= i % 2
        low, high = (centre - radius).round(3), (centre + radius).round(3)
        x = np.concatenate(
            [
                random.uniform(low, high, (3_000, inputs)),
                random.choice([0.0, 1.0], (64, inputs)) * (high - low) + low,
            ]
        )
        y = replay.outputs(x)
        margin = random.choice([-0.05, 0.05]) * (1 + np.ptp(y))
        most, least = (
            (y.max(0) + np.array([margin, *[1.0] * (outputs - 1)])).tolist(),
            (y.min(0) - abs(margin)).tolist(),
        )
        clauses = [f"(and (>= Y_0 {most[0]!r}) (<= Y_1 {most[1]!r}))"]
        clauses += [f"(and (<= Y_{k} {least[k]!r}))" for k in (0, 1)[: i % 3]]
        result.append(box_property(low.tolist(), high.tolist(), outputs, f"(or {' '.join(clauses)})"))
    return result


@contextmanager
def sparse(kind: str) -> Iterator[None]:
    """Within, the folded maps of a convolutional network are sparse where two fifths of their numbers are zero."""
    with pytest.MonkeyPatch.context() as patch:
        if "convolutional" in kind:
            patch.setattr(fold, "SPARSE_FROM", 0)
            patch.setattr(fold, "SPARSE_SHARE", 0.6)
        yield


def problems(seed: int, count: int = 4, kind: str | None = None) -> list[Problem]:
    """Those of one network that have neurons left."""
    kind = kind or ("residual" if seed % 3 == 0 else "mlp")
    with sparse(kind):
        model = NETWORKS[kind](seed)
        each = [problem_of(model, text) for text in texts(seed, model, count)]
    return [problem for problem in each if problem.folded.neurons]


def shapes(each: Sequence[Problem]) -> set[object]:
    return {tuple((type(n.operation), n.inputs) for n in problem.folded.graph.nodes) for problem in each}


def test_these_networks_fold_to_different_graphs() -> None:
    """Or what is tested below would not be."""
    assert any(len(shapes(problems(seed, 6, "gated"))) > 1 for seed in range(3))
    (kinds,) = shapes(problems(1, 2, "residual convolutional"))
    assert {Sparse, Dense, Sum} <= {operation for operation, _ in kinds}


@given(st.integers(1, 5), st.integers(0, 10**6), st.integers(1, 3))
def test_stacked_maps_are_those_of_each_instance(instances: int, seed: int, times: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 4, (instances,), generator=generator)
    weight = torch.randn(instances, 3, 5, generator=generator, dtype=torch.float64)
    bias = torch.randn(instances, 3, generator=generator, dtype=torch.float64)
    owner = torch.arange(instances).repeat_interleave(counts)
    maps: list[Map] = []
    for i in range(instances):
        outputs, inputs = torch.randint(1, 4, (2,), generator=generator).tolist()
        weight[i, outputs:], weight[i, :, inputs:], bias[i, outputs:] = 0.0, 0.0, 0.0
        own = weight[i, :outputs, :inputs].contiguous()
        bias[i] *= i % 3 != 1
        offset = bias[i, :outputs] if i % 3 != 1 else None
        maps.append(Sparse.of(own, offset) if i % 2 else Dense(own, offset))
    if instances > 2:
        maps[2], weight[2], bias[2] = None, 0.0, 0.0
    x = torch.randn(len(owner), times, 5, generator=generator, dtype=torch.float64)
    a = torch.randn(len(owner), times, 3, generator=generator, dtype=torch.float64)
    flat = x.flatten(0, 1)
    parts = Parts.of(owner, instances)
    for together in (Beside(tuple(maps), (3, 5)), Stacked.of(maps, (3, 5), x)):
        stacked = replace(together, parts=parts)
        expected = torch.einsum("boi,bsi->bso", weight[owner], x)
        assert torch.allclose(stacked.forward(flat).view(*x.shape[:2], 3), expected + bias[owner, None])
        assert torch.allclose(stacked.linear(flat).view(*x.shape[:2], 3), expected)
        assert torch.allclose(stacked.transpose_rows(a)[0], torch.einsum("boi,bso->bsi", weight[owner], a))
        offset = stacked.offset(a.flatten(0, 1))
        assert torch.allclose(
            torch.zeros(()) if offset is None else offset.view(a.shape[:2]), (a * bias[owner, None]).sum(2)
        )
        largest = torch.einsum("boi,bsi->bso", weight[owner].abs(), x.abs())
        assert torch.allclose(stacked.absolute(flat.abs()).view(*x.shape[:2], 3), largest)
        largest = largest + bias[owner, None].abs()
        assert torch.allclose(stacked.magnitude(flat.abs()).view(*x.shape[:2], 3), largest)
        assert stacked.to(torch.float32, torch.device("cpu")).forward(flat.float()).dtype == torch.float32


@settings(max_examples=24, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(sorted(NETWORKS)))
def test_domains_have_the_bounds_that_they_have_alone(seed: int, stacked: bool, kind: str) -> None:
    """Rigorous bounds of random domains with random multipliers, and what the ascent makes of the roots."""
    members = problems(seed, kind=kind)
    assume(members)
    together = join(members, stacked=stacked)
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


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(NETWORKS)))
def test_a_member_s_rows_say_what_the_joint_ones_do(seed: int, kind: str) -> None:
    """Of domains some levels down: signs, multipliers, weights and neurons find their places, there and back."""
    members = problems(seed, kind=kind)
    assume(members)
    problem = join(members)
    random = torch.Generator().manual_seed(seed)
    clause = torch.arange(len(problem.owner)).repeat_interleave(3)
    bounds = problem.layout.join({p: low < 0 for p, (low, _) in problem.bounds_of(clause).items()})
    unstable = bounds & problem.layout.join(
        {p: high > 0 for p, (_, high) in problem.bounds_of(clause).items()}
    )
    signs = torch.randint(-1, 2, unstable.shape, generator=random) * unstable
    chosen = torch.rand(unstable.shape, generator=random).masked_fill(~unstable, -1.0).topk(LEVELS, 1)
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
        back = problem.rows_from(i, mine)
        assert back.keys() == rows.keys()
        for name, values in back.items():
            assert values.dtype == rows[name].dtype
            known = rows[name][those]
            if name in ("signs", "multipliers"):  # what stands where the member has no neuron means nothing
                values, known = values[:, problem.places[i]], known[:, problem.places[i]]
            elif name == "weights":
                values = values[:, : mine[name].shape[1]]
                known = known[:, : mine[name].shape[1]]
            assert torch.equal(values, known), name


@settings(max_examples=16, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(sorted(NETWORKS)))
def test_rigorous_bounds_lie_below_what_the_network_reaches(seed: int, stacked: bool, kind: str) -> None:
    """Of the original network, at random points of each member's box that have a domain's signs."""
    members = problems(seed, kind=kind)
    assume(members)
    problem = join(members, stacked=stacked)
    random = torch.Generator().manual_seed(seed)
    for i, member in enumerate(members):
        box, graph = member.folded.box, member.folded.graph
        x = box.lower + (box.upper - box.lower) * torch.rand(200, graph.input.size, generator=random).double()
        values = dict(graph.values(x))
        z = member.layout.join({p: values[graph.preactivation(p)] for p in member.layout.sizes})
        clause = torch.arange(len(member.constant))
        rows = member.specification(clause, torch.float64).combined(member.equal_weights(torch.float64))
        y = values[graph.output].expand(len(clause), -1, -1)
        reached = rows.values(x.expand(len(clause), -1, -1), y).squeeze(-1)
        # The signs that the first point has, of some neurons; what others with these signs reach is no less.
        signs = torch.sign(z[0]) * (torch.rand(len(z[0]), generator=random) < 0.3)
        there = ((z * signs) >= 0).all(1)
        own = torch.nonzero(problem.owner == i).flatten()
        wide = torch.zeros(len(own), problem.layout.total).index_copy(
            1, problem.places[i], signs.float().expand(len(own), -1)
        )
        multipliers = torch.rand(wide.shape, generator=random)
        bound = problem.certified(own, problem.weights()[own], wide.to(torch.int8), multipliers)
        assert there[0] and (bound <= reached[:, there].amin(1) + 1e-6).all()


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


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many instances shared batches, each time; on boxes of few inputs neurons are split, without an attack."""
    monkeypatch.setattr(engine, "FEW_INPUTS", 0)
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    monkeypatch.setattr(relu_split, "TIGHTENED_NUMBERS", 0)
    counts: list[int] = []
    original = joined.search

    def search(members: Sequence[Member], **rest: object) -> None:
        counts.append(len(members))
        original(members, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(strategy, "search", search)
    return counts


@pytest.mark.parametrize(
    ("seed", "kind"), [(1, "mlp"), (2, "mlp"), (3, "mlp"), (3, "gated"), (24, "residual convolutional")]
)
def test_many_are_decided_as_one_by_one(seed: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = counted(monkeypatch)
    monkeypatch.setattr(engine, "BURST", 30)
    monkeypatch.setattr(engine, "EARLY", 6)
    model = NETWORKS[kind](seed)
    queries: list[Query] = [vnnlib.parse(text, f"p{i}") for i, text in enumerate(texts(seed, model, 7))]
    with sparse(kind):
        together = [r.verdict for r in verify_many([(model, query) for query in queries], timeout=60)]
        most = max(shared)
        assert together == [verify(model, query, timeout=60).verdict for query in queries]
    assert {"sat", "unsat"} == set(together) and most >= 2


def test_no_more_are_held_folded_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are as large as fit, one at least; what is begun is let go where it is finished; the same verdicts."""
    shared = counted(monkeypatch)
    monkeypatch.setattr(engine, "EARLY", 2)
    model = residual_convolutional(24)
    queries = [vnnlib.parse(text, f"p{i}") for i, text in enumerate(texts(24, model, 7))]
    verdicts: list[list[str]] = []
    for memory, scale in ((None, 1.0), (None, 2.5), (2 * USUAL, 1.0)):
        ready = Engine(model, memory=memory)
        works = [Work(query, 60.0) for query in queries]
        roots = [ready._ready(Work(query, 60.0), 0, Deadline(60)) for query in queries]
        sizes = [strategy.held(root) for root in roots if root is not None]
        room = int(scale * max(sizes)) if scale > 1 else engine.FOLDED
        monkeypatch.setattr(engine, "FOLDED", room)
        shared.clear()
        position, groups = 0, []
        while position < len(works):
            groups.append(ready.share(works[position:], 0))
            begun = [work.begun for work in works if work.begun is not None]
            assert sum(strategy.held(root) for root in begun) <= max(room, max(sizes))
            for work in works[position : position + groups[-1]]:
                ready.finish(work, 0)
                assert work.begun is None
            position += groups[-1]
        verdicts.append([work.verdict for work in works])
        if memory is not None:  # batches take what there is
            assert groups == [1] * len(works) and not shared
        elif scale > 1:
            assert 1 < max(groups) < len(works)
        else:
            assert groups == [len(works)] and max(shared) > 1
    assert verdicts[0] == verdicts[1] == verdicts[2] and {"sat", "unsat"} == set(verdicts[0])


def test_what_is_left_after_sharing_goes_on_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(monkeypatch)
    monkeypatch.setattr(engine, "EARLY", 4)
    model = residual_convolutional(24)
    ready = Engine(model)
    queries = [vnnlib.parse(text, f"p{i}") for i, text in enumerate(texts(24, model, 7))]
    works = [Work(query, 60.0) for query in queries]
    ready.share(works, 0)
    state, resumed = str(tmp_path / "s.npz"), 0
    for query, work in zip(queries, works, strict=True):
        expected = verify(model, query, timeout=60).verdict
        if not work.verdict:
            assert work.left is not None and work.left.progress.open
            checkpoint.save(state, work, {})
            work = Work(query, 60.0)
            checkpoint.load(state, work, {}, ready.shaped(work.problems.boxes), None)
            ready.finish(work, 0)
            resumed += 1
        assert work.verdict == expected
    assert resumed


def test_equal_shares_take_no_more_than_the_one_with_least_time_has() -> None:
    query = vnnlib.parse(texts(1, NETWORKS["mlp"](1), 3)[2], "p")
    works = [Work(query, timeout) for timeout in (10.0, 100.0, 60.0, 90.0)]
    works[1].phases["read"] = 20.0
    assert 18.9 < joint_deadline(works[:2]).left <= 20.0
    assert 7.5 < joint_deadline(works[1:], 0.05).left <= 9.0
    parts = list(parted([(work, 0) for work in works], 100))
    assert [[work for work, _ in part] for part in parts] == [works[:1], works[1:]]
    clauses = len(works[0].open(0))
    assert [len(part) for part in parted([(work, 0) for work in works[1:]], 2 * clauses)] == [2, 1]
    assert [len(part) for part in parted([(work, 0) for work in works[1:]], 0)] == [1, 1, 1]


def test_an_attack_on_several_finds_what_it_finds_on_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes no more steps for those that are decided."""
    model = residual_convolutional(3)
    ready = Engine(model)
    easy, hard = texts(3, model, 2)
    easy = re.sub(r"\(assert \(or.*", "(assert (>= Y_0 -1000.0))", easy)
    queries = [vnnlib.parse(text, name) for name, text in (("easy", easy), ("hard", hard))]
    sizes: list[int] = []
    forward = BoundGraph.forward
    monkeypatch.setattr(BoundGraph, "forward", lambda graph, x: (sizes.append(len(x)), forward(graph, x))[1])
    effort = Effort(restarts=4, steps=6)
    found = attack(ready.fast, subproblems(queries), queries, ready.replay, seed=0, effort=effort)
    assert 0 in found and sizes[-1] < sizes[0] == 4 * len(subproblems(queries))
    for i, query in enumerate(queries):
        alone = attack(ready.fast, subproblems([query]), [query], ready.replay, seed=0, effort=effort)
        assert (0 in alone) == (i in found)
        if i in found:
            np.testing.assert_allclose(found[i].x, alone[0].x, atol=1e-5)
