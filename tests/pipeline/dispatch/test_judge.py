"""Witnesses of others: only what onnxruntime and the property confirm is sat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.pipeline import dispatch
from secateur.pipeline.dispatch.judge import SLACK, judge
from secateur.pipeline.dispatch.protocol import Claim, assignment, pairs, word
from secateur.pipeline.verify.replay import Replay
from solvers import instance


def judged(folder: Path, x: list[float] | None, condition: str = "(>= Y_0 -1000.0)"):  # type: ignore[no-untyped-def]
    _, _, model, query = instance(folder, condition)
    claim = Claim("sat", None if x is None else np.array(x))
    return judge(claim, query, Replay(model))


def test_a_witness_that_holds_is_sat(tmp_path: Path) -> None:
    found = judged(tmp_path, [0.25, 1.0])
    assert (found.verdict, found.replay) == ("sat", "strict")
    assert found.witness is not None
    np.testing.assert_array_equal(found.witness.x, [0.25, 1.0])


def test_a_witness_next_to_the_box_is_moved_into_it(tmp_path: Path) -> None:
    found = judged(tmp_path, [-0.5 * SLACK, 1.0 + 0.9 * SLACK])
    assert (found.verdict, found.replay) == ("sat", "strict")
    assert found.witness is not None
    np.testing.assert_array_equal(found.witness.x, [0.0, 1.0])


def test_one_that_holds_only_outside_is_tolerated_and_said_to_be(tmp_path: Path) -> None:
    _, _, model, _query = instance(tmp_path)
    replay = Replay(model)
    outside = np.array([0.5, 1.0 + 0.9 * SLACK])
    inside, beyond = (float(replay.outputs(np.array([x]))[0, 0]) for x in ([0.5, 1.0], outside))
    assert inside != beyond
    # a threshold that only the output outside the box meets
    sign, middle = (">=", beyond) if beyond > inside else ("<=", beyond)
    found = judged(tmp_path, outside.tolist(), f"({sign} Y_0 {middle!r})")
    assert (found.verdict, found.replay) == ("sat", "tolerant")
    assert "outside" in found.message


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (None, "without a witness"),
        ([0.5], "has 1 inputs, the property 2"),
        ([0.5, np.nan], "no finite numbers"),
        ([0.5, 1.5], "refute the witness"),
    ],
)
def test_others_are_invalid(tmp_path: Path, x: list[float] | None, reason: str) -> None:
    found = judged(tmp_path, x)
    assert found.verdict == "invalid-witness"
    assert found.witness is None
    assert reason in found.message


def test_outputs_have_no_tolerance(tmp_path: Path) -> None:
    _, _, model, _ = instance(tmp_path)
    y = float(Replay(model).outputs(np.array([[0.5, 0.5]]))[0, 0])
    found = judged(tmp_path, [0.5, 0.5], f"(>= Y_0 {float(np.nextafter(np.float32(y), np.float32(9)))!r})")
    assert found.verdict == "invalid-witness"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("unsat\n", "unsat"),
        ("holds", "unsat"),
        ("timed-out", "timeout"),
        ("SAT: x", "sat"),
        ("unsatisfied", ""),
        ("", ""),
    ],
)
def test_first_words(text: str, verdict: str) -> None:
    assert word(text) == verdict


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), st.randoms())
@settings(max_examples=50)
def test_inputs_are_read_in_any_order(values: list[float], order) -> None:  # type: ignore[no-untyped-def]
    lines = [f"(X_{i} {value!r})" for i, value in enumerate(values)] + ["(Y_0 1.0)"]
    order.shuffle(lines)
    found = pairs("sat\n(" + "\n".join(lines) + ")")
    assert found is not None
    np.testing.assert_array_equal(found, values)
    if len(values) > 1:
        missing = [line for line in lines if not line.startswith("(X_0 ")]
        assert pairs("\n".join(missing)) is None


def test_assignments_of_the_standard() -> None:
    text = "sat\nX float32 [1,2]\n0.5\n-1e-3\nY float32 [1]\n7.0\n"
    found = assignment(text)
    assert found is not None
    np.testing.assert_array_equal(found, [0.5, -1e-3])
    assert assignment("sat\n") is None


def test_names_prefixes_and_lists() -> None:
    assert dispatch.tool("crown") is None
    assert dispatch.tool("marabou") is dispatch.FOREIGN["marabou"]
    assert dispatch.split("crown, marabou") == ("crown", "marabou")
    assert dispatch.split("command:a,b {onnx} {vnnlib}") == ("command:a,b {onnx} {vnnlib}",)
    assert dispatch.trusted("crown") and dispatch.trusted("neuralsat") and not dispatch.trusted("marabou")
