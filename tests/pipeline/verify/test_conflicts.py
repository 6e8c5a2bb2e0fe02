"""Conflict learning: its logic against enumeration of signs, its linear programs against the network and sampling."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from factories import box_property
from nets import Net
from problems import grid, instance, problem_of
from secateur.formats import onnx_model, vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline.questions import Answer, How, Question
from secateur.pipeline.queue import decide
from secateur.pipeline.verify import engine, verify
from secateur.pipeline.verify.results import Result
from secateur.pipeline.verify.search import conflict_split, strategy
from secateur.pipeline.verify.search.conflicts import Conflicts, Signs
from secateur.pipeline.verify.search.problem import Progress
from secateur.pipeline.verify.search.triangle import Relaxed, Triangle

Formula = list[tuple[int, ...]]
"""Sets of literals ±(variable + 1) that exclude one another."""


def satisfiable(formula: Formula, variables: int) -> bool:
    choices = itertools.product([-1, 1], repeat=variables)
    return any(
        not any(all(np.sign(m) == choice[abs(m) - 1] for m in member) for member in formula)
        for choice in choices
    )


def broken(formula: Formula, signs: Signs) -> Signs | None:
    for member in formula:
        conflict = np.zeros_like(signs)
        for literal in member:
            conflict[abs(literal) - 1] = np.sign(literal)
        if (conflict * signs == np.abs(conflict)).all():
            return conflict
    return None


@given(
    st.integers(2, 7).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(
                st.lists(st.integers(1, n), min_size=1, max_size=3, unique=True).flatmap(
                    lambda v: st.tuples(*(st.sampled_from([x, -x]) for x in v))
                ),
                max_size=24,
            ),
        )
    ),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_conflicts_decide_formulas_as_enumeration_does(case: tuple[int, Formula], seed: int) -> None:
    """Random choices, some restarts: the search ends, and says that nothing is left only when nothing is."""
    variables, formula = case
    random = np.random.default_rng(seed)
    conflicts = Conflicts(variables)
    for _ in range(500):
        conflict = conflicts.propagate()
        if conflict is None:
            conflict = broken(formula, conflicts.signs)
        if conflict is not None:
            assert (conflict * conflicts.signs == np.abs(conflict)).all()
            if not conflicts.learn(conflict):
                assert not satisfiable(formula, variables)
                return
            if random.random() < 0.1:
                conflicts.restart()
            continue
        free = np.flatnonzero(conflicts.signs == 0)
        if not len(free):
            assert satisfiable(formula, variables)
            return
        conflicts.choose(int(random.choice(free)), int(random.choice([-1, 1])))
    pytest.fail("the search does not end")


def test_restarts_come_after_luby_s_terms() -> None:
    terms = [conflict_split.luby(i) for i in range(1, 16)]
    assert terms == [1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8]


def signs_of(triangle: Triangle, random: np.random.Generator) -> Signs:
    return np.where(triangle.unstable, random.integers(-1, 2, len(triangle.unstable)), 0).astype(np.int8)


@pytest.mark.parametrize("seed", range(9))
def test_the_program_is_a_relaxation_and_its_duals_attain_it(seed: int) -> None:
    """Its optimum is at most the clause's largest row at every point of a domain, and the rigorous bound is close."""
    problem = instance(seed)
    triangle = Triangle(problem, 0)
    _, z, worst = grid(problem)
    random = np.random.default_rng(seed)
    attained = 0
    for _ in range(25):
        signs = signs_of(triangle, random)
        inside = (z * torch.from_numpy(signs) >= 0).all(1)
        solution = triangle.solve(signs)
        assert solution.status in ("optimal", "infeasible")
        if solution.status == "infeasible":
            assert not inside.any()
        elif inside.any():
            assert solution.least <= worst[inside].min() + 1e-7
        (bound,) = triangle.bounds(triangle.certificate(solution.duals), signs[None])
        if inside.any():
            assert bound <= worst[inside].min() + 1e-12
        if solution.status == "infeasible":
            attained += bool(bound > 0)
        else:
            assert bound <= solution.least + 1e-7
            attained += bool(bound >= solution.least - 1e-6)
    assert attained >= 20


