"""Instances of one network whose arguments of nonlinear nodes are cut in shared batches: the same as one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from factories import box_property
from nets import Net
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline.verify import engine, verify, verify_many
from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.bounding.root import NodeBounds, bound_nodes
from secateur.pipeline.verify.bounding.specification import subproblems
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.region import hull
from secateur.pipeline.verify.region.embed import embed
from secateur.pipeline.verify.search import joined_cuts, strategy
from secateur.pipeline.verify.search.cut_split import Search
from secateur.pipeline.verify.search.joined import Member
from secateur.pipeline.verify.search.joined_cuts import search
from secateur.pipeline.verify.search.members import Owned
from secateur.pipeline.verify.search.problem import Problem, Progress

INPUTS = 4
FIRST, STEPS = Schedule(6), Schedule(4)


def network(seed: int) -> Model:
    """A layer of Tanh or Sigmoid, and one of ReLUs."""
    net = Net(seed, INPUTS)
    value = "x"
    for function, (rows, columns) in zip(
        ("Tanh" if seed % 2 else "Sigmoid", "Relu"), ((INPUTS, 6), (6, 5)), strict=True
    ):
        weight = net.constant(2.0 * net.random.normal(size=(rows, columns)) / np.sqrt(rows))
        value = net(function, net("MatMul", value, weight))
    return net.finish(net("MatMul", value, net.weight(5, 2)))


def texts(seed: int, model: Model, count: int) -> list[str]:
    """Properties on boxes of several sizes, some with a fixed input, of one to three clauses, near the truth."""
    random = np.random.default_rng(seed)
    replay = Engine(model).replay
    result = []
    for i in range(count):
        centre, radius = random.uniform(-1, 1, INPUTS), random.uniform(0.3, 1.0, INPUTS)
        radius[random.integers(INPUTS)] *= i % 3 != 1
        low, high = (centre - radius).round(3), (centre + radius).round(3)
        y = replay.outputs(random.uniform(low, high, (3_000, INPUTS)))
        margin = random.choice([-0.05, 0.1]) * (1 + np.ptp(y))
        most, least = (y.max(0) + np.array([margin, 1.0])).tolist(), (y.min(0) - abs(margin)).tolist()
        clauses = [f"(and (>= Y_0 {most[0]!r}) (<= (+ Y_1 (* 0.25 X_0)) {most[1]!r}))"]
        clauses += [f"(and (<= Y_{k} {least[k]!r}))" for k in (0, 1)[: i % 3]]
        result.append(box_property(low.tolist(), high.tolist(), 2, f"(or {' '.join(clauses)})"))
    return result


class Asked:
    """Instances of one network, each made ready for its own box."""

    def __init__(self, seed: int, count: int = 5) -> None:
        model = network(seed)
        self.ready = Engine(model)
        self.nodes: list[NodeBounds] = []
        self.inner: list[NodeBounds] = []
        self.problems: list[Problem] = []
        for text in texts(seed, model, count):
            each = subproblems([vnnlib.parse(text, "p")])
            nodes = bound_nodes(self.ready.graph, self.ready.shaped(each.boxes))
            folded, inner = embed(self.ready.graph, nodes)
            self.nodes.append(nodes)
            self.inner.append(inner)
            self.problems.append(Problem(*strategy.specification(each, folded), folded))

    def together(self, suspects: Callable[[int], Callable[[Tensor, int], bool]], most: int) -> list[Member]:
        members = [Member(problem, Progress(), suspects(i)) for i, problem in enumerate(self.problems)]
        search(
            members,
            self.ready.graph,
            self.nodes,
            first=FIRST,
            schedule=STEPS,
            batch=lambda _: 16,
            most=most,
            expired=lambda: False,
        )
        return members

    def searched(self, i: int) -> Search:
        return Search(self.problems[i].folded, self.inner[i], self.problems[i])

    def alone(self, i: int, progress: Progress, most: int = 600) -> str:
        return self.searched(i).run(
            first=FIRST,
            schedule=STEPS,
            batch=16,
            expired=lambda: progress.domains > most,
            suspect=believe,
            progress=progress,
        )


def believe(x: Tensor, clause: int) -> bool:
    return True


def refuse(x: Tensor, clause: int) -> bool:
    return False


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6))
def test_domains_have_the_bounds_that_they_have_alone(seed: int) -> None:
    """What the ascent makes of the roots and of their halves, and that it is below what the rows are."""
    each = Asked(seed)
    shared = hull.Hull.of(each.ready.graph, each.nodes, foldable=False)
    clauses = Owned.of(each.problems, shared.folded.inputs)
    joint = Search(shared.folded, shared.nodes, clauses, owner=clauses.owner)

    def certified(of: Search, rows: dict[str, Tensor]) -> Tensor:
        return of._certified(*(rows[n] for n in ("clause", "lower", "upper", "multipliers", "weights")))

    def never() -> bool:
        return False

    roots = joint.roots()
    for i, own in enumerate(each.searched(i) for i in range(len(each.problems))):
        for name, side in (("lower", own.arguments.lower), ("upper", own.arguments.upper)):
            assert (roots[name][clauses.owner == i] == side).all()
    found = joint.bounded(roots, FIRST, never, refuse)
    assert found is not None
    halved = joint.bounded(joint.halves(found.rows), STEPS, never, refuse)
    assert halved is not None
    for of_all in (found.rows, halved.rows):
        bounds = certified(joint, of_all)
        for i, problem in enumerate(each.problems):
            mine = torch.nonzero(clauses.owner[of_all["clause"]] == i).flatten()
            rows = {name: values[mine] for name, values in of_all.items()}
            first = int(torch.searchsorted(clauses.owner, i))
            rows["clause"] = rows["clause"] - first
            rows["weights"] = rows["weights"][:, : problem.constant.shape[1]]
            assert torch.allclose(certified(each.searched(i), rows), bounds[mine], rtol=1e-6, atol=1e-6)
            box = problem.folded.box
            x = box.lower + torch.rand(2_000, box.lower.shape[1], dtype=torch.float64) * (
                box.upper - box.lower
            )
            values = dict(problem.folded.graph.values(x))
            search_ = each.searched(i)
            z = torch.cat(
                [dict(problem.folded.graph.values(x, s))[s].flatten(1) for s in search_.arguments.sizes], 1
            )
            y = values[problem.folded.graph.output]
            for clause, low, high, bound in zip(
                rows["clause"], rows["lower"], rows["upper"], bounds[mine], strict=True
            ):
                inside = ((z >= low) & (z <= high)).all(1)
                row = y @ problem.rows[clause].T + problem.constant[clause]
                if problem.direct is not None:
                    row = row + x @ problem.direct[clause].T
                assert (row.amax(1)[inside] >= bound).all()


@pytest.mark.parametrize("seed", [1, 5, 7])
def test_what_is_left_open_goes_on_alone(seed: int) -> None:
    each = Asked(seed, 6)
    left = 0
    for i, member in enumerate(each.together(lambda _: believe, 4)):
        outcome, expected = member.outcome, each.alone(i, Progress())
        if outcome == "unknown":
            left += 1
            outcome = each.alone(i, member.progress)
        assert outcome == expected
    assert left


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_no_point_that_satisfies_a_clause_is_lost(seed: int) -> None:
    """Whatever point of a box satisfies a clause lies in a domain that is left open, if only nobody believes in it."""
    each = Asked(seed)
    for i, member in enumerate(each.together(lambda _: refuse, 40)):
        problem, of = each.problems[i], each.searched(i)
        graph, box = problem.folded.graph, problem.folded.box
        x = box.lower + torch.rand(3_000, box.lower.shape[1], dtype=torch.float64) * (box.upper - box.lower)
        z = torch.cat([dict(graph.values(x, s))[s].flatten(1) for s in of.arguments.sizes], 1)
        value = torch.einsum("no,kso->nks", graph.forward(x), problem.rows) + problem.constant
        if problem.direct is not None:
            value = value + torch.einsum("ni,ksi->nks", x, problem.direct)
        satisfied = (value <= -1e-9).all(2)
        if not satisfied.any():
            continue
        assert member.outcome == "unknown"
        rows = member.progress.store.rows()
        if member.progress.undecided or not rows:
            continue
        inside = ((z[:, None] >= rows["lower"]) & (z[:, None] <= rows["upper"])).all(2)
        for k in range(len(problem.constant)):
            assert inside[:, rows["clause"] == k].any(1)[satisfied[:, k]].all()


def test_one_that_is_violated_leaves_the_others_to_go_on() -> None:
    each = Asked(1, 8)
    accepted: list[int] = []

    def judge(i: int) -> Callable[[Tensor, int], bool]:
        problem = each.problems[i]

        def suspect(x: Tensor, clause: int) -> bool:
            accepted.append(i)
            assert x.shape == (problem.folded.graph.input.size,)
            rows = problem.specification(torch.tensor([clause]), torch.float64)
            value = rows.values(x.view(1, 1, -1), problem.folded.graph.forward(x.unsqueeze(0)).unsqueeze(1))
            assert (value <= 1e-4).all()
            return True

        return suspect

    members = each.together(judge, 2_000)
    assert len(accepted) == len(set(accepted))
    assert {"sat", "unsat"} <= {member.outcome for member in members}


@pytest.mark.parametrize("seed", [1, 7])
def test_many_are_decided_as_one_by_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FEW_INPUTS", 0)
    monkeypatch.setattr(strategy, "SHARED_CUTS", 4)
    monkeypatch.setattr(engine, "QUICK", engine.FIRST)
    shared = []
    original = joined_cuts.search
    monkeypatch.setattr(
        joined_cuts,
        "search",
        lambda members, *a, **k: (shared.append(len(members)), original(members, *a, **k)),
    )
    model = network(seed)
    queries = [vnnlib.parse(text, f"p{i}") for i, text in enumerate(texts(seed, model, 6))]
    together = [result.verdict for result in verify_many([(model, query) for query in queries], timeout=20)]
    assert together == [verify(model, query, timeout=20).verdict for query in queries]
    assert {"sat", "unsat"} == set(together) and max(shared) >= 2
