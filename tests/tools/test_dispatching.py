"""Foreign verifiers, several verifiers and several networks from the command line."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from factories import box_property, mlp
from secateur.formats import verdict
from solvers import TWINS

Invoke = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network, a property that some input satisfies, one that none does, and an instance list of both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "net.onnx").write_bytes(mlp([2, 6, 2]).SerializeToString())
    (tmp_path / "always.vnnlib").write_text(box_property([0.0] * 2, [1.0] * 2, 2, "(<= Y_0 1000.0)"))
    (tmp_path / "never.vnnlib").write_text(box_property([0.0] * 2, [1.0] * 2, 2, "(>= Y_0 1000.0)"))
    (tmp_path / "instances.csv").write_text("net.onnx,always.vnnlib,30\nnet.onnx,never.vnnlib,30\n")
    return tmp_path


def tool(folder: Path, name: str, body: str) -> str:
    """A verifier that runs `body` with sys.argv = [_, result]."""
    (folder / f"{name}.py").write_text(f"import sys, time\n{body}\n")
    program = f"{shlex.quote(sys.executable)} {shlex.quote(str(folder / name))}.py {{result}}"
    return f"command:{program} # {{onnx}} {{vnnlib}}"


def answer(text: str) -> str:
    return f"open(sys.argv[1], 'w').write({text!r})"


def test_a_foreign_verifier_gives_a_record_a_witness_and_a_log(folder: Path, invoke: Invoke) -> None:
    good = tool(folder, "good", "print('busy'); " + answer("sat\n((X_0 0.5) (X_1 0.25))"))
    line = ("verify", "net.onnx", "always.vnnlib", "--verifier", good)
    found = invoke(*line, "--json", "--witness", "w.txt", "--log", "log.txt")
    record = verdict.from_json(found.stdout, "stdout")
    assert (record.verdict, record.witness, record.log) == ("sat", "w.txt", "log.txt")
    assert record.labels["replay"] == "strict"
    assert "busy" in Path("log.txt").read_text()
    assert invoke("check", "witness", "net.onnx", "always.vnnlib", "w.txt").exit_code == 0
    assert invoke("verify", "net.onnx", "never.vnnlib", "--verifier", good).stdout == "invalid-witness\n"


def test_verifiers_check_each_other(folder: Path, invoke: Invoke) -> None:
    liar = tool(folder, "liar", answer("unsat"))
    line = ("verify", "net.onnx", "always.vnnlib", "--verifier", "crown", "--verifier", liar)
    found = invoke(*line, "--disagreement", "wrong", "--exit-verdict")
    assert (found.exit_code, found.stdout) == (1, "sat\n")
    assert "said unsat, but the witness of crown holds" in found.stderr
    assert {path.name for path in Path("wrong").iterdir()} == {
        "model.onnx",
        "property.vnnlib",
        "records.jsonl",
        "reproduce.sh",
    }
    assert [record.verdict for record in verdict.read(["wrong/records.jsonl"])] == ["sat", "unsat"]
    assert "--verifier crown" in Path("wrong/reproduce.sh").read_text()
    agreed = invoke(
        "verify", "net.onnx", "never.vnnlib", "--verifier", "crown,milp", "--json", "--exit-verdict"
    )
    assert agreed.exit_code == 10
    said = json.loads(agreed.stdout)
    assert (said["verdict"], [r["verdict"] for r in said["records"]]) == ("unsat", ["unsat", "unsat"])


def test_a_portfolio_ends_with_the_first_trusted_answer(folder: Path, invoke: Invoke) -> None:
    slow = tool(folder, "slow", "time.sleep(60)")
    line = ("verify", "net.onnx", "never.vnnlib", "--verifier", slow, "--verifier", "crown", "--portfolio")
    found = invoke(*line, "--timeout", 40)
    assert found.stdout == "unsat\n"
    assert "slow" in found.stderr and "timeout" in found.stderr


def test_an_instance_list_by_two_verifiers(folder: Path, invoke: Invoke) -> None:
    liar = tool(folder, "liar", answer("unsat"))
    line = ("run", "instances.csv", "--results", "r.jsonl", "--verifier", "crown", "--verifier", liar)
    found = invoke(*line, "--log-dir", "logs", "--disagreements", "wrong")
    assert found.exit_code == 1
    assert "net.onnx always.vnnlib" in found.stderr and "but the witness of crown holds" in found.stderr
    records = verdict.read(["r.jsonl"])
    assert sorted((r.verifier == "crown", r.property, r.verdict) for r in records) == [
        (False, "always.vnnlib", "unsat"),
        (False, "never.vnnlib", "unsat"),
        (True, "always.vnnlib", "sat"),
        (True, "never.vnnlib", "unsat"),
    ]
    assert sum(r.log is not None for r in records) == 2 == len(list(Path("logs").iterdir()))
    before = Path("r.jsonl").read_bytes()
    assert invoke(*line).exit_code == 1  # nothing is done again, and the disagreement is still there
    assert Path("r.jsonl").read_bytes() == before


@pytest.mark.parametrize("verifier", ["crown", "milp", "process:crown"])
def test_several_networks(folder: Path, invoke: Invoke, verifier: str) -> None:
    Path("other.onnx").write_bytes(mlp([2, 6, 2], seed=3).SerializeToString())
    Path("far.vnnlib").write_text(TWINS.format("100.0"))
    Path("near.vnnlib").write_text(TWINS.format("-100.0"))
    line = ("verify", "f=net.onnx,g=other.onnx")
    assert invoke(*line, "far.vnnlib", "--verifier", verifier).stdout == "unsat\n"
    assert invoke(*line, "near.vnnlib", "--verifier", verifier).stdout == "sat\n"
    missing = invoke("verify", "net.onnx", "far.vnnlib", "--verifier", verifier)
    assert missing.exit_code == 2
    assert "no model for the network 'g'" in missing.stderr
    Path("twins.csv").write_text("\"[('f','net.onnx'),('g','other.onnx')]\",far.vnnlib,30\n")
    for _ in range(2):
        done = invoke("run", "twins.csv", "--results", "t.jsonl", "--verifier", verifier)
        assert "1 instances: unsat 1" in done.stderr
    assert len(verdict.read(["t.jsonl"])) == 1  # known again by the hashes of both networks


def test_who_there_is(folder: Path, invoke: Invoke) -> None:
    listed = {row["name"]: row for row in json.loads(invoke("verifiers", "list", "--json").stdout)}
    assert {"crown", "milp", "auto_lirpa", "marabou", "neuralsat", "vibecheck", "pynever", "nnenum"} <= set(
        listed
    )
    assert listed["marabou"]["remark"] and not listed["marabou"]["installed"]
    missing = invoke("verify", "net.onnx", "never.vnnlib", "--verifier", "marabou")
    assert missing.exit_code == 2
    assert "secateur verifiers install marabou" in missing.stderr
    assert (
        "unknown verifier 'nobody'"
        in invoke("verify", "net.onnx", "never.vnnlib", "--verifier", "nobody").stderr
    )
    assert invoke("verifiers", "install", "nnenum").exit_code == 2
    healthy = invoke("verifiers", "doctor", "crown", "milp", "process:crown")
    assert (healthy.exit_code, healthy.stderr.count("said unsat and sat")) == (0, 3)
    liar = tool(folder, "liar", answer("unsat"))
    ill = invoke("verifiers", "doctor", liar)
    assert ill.exit_code == 1
    assert "ill" in ill.stderr and "said unsat, not sat" in ill.stderr
