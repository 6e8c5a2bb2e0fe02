"""The whole engine against enumeration of all activation patterns, the MILP, and exact replay of its witnesses."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from factories import box_property
from nets import Net, mlp
from oracles import exact, satisfied
from properties import instance
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt
from secateur.pipeline.verify import Result, engine, verify, verify_many
from secateur.pipeline.verify.search import strategy


def replay(model: Model, text: str, result: Result) -> None:
    """A witness must satisfy the text with onnxruntime's outputs, and those must be the network's."""
    assert result.witness is not None
    x = [Fraction(repr(float(v))) for v in result.witness.x]
    y = onnxrt.run(model, np.asarray(result.witness.x, np.float32)[None])[0]
    assert satisfied(text, x, [Fraction(float(v)) for v in y])
    real = np.array([float(v) for v in exact(model, x)])
    np.testing.assert_allclose(y, real, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(result.witness.y, y)


SEEDS = 80


@pytest.mark.parametrize("few", [0, 8], ids=["neurons", "inputs"])
@pytest.mark.parametrize("block", range(4))
def test_engine_decides_as_enumeration_does(few: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FEW_INPUTS", few)
    for seed in range(block, SEEDS, 4):
        case = instance(seed)
        result = verify(case.model, vnnlib.parse(case.text, "p"), timeout=20, seed=seed)
        assert result.verdict == ("sat" if case.least < 0 else "unsat"), (seed, case.least, result)
        if result.verdict == "sat":
            replay(case.model, case.text, result)
        else:
            assert result.bound is None or result.bound >= 0


def test_instances_are_mixed() -> None:
    verdicts = [instance(seed).least < 0 for seed in range(SEEDS)]
    assert 0.25 < np.mean(verdicts) < 0.75


@pytest.mark.parametrize("few", [0, 8], ids=["neurons", "inputs"])
def test_the_proof_alone_never_refutes_what_holds(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without attacks, and with every candidate witness rejected: satisfiable properties must stay open."""
    monkeypatch.setattr(engine, "FEW_INPUTS", few)
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    monkeypatch.setattr(engine.Replay, "check", lambda *_: None)
    for seed in range(SEEDS):
        case = instance(seed)
        if case.least < 0:
            result = verify(case.model, vnnlib.parse(case.text, "p"), timeout=0.15)
            assert result.verdict in ("unknown", "timeout"), (seed, case.least, result)


def test_milp_decides_as_enumeration_does() -> None:
    for seed in range(SEEDS):
        case = instance(seed)
        result = verify(case.model, vnnlib.parse(case.text, "p"), timeout=20, verifier="milp")
        # A solution of the program is a point of no slack, which rounding may spoil: "unknown" is allowed.
        assert result.verdict in (("sat", "unknown") if case.least < 0 else ("unsat",)), (seed, case.least)
        if result.verdict == "sat":
            replay(case.model, case.text, result)


def test_linear_programs_decide_as_enumeration_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without attacks, and without the batches: what the conflicts of linear programs say of any network."""
    monkeypatch.setattr(engine, "FEW_INPUTS", 0)
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    monkeypatch.setattr(strategy.conflict_split, "suits", lambda folded: bool(folded.neurons))
    monkeypatch.setattr(strategy.relu_split, "solve", lambda *_, **__: "unknown")
    decided = 0
    for seed in range(SEEDS):
        case = instance(seed)
        result = verify(case.model, vnnlib.parse(case.text, "p"), timeout=5)
        # A region without neurons is left to the batches; a witness is sought in the programs' optima alone.
        assert result.verdict in ("unknown", "sat" if case.least < 0 else "unsat"), (seed, case.least, result)
        decided += result.verdict != "unknown"
        if result.verdict == "sat":
            replay(case.model, case.text, result)
    assert decided > 0.8 * SEEDS


@pytest.mark.slow
@pytest.mark.parametrize("few", [0, 8], ids=["neurons", "inputs"])
def test_engine_decides_as_enumeration_does_at_length(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FEW_INPUTS", few)
    for seed in range(1000, 1800):
        case = instance(seed)
        result = verify(case.model, vnnlib.parse(case.text, "p"), timeout=30, seed=seed)
        assert result.verdict == ("sat" if case.least < 0 else "unsat"), (seed, case.least, result)
        if result.verdict == "sat":
            replay(case.model, case.text, result)


DECLARED = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)"
BOX = "(assert (>= X_0 -1.0))(assert (<= X_0 1.0))(assert (>= X_1 -1.0))(assert (<= X_1 1.0))"


@pytest.mark.parametrize("verifier", ["crown", "milp"])
@pytest.mark.parametrize("few", [0, 8])
@pytest.mark.parametrize(
    ("condition", "verdict"),
    [
        ("(assert (<= X_0 -2.0))", "unsat"),  # an empty box: no region
        ("(assert (<= 1.0 0.0))", "unsat"),
        ("(assert (or (<= 0.0 1.0) (>= Y_0 1e6)))", "sat"),  # a clause that is always true
        ("", "sat"),  # no condition at all
        ("(assert (>= X_0 0.5))(assert (<= X_0 0.5))(assert (>= Y_0 1e6))", "unsat"),
        ("(assert (<= (+ X_0 X_1) -3.0))", "unsat"),  # the relation excludes the box
        ("(assert (<= (+ X_0 X_1) -1.5))", "sat"),
        ("(assert (and (<= (- Y_0 Y_1) -0.001) (>= (- Y_0 Y_1) 0.001)))", "unsat"),
        ("(assert (and (< Y_0 Y_1) (> Y_0 Y_1)))", None),  # contradictory, but only strictly so
        ("(assert (or (>= Y_0 1e5) (<= Y_1 -1e5) (>= X_0 1.5)))", "unsat"),
    ],
)
def test_degenerate_properties(
    condition: str, verdict: str | None, few: int, verifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "FEW_INPUTS", few)
    model = mlp(7, 2, (6, 4), 2)
    text = DECLARED + BOX + condition
    result = verify(model, vnnlib.parse(text, "p"), timeout=3, verifier=verifier)
    if verdict is None:
        assert result.verdict != "sat"
    else:
        assert result.verdict == verdict
    if result.verdict == "sat":
        replay(model, text, result)


@pytest.mark.parametrize("few", [0, 8])
def test_boxes_that_are_points(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All inputs fixed, to binary fractions or to decimals that no float holds (then the box has a width)."""
    monkeypatch.setattr(engine, "FEW_INPUTS", few)
    model = mlp(3, 2, (6, 4), 2)
    for x in ([0.25, -0.5], [0.1, -0.7]):
        y = exact(model, [Fraction(repr(v)) for v in x])[0]
        for offset, verdict in ((Fraction(1, 1000), "unsat"), (Fraction(-1, 1000), "sat")):
            text = box_property(x, x, 2, f"(>= Y_0 {vnnlib.decimal(Fraction(round(y + offset, 9)))})")
            result = verify(model, vnnlib.parse(text, "p"), timeout=5)
            assert result.verdict == verdict, (x, offset)
            if verdict == "sat":
                replay(model, text, result)


