"""The measurement of speed and memory, on a network so small that Python itself misses the goal for memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from factories import cnn

ROOT = Path(__file__).resolve().parent.parent


def test_every_command_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "vnncomp_benchmarks"))
    import pruning_speed

    model, results = tmp_path / "net.onnx", tmp_path / "r.jsonl"
    model.write_bytes(cnn().SerializeToString())
    monkeypatch.setattr(sys, "argv", ["pruning_speed.py", "--model", str(model), "--results", str(results)])
    assert pruning_speed.main() == 1
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert [record["command"] for record in records] == list(pruning_speed.commands(model))
    for record in records:
        assert record["file"] == model.stat().st_size
        assert record["peak"] >= record["floor"] / 2 > 0
        assert record["cpu"] > 0
    assert "over the goal: shrink:" in capsys.readouterr().out


def test_a_command_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "vnncomp_benchmarks"))
    import pruning_speed

    with pytest.raises(SystemExit, match="no such file"):
        pruning_speed.run("-m", "secateur.tools", "shrink", "missing.onnx", "-o", "out.onnx")
