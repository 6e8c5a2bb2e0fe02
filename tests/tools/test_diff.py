"""secateur diff through its command line: exit codes, what goes where, and the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from factories import box_property, mlp
from secateur.formats import onnx_model, witness
from secateur.formats.onnx_model import initializers


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    a, b = mlp([3, 4, 2]), mlp([3, 4, 2])
    onnx_model.set_initializer(b, "fc1.bias", initializers(b)["fc1.bias"] + np.float32([0, 0.25]))
    for name, proto in (("a", a), ("b", b)):
        onnx_model.write(proto, str(tmp_path / f"{name}.onnx"))
    prop = tmp_path / "p.vnnlib"
    prop.write_text(box_property([0.0] * 3, [1.0] * 3, 2, "(<= Y_0 Y_1)"))
    return tmp_path / "a.onnx", tmp_path / "b.onnx", prop


def test_models_that_differ_fail_and_the_worst_input_is_written(invoke, files, tmp_path):
    a, b, prop = files
    result = invoke("diff", a, b, "--property", prop, "--certify", "--json", "--worst", tmp_path / "w.npz")
    assert result.exit_code == 1
    assert "first apart: Gemm 'y' differs by 0.25" in result.stderr
    assert "differ by 0.25 of the largest output (tolerance 0.0001)" in result.stderr
    found = json.loads(result.stdout)
    assert found["worst"] == pytest.approx(0.25, abs=1e-6) and found["output"] == 1
    assert (
        found["worst"] - 1e-6 <= found["bound"] <= 0.2501
    )  # in real arithmetic, without the rounding of floats
    written = np.load(tmp_path / "w.npz")
    assert np.abs(written["a"] - written["b"]).max() == pytest.approx(found["worst"])
    assert invoke("diff", a, b, "--worst", tmp_path / "w.txt").exit_code == 1
    x, y = witness.read(str(tmp_path / "w.txt"))
    assert len(x) == 3 and len(y) == 2


def test_models_within_the_tolerance_pass(invoke, files):
    a, b, prop = files
    assert invoke("diff", a, b, "--property", prop, "--tolerance", 0.3).exit_code == 0
    same = invoke("diff", a, a)
    assert same.exit_code == 0 and same.stdout == ""
    assert "worst difference 0 " in same.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--certify"], "--certify needs the inputs"),
        (["--property", "p.vnnlib", "--data", "digits"], "either --property or --data"),
        (["--data", "digits"], "have 64 elements, the networks 3 inputs"),
        (["--worst", "nowhere/w.npz"], "its folder does not exist"),
    ],
)
def test_what_cannot_be_compared_is_refused(invoke, files, arguments, message):
    result = invoke("diff", *files[:2], *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
