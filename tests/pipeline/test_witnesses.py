"""Checking witnesses: right ones pass, wrong ones are refused with what fails."""

from __future__ import annotations

import numpy as np
import pytest

from factories import box_property, mlp
from secateur.formats import onnx_model, vnnlib
from secateur.formats.errors import CheckFailed, InputError
from secateur.pipeline import onnxrt, witnesses

NET = onnx_model.from_proto(mlp([2, 6, 3], seed=3), "net.onnx")
X = np.array([0.25, -0.5], np.float32)
Y = onnxrt.run(NET, X[None])[0]
BEST, WORST = int(Y.argmax()), int(Y.argmin())


def query(condition: str) -> vnnlib.Query:
    return vnnlib.parse(box_property([-1, -1], [1, 0], 3, condition), "p")


def test_a_right_witness() -> None:
    found = query(f"(and (<= Y_{WORST} Y_{BEST}) (= X_0 0.25))")
    assert np.array_equal(witnesses.check(NET, found, X.astype(np.float64), "w"), Y)


def test_inputs_are_the_decimals_written() -> None:
    """No float is 0.1, but the witness that says 0.1 meets X_0 = 0.1; the network is fed the nearest float32."""
    y = witnesses.check(NET, query("(= X_0 0.1)"), np.array([0.1, -0.5]), "w")
    assert np.array_equal(y, onnxrt.run(NET, np.array([[0.1, -0.5]], np.float32))[0])


@pytest.mark.parametrize(
    ("x", "condition", "message"),
    [
        (X, f"(<= Y_{BEST} Y_{WORST})", rf"w: the witness does not hold: \(<= Y_{BEST} Y_{WORST}\) at Y_"),
        ([2, -0.5], "(and)", r"\(<= X_0 1.0\) at X_0 = 2 \(off by 1\)$"),
        ([-1.5, 0.5], "(and)", r"\(>= X_0 -1.0\) at X_0 = -1.5 \(off by 0.5\), and 1 more$"),
        (
            [float(np.float32(0.1)), -0.5],
            "(<= X_0 0.1)",
            r"\(<= X_0 0.1\) at X_0 = 0.100000001 \(off by 1.49e-09\)",
        ),
        (
            X,
            "(or (and (>= X_0 9)) (and (>= X_0 0.5) (<= X_1 0)))",
            r"none of 2 alternatives .* \(>= X_0 0.5\) at",
        ),
        (X, "(or)", "an empty disjunction is never true"),
        (X, "(< (+ X_0 X_1 Y_0 Y_1 Y_2) (/ -100 3))", r"\(\* 3.0 X_0\) .* at X_0 = 0.25, .*, …"),
    ],
)
def test_wrong_witnesses(x: object, condition: str, message: str) -> None:
    with pytest.raises(CheckFailed, match=message):
        witnesses.check(NET, query(condition), np.array(x, dtype=np.float64), "w")


def test_misfit() -> None:
    with pytest.raises(InputError, match="w: the witness has 3 inputs, the property 2"):
        witnesses.check(NET, query("(and)"), np.zeros(3), "w")
