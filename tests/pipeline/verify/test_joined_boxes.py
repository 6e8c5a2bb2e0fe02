"""Instances of one network with few inputs, whose boxes are split in shared batches: the same as one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from factories import box_property
from nets import mlp, residual
from oracles import exact
from secateur.formats import onnx_model, vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline.questions import Answer, How, Question
from secateur.pipeline.queue import decide
from secateur.pipeline.verify import engine, verify, verify_many
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.root import NodeBounds, bound_nodes
from secateur.pipeline.verify.bounding.specification import subproblems
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.memory import Budget
from secateur.pipeline.verify.region.fold import fold, fold_and_bound
from secateur.pipeline.verify.region.hull import Hull
from secateur.pipeline.verify.search import input_split, joined_boxes, strategy
from secateur.pipeline.verify.search.input_split import Bounded, Region
from secateur.pipeline.verify.search.joined import Member
from secateur.pipeline.verify.search.joined_boxes import groups, search
from secateur.pipeline.verify.search.members import Owned
from secateur.pipeline.verify.search.problem import Problem, Progress
from secateur.pipeline.verify.search.work import Work

INPUTS = 3


def network(seed: int) -> Model:
    return residual(seed, INPUTS, 9, 2) if seed % 3 == 0 else mlp(seed, INPUTS, (16, 12), 2)


def texts(seed: int, model: Model, count: int) -> list[str]:
    """Properties on boxes of several sizes, some with a fixed input, of one to three clauses, near the truth."""
    random = np.random.default_rng(seed)
    replay = Engine(model).replay
    result = []
    for i in range(count):
        centre, radius = random.uniform(-1, 1, INPUTS), random.uniform(0.5, 1.5, INPUTS)
        radius[random.integers(INPUTS)] *= i % 3 != 1
        low, high = (centre - radius).round(3), (centre + radius).round(3)
        y = replay.outputs(random.uniform(low, high, (3_000, INPUTS)))
        margin = random.choice([-0.05, 0.05]) * (1 + np.ptp(y))
        most, least = (y.max(0) + np.array([margin, 1.0])).tolist(), (y.min(0) - abs(margin)).tolist()
        clauses = [f"(and (>= Y_0 {most[0]!r}) (<= (+ Y_1 (* 0.25 X_0)) {most[1]!r}))"]
        clauses += [f"(and (<= Y_{k} {least[k]!r}))" for k in (0, 1)[: i % 3]]
        result.append(box_property(low.tolist(), high.tolist(), 2, f"(or {' '.join(clauses)})"))
    return result


@dataclass
class Asked:
    """Instances of one network, each made ready for its own box."""

    ready: Engine
    nodes: list[NodeBounds]
    problems: list[Problem]

    @staticmethod
    def of(model: Model, properties: list[str]) -> Asked:
        asked = Asked(Engine(model), [], [])
        for text in properties:
            each = subproblems([vnnlib.parse(text, "p")])
            folded, nodes = fold_and_bound(asked.ready.graph, asked.ready.shaped(each.boxes), None)
            asked.nodes.append(nodes)
            asked.problems.append(Problem(*strategy.specification(each, folded), folded))
        return asked

    def together(
        self, suspects: Callable[[int], Callable[[Tensor, int], bool]], most: int, batch: int = 16
    ) -> list[Member]:
        members = [Member(problem, Progress(), suspects(i)) for i, problem in enumerate(self.problems)]
        search(
            members,
            self.ready.graph,
            self.nodes,
            batch=lambda _: batch,
            most=most,
            expired=lambda: False,
        )
        return members


def asked(seed: int, count: int = 5) -> Asked:
    model = network(seed)
    return Asked.of(model, texts(seed, model, count))


def believe(x: Tensor, clause: int) -> bool:
    return True


def refuse(x: Tensor, clause: int) -> bool:
    return False


def alone(problem: Problem, progress: Progress, suspect: Callable[[Tensor, int], bool] = believe) -> str:
    return input_split.solve(
        problem.folded, problem, batch=16, expired=lambda: False, suspect=suspect, progress=progress
    )


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6))
def test_domains_have_the_bounds_that_they_have_alone(seed: int) -> None:
    """Rigorous bounds of random parts of all boxes, and what the rows are at random points of them."""
    each = asked(seed)
    hull = Hull.of(each.ready.graph, each.nodes, foldable=True)
    clauses = Owned.of(each.problems, hull.folded.inputs)
    region = Region(hull.folded, clauses)
    random = torch.Generator().manual_seed(seed)
    for i, (problem, place) in enumerate(zip(each.problems, clauses.places, strict=True)):
        ends = torch.rand(2, 4, len(place), generator=random, dtype=torch.float64)
        width = problem.folded.box.upper - problem.folded.box.lower
        own = Box(*(problem.folded.box.lower + end * width for end in (ends.amin(0), ends.amax(0))))
        wide = Box(*(side[i].expand(4, -1).clone() for side in (hull.nodes.box.lower, hull.nodes.box.upper)))
        wide.lower[:, place], wide.upper[:, place] = own.lower, own.upper
        known = region.layout.split(region.inherited(hull.nodes[torch.tensor([i])])["least"])
        assert all(torch.equal(low, hull.nodes.values[p][0][[i]]) for p, low in known.items())
        inherited = {p: (low[[i]], high[[i]]) for p, (low, high) in hull.nodes.values.items() if p}
        nodes = bound_nodes(hull.folded.graph, wide, magnitudes=hull.folded.magnitudes, known=inherited)
        open_ = (clauses.owner == i).expand(4, -1)
        weights = clauses.equal_weights(torch.float64).expand(4, -1, -1)
        joint = Bounded.of(hull.folded, clauses, nodes, open_, weights)
        nodes = bound_nodes(
            problem.folded.graph,
            own,
            magnitudes=problem.folded.magnitudes,
            known=input_split.known_arguments(problem.folded),
        )
        weights = problem.equal_weights(torch.float64).expand(4, -1, -1)
        every = torch.ones(4, len(problem.constant), dtype=torch.bool)
        expected = Bounded.of(problem.folded, problem, nodes, every, weights)
        assert torch.allclose(joint.bound, expected.bound, rtol=1e-6, atol=1e-6)
        x = own.lower + torch.rand(300, 4, len(place), generator=random, dtype=torch.float64) * (
            own.upper - own.lower
        )
        y = problem.folded.graph.forward(x.flatten(0, 1)).unflatten(0, (300, 4))
        rows = torch.einsum("nbo,kso->nbks", y, problem.rows) + problem.constant
        if problem.direct is not None:
            rows = rows + torch.einsum("nbi,ksi->nbks", x, problem.direct)
        assert (rows.amax(3).amin(0).flatten() >= joint.bound).all()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_left_open_goes_on_alone(seed: int) -> None:
    """A few domains together, the rest by each one's own search: the same verdicts as that gives alone."""
    each = asked(seed, 6)
    members = each.together(lambda _: believe, 12)
    for member, problem in zip(members, each.problems, strict=True):
        progress, outcome = member.progress, member.outcome
        if outcome == "unknown":
            assert progress.domains >= 12 and progress.parts == [problem.folded.box]
            short = Progress()
            steps = iter([False] * 3 + [True] * 10**6)
            input_split.solve(
                problem.folded, problem, batch=16, expired=steps.__next__, suspect=believe, progress=short
            )
            if len(short.store):  # rows as its own search leaves them
                own, others = progress.store.rows(), short.store.rows()
                assert own.keys() == others.keys()
                for name, values in others.items():
                    assert (own[name].shape[1:], own[name].dtype) == (values.shape[1:], values.dtype)
            outcome = alone(problem, progress)
        assert outcome == alone(problem, Progress())


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_leaves_says_what_it_did_together(seed: int) -> None:
    """Bounds that a member's open domains are known to have hold on its own network, and cover the rest of its box."""
    each = asked(seed)
    for member, problem in zip(each.together(lambda _: refuse, 6), each.problems, strict=True):
        rows = member.progress.store.rows()
        if not rows:
            continue
        folded = problem.folded
        region = Region(folded, problem)
        share = torch.rand(200, 1, folded.graph.input.size, dtype=torch.float64)
        x = rows["lower"] + share * (rows["upper"] - rows["lower"])
        values = dict(folded.graph.values(x.flatten(0, 1)))
        z = region.layout.join({p: values[p] for p in region.layout.sizes}).unflatten(0, x.shape[:2])
        assert ((z >= rows["least"] - 1e-9) & (z <= rows["most"] + 1e-9)).all()
        assert (rows["least"] > -np.inf).all() and rows["open"].any(1).all()
        # Whatever point of the whole box satisfies a clause lies in a domain in which it is open.
        box = folded.box
        points = box.lower + torch.rand(3_000, folded.graph.input.size, dtype=torch.float64) * (
            box.upper - box.lower
        )
        y = folded.graph.forward(points)
        value = torch.einsum("no,kso->nks", y, problem.rows) + problem.constant
        if problem.direct is not None:
            value = value + torch.einsum("ni,ksi->nks", points, problem.direct)
        inside = ((points[:, None] >= rows["lower"]) & (points[:, None] <= rows["upper"])).all(2)
        found = torch.einsum("nd,dk->nk", inside.double(), rows["open"].double()) > 0
        assert (found | ~(value <= -1e-9).all(2)).all()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_planted_counterexamples_are_never_lost(seed: int) -> None:
    """Properties that one point each meets with equality are never refuted, however long they are searched."""
    random = np.random.default_rng(seed)
    model = mlp(seed % 40, 2, (6, 6), 2)
    properties = []
    for _ in range(3):
        low = random.integers(-64, 0, size=2) / 64
        high = low + random.integers(1, 65, size=2) / 64 * random.integers(0, 2, size=2)
        x = [random.choice([a, (a + b) / 2, b]) for a, b in zip(low, high, strict=True)]
        y = exact(model, [Fraction(v) for v in x])
        atoms = [
            f"(>= (+ Y_{i} (* {scale} X_0)) {vnnlib.decimal(y[i] + Fraction(scale) * Fraction(x[0]))})"
            for i, scale in ((0, "0.5"), (1, "-0.25"))
        ]
        properties.append(box_property(low.tolist(), high.tolist(), 2, f"(and {' '.join(atoms)})"))
    each = Asked.of(model, properties)
    whole = [i for i in range(3) if _among(each, i)]
    each = Asked(each.ready, [each.nodes[i] for i in whole], [each.problems[i] for i in whole])
    for member in each.together(lambda _: refuse, 80):
        assert member.outcome == "unknown"
        assert member.progress.open or member.progress.undecided