@pytest.mark.parametrize("seed", range(9))
def test_no_point_of_a_conflict_satisfies_the_clause(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = instance(seed)
    _, z, worst = grid(problem)
    found = []
    learn = Conflicts.learn

    def watched(self: Conflicts, conflict: Signs) -> bool:
        found.append(conflict)
        return learn(self, conflict)

    monkeypatch.setattr(Conflicts, "learn", watched)
    verdict = conflict_split.solve(
        problem, expired=lambda: False, suspect=lambda *_: False, progress=Progress()
    )
    assert verdict in ("unsat", "unknown")
    if (worst <= -1e-3).any():
        assert verdict == "unknown"
    for conflict in found:
        inside = (z * torch.from_numpy(conflict) >= 0).all(1)
        assert (worst[inside] > 0).all()


def formula_net(formula: Formula, variables: int) -> tuple[Model, str]:
    """A network and a property that hold for exactly the assignments in {0, 1} that break no member of the formula."""
    net = Net(0, variables)
    weight, bias = np.zeros((variables, len(formula))), np.zeros(len(formula))
    for column, member in enumerate(formula):
        for literal in member:
            weight[abs(literal) - 1, column] = np.sign(literal)
        bias[column] = 1 - sum(literal > 0 for literal in member)
    unit = np.eye(variables)
    z = net("MatMul", "x", net.constant(np.hstack([weight, unit, 2 * unit])))
    z = net("Add", z, net.constant(np.concatenate([bias, np.zeros(variables), -np.ones(variables)])))
    count = len(formula)
    last = np.zeros((count + 2 * variables, 2))
    last[:count, 0], last[count : count + variables, 1], last[count + variables :, 1] = 1, 1, -1
    model = net.finish(net("MatMul", net("Relu", z), net.constant(last)))
    return model, box_property([0.0] * variables, [1.0] * variables, 2, "(and (<= Y_0 0.0) (<= Y_1 0.0))")


@pytest.mark.parametrize("seed", range(8))
def test_formulas_as_networks(seed: int) -> None:
    """Three literals a clause, near the threshold: decided as enumeration does; a candidate is an assignment."""
    random = np.random.default_rng(seed)
    variables = 8
    formula = [
        tuple(int(v + 1) * int(random.choice([-1, 1])) for v in random.choice(variables, 3, replace=False))
        for _ in range(44)
    ]
    model, text = formula_net(formula, variables)
    problem = problem_of(model, text)
    reached = []

    def suspect(x: Tensor, clause: int) -> bool:
        reached.append(x)
        return True

    verdict = conflict_split.solve(problem, expired=lambda: False, suspect=suspect, progress=Progress())
    assert verdict == ("sat" if satisfiable(formula, variables) else "unsat")
    for x in reached:
        assert broken(formula, np.where(x.numpy() > 0.5, 1, -1).astype(np.int8)) is None


def test_the_engine_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All signs of four variables excluded one by one, times ten idle variables: refuted by short conflicts."""
    monkeypatch.setattr(strategy, "EASY", 0)
    monkeypatch.setattr(engine, "BURST", 0)
    formula = [
        tuple(s * v for s, v in zip(c, range(1, 5), strict=True))
        for c in itertools.product([-1, 1], repeat=4)
    ]
    formula += [(v, v + 1, v + 2) for v in range(5, 13)]
    model, text = formula_net(formula, 14)
    assert conflict_split.suits(problem_of(model, text).folded)
    assert verify(model, vnnlib.parse(text, "p"), timeout=60).verdict == "unsat"


def test_stopped_again_and_again_it_goes_on_with_what_was_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is stopped after a few programs, and another that goes on from its file: in all they need little
    more than one that is never stopped, which fails where each begins anew."""
    monkeypatch.setattr(strategy, "EASY", 0)
    monkeypatch.setattr(engine, "BURST", 0)
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    monkeypatch.setattr(conflict_split, "suits", lambda _: True)
    random = np.random.default_rng(0)
    literals = [
        [int(v + 1) * int(random.choice([-1, 1])) for v in random.choice(30, 3, replace=False)]
        for _ in range(138)
    ]
    model, text = formula_net([tuple(each) for each in literals], 30)
    onnx_model.write(model, str(tmp_path / "net.onnx"))
    (tmp_path / "p.vnnlib").write_text(text)
    state = tmp_path / "s.npz"

    def answered(state: Path | None, programs: int) -> Result:
        solve, left = Triangle.solve, programs

        def counted(self: Triangle, splits: Signs) -> Relaxed:
            nonlocal left
            left -= 1
            return solve(self, splits)

        with monkeypatch.context() as patch:
            patch.setattr(Triangle, "solve", counted)
            question = Question(str(tmp_path / "p.vnnlib"), 60.0, state=None if state is None else str(state))
            how = How(stop=lambda: left <= 0)
            ((_, answer),) = decide(str(tmp_path / "net.onnx"), [question], how)
        assert isinstance(answer, Answer)
        return answer.result

    whole = answered(None, 10**9)
    assert whole.verdict == "unsat" and whole.domains > 60
    known = [0]
    for _ in range(100):
        result = answered(state, 15)
        if result.verdict != "timeout":
            break
        with np.load(state) as file:
            known.append(len(file["learnt/0/conflicts"]))
    assert result.verdict == "unsat" and not state.exists()
    assert known == sorted(set(known)) and len(known) > 3
    assert result.domains < 2 * whole.domains
