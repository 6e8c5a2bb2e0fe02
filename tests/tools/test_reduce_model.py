"""secateur reduce-model through its command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import cnn
from secateur.formats import onnx_model


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    path = tmp_path / "dense.onnx"
    onnx_model.write(cnn(), str(path))
    return path


def test_a_command_s_failure_is_cut_down(invoke, dense, tmp_path):
    result = invoke(
        "reduce-model",
        dense,
        "--fails",
        "grep -c BatchNormalization {onnx}",
        "--matches",
        "^1",
        "-o",
        tmp_path / "s.onnx",
    )
    assert result.exit_code == 0, result.stderr
    assert "7 -> 1 nodes in" in result.stderr and result.stdout == ""
    small = onnx_model.read(str(tmp_path / "s.onnx"))
    assert [node.op_type for node in small.graph.node] == ["BatchNormalization"]
    assert onnx_model.provenance(small.proto)[-1]["command"] == "reduce-model"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name one failure"),
        (["--pass", "dead", "--mismatch", "engine"], 2, "name one failure"),
        (["--pass", "dead", "--matches", "x"], 2, "--matches goes with --fails"),
        (["--pass", "dud"], 2, "there is no pass 'dud'"),
        (["--fails", "true"], 2, "with {onnx} in it"),
        (["--fails", "true {onnx}"], 1, "does not show the failure"),
        (["--pass", "batchnorm"], 1, "does not show the failure"),
        (["--mismatch", "engine"], 1, "does not show the failure"),
    ],
)
def test_what_cannot_be_reduced_is_refused(invoke, dense, tmp_path, arguments, code, message):
    result = invoke("reduce-model", dense, *arguments, "-o", tmp_path / "s.onnx")
    assert result.exit_code == code
    assert message in result.stderr
    assert not (tmp_path / "s.onnx").exists()