def _among(each: Asked, i: int) -> bool:
    """Whether an instance may share batches with the first."""
    return i == 0 or len(groups(each.ready.graph, [each.nodes[0], each.nodes[i]], 8)) == 1


def test_one_that_is_violated_leaves_the_others_to_go_on() -> None:
    each = asked(1, 8)
    accepted: list[int] = []

    def judge(i: int) -> Callable[[Tensor, int], bool]:
        problem = each.problems[i]

        def suspect(x: Tensor, clause: int) -> bool:
            accepted.append(i)
            assert x.shape == (problem.folded.graph.input.size,) and 0 <= clause < len(problem.constant)
            value = problem.folded.graph.forward(x.unsqueeze(0))
            rows = problem.specification(torch.tensor([clause]), torch.float64)
            assert (rows.values(x.view(1, 1, -1), value.unsqueeze(1)) <= 1e-9).all()
            return True

        return suspect

    members = each.together(judge, 10_000)
    assert len(accepted) == len(set(accepted))
    assert {member.outcome for member in members} == {"sat", "unsat"}
    for member, problem in zip(members, each.problems, strict=True):
        assert member.outcome == alone(problem, Progress())


def test_the_same_again_and_within_little_memory() -> None:
    each = asked(2)
    first, second = (each.together(lambda _: believe, 30) for _ in range(2))
    assert [m.progress.domains for m in first] == [m.progress.domains for m in second]
    with Budget(4_000).kept():
        few = each.together(lambda _: believe, 30)
    assert sum(m.progress.domains for m in few) < sum(m.progress.domains for m in first)
    for member, problem in zip(few, each.problems, strict=True):
        outcome = member.outcome if member.outcome != "unknown" else alone(problem, member.progress)
        assert outcome == alone(problem, Progress())


