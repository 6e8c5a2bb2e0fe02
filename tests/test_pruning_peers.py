"""The comparison with other pruning tools: ours alone, and what it says when another leaves less."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import onnx
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, where no other tool is installed."""
    monkeypatch.syspath_prepend(str(ROOT / "vnncomp_benchmarks"))
    import pruning_peers

    def installed(package: str) -> str:
        if package != "secateur":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(pruning_peers, "version", installed)
    monkeypatch.setattr(sys, "argv", ["pruning_peers.py", "--models", "lenet"])
    return pruning_peers


def test_ours_alone(peers: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.main() == 0
    said = capsys.readouterr().out
    assert "torch-pruning: not installed (pip install" in said
    assert "| lenet | dense | 61,706 (100.0%)" in said
    assert "| lenet | secateur | 15,738 (25.5%)" in said


def test_less_left_by_another_is_a_failure(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def everything(name: str, dense: Path, share: float) -> onnx.ModelProto:
        return peers.secateur(name, dense, 0.9)

    def nothing(name: str, dense: Path, share: float) -> onnx.ModelProto:
        raise RuntimeError("no pattern matches")

    monkeypatch.setattr(peers, "version", lambda package: "1")
    monkeypatch.setitem(peers.TOOLS, "torch-pruning", (everything, "90 %"))
    monkeypatch.setitem(peers.TOOLS, "onnxsim", (nothing, "fails"))
    assert peers.main() == 1
    said = capsys.readouterr().out
    assert "LESS LEFT BY ANOTHER: lenet: torch-pruning" in said
    assert "| lenet | onnxsim | RuntimeError: no pattern matches | |" in said