@pytest.mark.parametrize("few", [0, 8])
def test_an_output_that_ignores_the_input(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FEW_INPUTS", few)
    net = Net(0, 2)
    hidden = net("Relu", net("MatMul", "x", net.constant(np.zeros((2, 3)))))
    model = net.finish(net("Add", net("MatMul", hidden, net.weight(3, 1)), net.constant([0.5])))
    for limit, verdict in (("0.5", "sat"), ("0.501", "unsat")):
        query = vnnlib.parse(box_property([-1.0] * 2, [1.0] * 2, 1, f"(>= Y_0 {limit})"), "p")
        assert verify(model, query, timeout=3).verdict == verdict


@pytest.mark.parametrize("few", [0, 8])
def test_neurons_that_are_exactly_zero(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pre-activations bounded by 0 = l = u, dead layers, and a layer in which nothing is unstable."""
    monkeypatch.setattr(engine, "FEW_INPUTS", few)
    net = Net(0, 2)
    first = net("Relu", net("Sub", net("Relu", "x"), net("Relu", "x")))  # 0, but no interval knows
    dead = net(
        "Relu",
        net("MatMul", net("Relu", net("MatMul", "x", net.constant(np.zeros((2, 2))))), net.weight(2, 2)),
    )
    positive = net("Relu", net("Add", "x", net.constant(5.0)))
    total = net("Add", net("Add", first, dead), positive)
    model = net.finish(net("Sub", total, net.constant(5.0)))  # the identity
    for condition, verdict in (
        ("(>= Y_0 0.999)", "sat"),
        ("(>= Y_0 1.001)", "unsat"),
        ("(<= Y_1 -0.999)", "sat"),
    ):
        text = box_property([-1.0] * 2, [1.0] * 2, 2, condition)
        result = verify(model, vnnlib.parse(text, "p"), timeout=5)
        assert result.verdict == verdict
        if verdict == "sat":
            replay(model, text, result)


@pytest.mark.parametrize(("few", "inputs"), [(0, 12), (8, 2)])
def test_a_network_without_relu(few: int, inputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """y₁ = -y₀: no single row refutes their conjunction, and no neuron can be split."""
    monkeypatch.setattr(engine, "FEW_INPUTS", few)
    net = Net(1, inputs)
    weight = net.random.normal(size=(inputs, 1)).astype(np.float32)
    model = net.finish(net("MatMul", "x", net.constant(np.concatenate([weight, -weight], axis=1))))
    for limit, verdict in ((0.01, "unsat"), (-0.01, "sat")):
        text = box_property([-1.0] * inputs, [1.0] * inputs, 2, f"(and (>= Y_0 {limit}) (>= Y_1 {limit}))")
        assert verify(model, vnnlib.parse(text, "p"), timeout=10).verdict == verdict


def test_many_are_decided_in_order_as_each_alone() -> None:
    """Neighbours that share a network share batches; that changes neither order nor verdict nor witness."""
    one, other = mlp(1, 3, (6, 5), 2), mlp(2, 3, (6, 5), 2)
    problems = []
    for i, model in enumerate([one] * 5 + [other] * 3 + [one] * 2):
        limit = -2.0 + 0.5 * i
        text = box_property([-1.0] * 3, [1.0 + 0.1 * i] * 3, 2, f"(>= Y_{i % 2} {limit})")
        problems.append((model, vnnlib.parse(text, str(i))))
    together = list(verify_many(problems, timeout=10, seed=3))
    alone = [verify(model, query, timeout=10, seed=3) for model, query in problems]
    assert [r.verdict for r in together] == [r.verdict for r in alone]
    assert {"sat", "unsat"} == {r.verdict for r in alone}
    for ours, theirs in zip(together, alone, strict=True):
        assert (ours.witness is None) == (theirs.witness is None)
        if ours.witness is not None and theirs.witness is not None:
            np.testing.assert_array_equal(ours.witness.x, theirs.witness.x)
            assert ours.layers == theirs.layers or ours.layers is None or theirs.layers is None