def test_who_shares_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = Engine(mlp(1, INPUTS, (9, 8), 2))
    graph = ready.graph

    def on(*boxes: tuple[list[float], list[float]]) -> list[NodeBounds]:
        sides = [[torch.tensor([side], dtype=torch.float64) for side in box] for box in boxes]
        return [bound_nodes(graph, ready.shaped(Box(*box))) for box in sides]

    apart = on(([0, 0, 0], [1, 1, 0]), ([0, 0, 1], [1, 1, 1]), ([0, 0, 0], [1, 1, 0]))
    assert groups(graph, apart, 3) == [[0, 1, 2]]
    assert groups(graph, apart, 2) == [[0], [1], [2]]
    # A box that is a point has an input that does not vary among the others'.
    point = on(([0.5, 0, 0], [0.5, 0, 0]), ([0.5, 0, 0], [0.5, 1, 1]))
    kept = [fold(graph, nodes).inputs.tolist() for nodes in point]
    assert kept == [[0], [1, 2]] and len(groups(graph, point, 3)) == 1
    monkeypatch.setattr(joined_boxes, "MOST_NEURONS", 5)
    assert groups(graph, apart, 3) == [[0], [1], [2]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_many_are_decided_as_one_by_one_and_as_exactly(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "SHARED_BOXES", 4)
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    shared = []
    original = joined_boxes.search
    monkeypatch.setattr(
        joined_boxes,
        "search",
        lambda members, *a, **k: (shared.append(len(members)), original(members, *a, **k)),
    )
    model = network(seed)
    queries = [vnnlib.parse(text, f"p{i}") for i, text in enumerate(texts(seed, model, 7))]
    together = [result.verdict for result in verify_many([(model, query) for query in queries], timeout=60)]
    assert together == [verify(model, query, timeout=60).verdict for query in queries]
    for verdict, query in zip(together, queries, strict=True):
        assert verify(model, query, timeout=60, verifier="milp").verdict in (verdict, "unknown")
    assert {"sat", "unsat"} == set(together) and max(shared) >= 2


def test_stopped_after_shared_batches_each_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "SHARED_BOXES", 1)
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    model = network(1)
    onnx_model.write(model, str(tmp_path / "net.onnx"))
    for i, text in enumerate(texts(1, model, 6)):
        (tmp_path / f"p{i}.vnnlib").write_text(text)
    questions = [
        Question(str(tmp_path / f"p{i}.vnnlib"), 60.0, state=str(tmp_path / f"{i}.npz")) for i in range(6)
    ]
    over = []
    original = joined_boxes.search
    monkeypatch.setattr(joined_boxes, "search", lambda *a, **k: (original(*a, **k), over.append(True)))
    first = dict(decide(str(tmp_path / "net.onnx"), questions, How(stop=lambda: bool(over))))
    left = [i for i in range(6) if (tmp_path / f"{i}.npz").exists()]
    assert len(left) >= 2
    for answer in first.values():
        assert isinstance(answer, Answer)
    second = dict(decide(str(tmp_path / "net.onnx"), questions, How()))
    plain = dict(decide(str(tmp_path / "net.onnx"), [Question(q.prop, 60.0) for q in questions], How()))
    for i in range(6):
        before, after, expected = first[i], second[i], plain[i]
        assert isinstance(before, Answer) and isinstance(after, Answer) and isinstance(expected, Answer)
        assert after.result.verdict == expected.result.verdict
        if i in left:
            assert 0 < before.result.domains < after.result.domains


