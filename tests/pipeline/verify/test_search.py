"""Leaves of the split tree, the attack's determinism, and the clock."""

from __future__ import annotations

import itertools
import time
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from factories import box_property
from nets import Net, mlp
from problems import problem_of
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline.verify import attack, engine, verify
from secateur.pipeline.verify.search import leaf


@pytest.mark.parametrize("seed", range(4))
def test_leaves_are_decided_as_dense_sampling_says(seed: int) -> None:
    """Every full choice of signs: a leaf with a point that satisfies the clause must not be refuted; others are."""
    random = np.random.default_rng(seed)
    model = mlp(seed, 2, (4,), 2)
    limits = random.normal(size=3).round(2)
    condition = f"(and (<= (+ Y_0 (* 0.5 X_0)) {limits[0]}) (>= (- Y_1 Y_0) {limits[1]}))"
    problem = problem_of(model, box_property([-1.0, -1.0], [1.0, 1.0], 2, condition))
    folded, layout = problem.folded, problem.layout
    axis = torch.linspace(-1, 1, 201, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    values = dict(folded.graph.values(x))
    assert problem.direct is not None
    worst = (
        values[folded.graph.output] @ problem.rows[0].T + x @ problem.direct[0].T + problem.constant[0]
    ).amax(1)
    z = layout.join({p: values[folded.graph.preactivation(p)] for p in layout.sizes})
    low, high = (torch.cat([b[i][0] for b in folded.bounds.values()]) for i in (0, 1))
    unstable = torch.nonzero((low < 0) & (high > 0)).flatten()
    assert len(unstable) >= 2
    outcomes = set()
    for choice in itertools.product([1, -1], repeat=len(unstable)):
        signs = torch.zeros(layout.total, dtype=torch.int8)
        signs[unstable] = torch.tensor(choice, dtype=torch.int8)
        seen: list[tuple[Tensor, int]] = []

        def suspect(point: Tensor, clause: int, seen: list[tuple[Tensor, int]] = seen) -> bool:
            seen.append((point, clause))
            return True

        verdict = leaf.close(problem, 0, signs, suspect)
        outcomes.add(verdict)
        inside = (z * signs >= -1e-12).all(1)
        if verdict == "unsat":
            assert not (inside & (worst <= 0)).any()
        else:
            assert verdict == "sat"
            ((point, clause),) = seen
            assert clause == 0
            y = folded.graph.forward(point.view(1, -1))
            violation = y @ problem.rows[0].T + point @ problem.direct[0].T + problem.constant[0]
            assert violation.max() <= 1e-6
        if (inside & (worst <= -1e-3)).any():
            assert verdict == "sat"
    assert "unsat" in outcomes


def test_a_leaf_whose_candidate_is_rejected_stays_open() -> None:
    model = mlp(0, 2, (3,), 2)
    problem = problem_of(model, box_property([-1.0, -1.0], [1.0, 1.0], 2, "(>= Y_0 -100.0)"))
    unstable = torch.cat([((b[0] < 0) & (b[1] > 0))[0] for b in problem.folded.bounds.values()])
    signs = torch.where(unstable, 1, 0).to(torch.int8)
    assert leaf.close(problem, 0, signs, lambda *_: False) in ("unknown", "unsat")
    assert leaf.close(problem, 0, -signs, lambda *_: False) in ("unknown", "unsat")
    empty = problem_of(model, box_property([-1.0, -1.0], [1.0, 1.0], 2, "(<= 0.0 1.0)"))
    assert leaf.close(empty, 0, signs, lambda *_: False) == "unknown"  # a clause without atoms is true


def test_attacks_repeat_with_their_seed() -> None:
    model = mlp(4, 6, (20, 20), 3)
    text = box_property([-1.0] * 6, [1.0] * 6, 3, "(and (<= Y_0 Y_1) (<= Y_1 Y_2))")
    query = vnnlib.parse(text, "p")
    first, again = (attack(model, query, seed=5) for _ in range(2))
    assert first is not None and again is not None
    np.testing.assert_array_equal(first.x, again.x)
    np.testing.assert_array_equal(first.y, again.y)
    verdicts = [verify(model, query, seed=5, timeout=10) for _ in range(2)]
    for result in verdicts:
        assert result.witness is not None and verdicts[0].witness is not None
        np.testing.assert_array_equal(result.witness.x, verdicts[0].witness.x)


def hard_instance() -> tuple[Model, str]:
    """Deep, wide and random: undecided for far longer than the tests wait."""
    net = Net(0, 40)
    value, width = "x", 40
    for _ in range(5):
        weight = net.constant(net.random.normal(size=(width, 120)) * np.sqrt(2 / width))
        value, width = net("Relu", net("MatMul", value, weight)), 120
    model = net.finish(net("MatMul", value, net.weight(120, 1)))
    return model, box_property([-1.0] * 40, [1.0] * 40, 1, "(>= Y_0 200.0)")


@pytest.mark.parametrize("few", [8, 50], ids=["neurons", "inputs"])
@pytest.mark.parametrize("seconds", [0.3, 1.0])
def test_timeouts_are_kept(few: int, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FEW_INPUTS", few)
    model, text = hard_instance()
    query = vnnlib.parse(text, "p")
    started = time.perf_counter()
    result = verify(model, query, timeout=seconds)
    assert result.verdict in ("timeout", "unknown")
    assert time.perf_counter() - started < seconds + 3
    assert result.bound is None or result.bound <= 0


def test_the_milp_keeps_its_timeout() -> None:
    model, text = hard_instance()
    started = time.perf_counter()
    assert verify(model, vnnlib.parse(text, "p"), timeout=1, verifier="milp").verdict in (
        "timeout",
        "unknown",
    )
    assert time.perf_counter() - started < 8


def test_a_box_of_a_few_ulps_ends() -> None:
    """Sides too narrow to be halved in float64 must not be split for ever."""
    model = mlp(2, 2, (4,), 1)
    # 0.1 and 0.7 are no binary numbers: their outward box is one ulp wide.
    ready = engine.Engine(model)
    point = torch.tensor([[0.1, 0.7]], dtype=torch.float64)
    (y,) = ready.graph.forward(point).flatten().tolist()
    text = box_property([0.1, 0.7], [0.1, 0.7], 1, f"(and (>= Y_0 {y!r}) (<= Y_0 {y!r}))")
    started = time.perf_counter()
    result = verify(model, vnnlib.parse(text, "p"), timeout=20)
    assert result.verdict in ("sat", "unknown")
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("side", ["lower", "upper"])
def test_a_witness_at_an_end_with_many_digits(side: str) -> None:
    """Ends written with all digits of a float32, whose shortest decimals may lie outside of the box."""
    random = np.random.default_rng(5)
    ends = np.float32(random.uniform(0.01, 0.99, 30)).astype(float)
    low, high = (ends, ends + 0.125) if side == "lower" else (ends - 0.125, ends)
    net = Net(0, 30)
    weight = net.constant(np.ones((30, 1)) if side == "upper" else -np.ones((30, 1)))
    model = net.finish(net("MatMul", "x", weight))
    bounds = [
        f"(assert ({c} X_{i} {Decimal(v)}))" for c, e in ((">=", low), ("<=", high)) for i, v in enumerate(e)
    ]
    most = float(ends.sum() if side == "upper" else -ends.sum()) - 1e-4
    text = [f"(declare-const {n} Real)" for n in (*(f"X_{i}" for i in range(30)), "Y_0")]
    query = vnnlib.parse("\n".join([*text, *bounds, f"(assert (>= Y_0 {most}))"]), "p")
    assert any(Fraction(repr(v)) != Fraction(v) for v in ends.tolist())
    result = verify(model, query, timeout=10)
    assert result.verdict == "sat"
