"""The comparison with other verifiers: a whole run with ours alone, and what does not count."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from factories import box_property, mlp
from secateur.pipeline.dispatch.process import Finished
from secateur.pipeline.dispatch.protocol import Claim, Home, Task, Tool, silent, word

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "vnncomp_benchmarks"))
    import compare_peers

    return compare_peers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One benchmark: a network, a property that always holds, one that never does."""
    own = tmp_path / "small"
    for place in ("onnx", "vnnlib"):
        (own / place).mkdir(parents=True)
    (own / "onnx" / "net.onnx").write_bytes(mlp([4, 8, 3]).SerializeToString())
    for name, condition in (("holds", "(<= Y_0 1000.0)"), ("never", "(>= Y_0 1000.0)")):
        (own / "vnnlib" / f"{name}.vnnlib").write_text(box_property([-1.0] * 4, [1.0] * 4, 3, condition))
    (own / "instances.csv").write_text(
        "onnx/net.onnx,vnnlib/holds.vnnlib,20\nonnx/net.onnx,vnnlib/never.vnnlib,20\n"
    )
    (own / "known_results.csv").write_text(
        "onnx,vnnlib,expected\nonnx/net.onnx,vnnlib/holds.vnnlib,sat\nonnx/net.onnx,vnnlib/never.vnnlib,unsat\n"
    )
    return tmp_path


def test_ours_alone(
    peers: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(folder), "--timeout", "20", "--instance", "small net holds", "--instance", "small net never"]
    monkeypatch.setattr(sys, "argv", ["compare_peers.py", *words])
    assert peers.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines[3:5]] == ["sat", "unsat"]
    assert lines[5].split() == ["decided", "2", "of", "2"]


SAYS = """
import sys, time
print({said!r})
if {slow}: time.sleep(60)
"""


@pytest.mark.parametrize(
    ("prop", "said", "verdict", "remark"),
    [
        ("holds", "sat 0.5 0.5 0.5 0.5", "sat", ""),
        ("holds", "sat 1.00005 0.5 0.5 0.5", "sat", ""),  # within the slack: moved into the box
        ("holds", "sat 1.5 0.5 0.5 0.5", "sat", "onnxruntime and the property refute the witness"),
        ("holds", "sat 0.5", "sat", "the witness has 1 inputs, the property 4"),
        ("holds", "unsat", "unsat", "known to be sat"),
        ("never", "unsat", "unsat", ""),
        ("never", "sat 0.5 0.5 0.5 0.5", "sat", "onnxruntime and the property refute the witness"),
        ("never", "TIMEOUT", "timeout", ""),
        ("never", "Segmentation fault", "error", "no verdict, exit code 0: Segmentation fault"),
    ],
)
def test_what_counts(
    peers: ModuleType, folder: Path, tmp_path: Path, prop: str, said: str, verdict: str, remark: str
) -> None:
    (instance,) = peers.find(folder, [f"small net {prop}"], tmp_path)
    answer = peers.decide(other(peers, said, slow=False), instance, tmp_path, 20.0, 1)
    assert answer.verdict == verdict
    assert answer.remark.endswith(remark) and bool(answer.remark) == bool(remark)
    counted = verdict in ("sat", "unsat") and not remark
    (_, decided), (_, clock), _ = peers.totals({"other": [answer]}, 20.0)
    assert decided == [f"{int(counted)} of 1"] and (float(clock[0]) < 20) == counted


def test_a_process_that_does_not_stop_is_stopped(
    peers: ModuleType, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "GRACE", 0.5)
    (instance,) = peers.find(folder, ["small net never"], tmp_path)
    answer = peers.decide(other(peers, "working", slow=True), instance, tmp_path, 1.0, 1)
    assert answer.verdict == "error" and answer.wall < 30


def other(peers: ModuleType, said: str, *, slow: bool) -> object:
    """A verifier that prints a word and numbers."""

    def command(task: Task) -> list[str]:
        return [sys.executable, "-u", "-c", SAYS.format(said=said, slow=slow)]

    def read(task: Task, finished: Finished) -> Claim:
        text = finished.output()
        if not word(text):
            return silent(finished)
        return Claim(word(text), np.array([float(number) for number in text.split()[1:]]))

    return peers.Peer("other", Tool("other", "", "", command, read), Home(), "1")