def test_what_breaks_off_while_domains_are_handed_back_drops_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure of the shared rungs is not the end: each is finished by itself, from where it was before them."""
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    monkeypatch.setattr(strategy, "FEW_NEURONS", 0)
    monkeypatch.setattr(strategy, "SHARED_BOXES", 1)
    model = network(1)
    onnx_model.write(model, str(tmp_path / "net.onnx"))
    questions = []
    for i, text in enumerate(texts(1, model, 6)):
        (tmp_path / f"{i}.vnnlib").write_text(text)
        questions.append(Question(str(tmp_path / f"{i}.vnnlib"), 60.0))

    def verdicts() -> list[str]:
        answers = dict(decide(str(tmp_path / "net.onnx"), questions, How()))
        return [a.result.verdict if isinstance(a, Answer) else repr(a) for a in map(answers.get, range(6))]

    expected = verdicts()
    assert "sat" in expected
    lost: list[int] = []
    original = joined_boxes.search

    def broken(members: list[Member], *args: object, **rest: object) -> None:
        original(members, *args, **rest)  # type: ignore[arg-type]
        for member in members:
            rows = member.progress.store.drain()
            if rows:
                lost.append(len(rows["bound"]) - 1)
                member.progress.store.put(**{name: values[:1] for name, values in rows.items()})
        raise RuntimeError("no memory left")

    anew: list[bool] = []
    finish = Engine.finish

    def watched(ready: Engine, work: Work, seed: int) -> None:
        anew.append(work.left is None)
        finish(ready, work, seed)

    monkeypatch.setattr(joined_boxes, "search", broken)
    monkeypatch.setattr(Engine, "finish", watched)
    assert verdicts() == expected
    assert max(lost) > 0 and len(anew) > 1 and all(anew)
