"""verify, attack, bounds and run through their command lines."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from factories import box_property, mlp
from nets import Net
from secateur.formats import onnx_model, verdict, witness


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`net.onnx`, a property that never holds, one that always holds, and their `instances.csv`."""
    (tmp_path / "net.onnx").write_bytes(mlp([4, 8, 3]).SerializeToString())
    box = ([-1.0] * 4, [1.0] * 4)
    (tmp_path / "never.vnnlib").write_text(box_property(*box, 3, "(>= Y_0 1000.0)"))
    (tmp_path / "always.vnnlib").write_text(box_property(*box, 3, "(<= Y_0 1000.0)"))
    (tmp_path / "instances.csv").write_text("net.onnx,never.vnnlib,30\nnet.onnx,always.vnnlib,30\n")
    return tmp_path


@pytest.mark.parametrize("verifier", ["crown", "milp"])
def test_verify_prints_the_verdict_alone(folder: Path, invoke: Callable[..., Result], verifier: str) -> None:
    for name, answer, code in (("never", "unsat", 10), ("always", "sat", 11)):
        line = ("verify", folder / "net.onnx", folder / f"{name}.vnnlib", "--verifier", verifier)
        plain, scripted = invoke(*line), invoke(*line, "--exit-verdict")
        assert (plain.exit_code, plain.stdout) == (0, f"{answer}\n"), plain.output
        assert (scripted.exit_code, scripted.stdout) == (code, f"{answer}\n")


def test_the_reference_for_relus_refuses_other_functions(folder: Path, invoke: Callable[..., Result]) -> None:
    net = Net(0, 4)
    model = net.finish(net.dense(net("Tanh", net.dense("x", 4, 5)), 5, 3))
    (folder / "smooth.onnx").write_bytes(model.proto.SerializeToString())
    line = ("verify", folder / "smooth.onnx", folder / "never.vnnlib")
    assert invoke(*line).stdout == "unsat\n"
    refused = invoke(*line, "--verifier", "milp")
    assert (refused.exit_code, refused.stdout) == (3, "")
    assert "knows ReLUs and affine operations only" in refused.stderr


def test_verify_json_is_a_record(folder: Path, invoke: Callable[..., Result]) -> None:
    result = invoke("verify", folder / "net.onnx", folder / "never.vnnlib", "--json", "--seed", 5)
    record = verdict.from_json(result.stdout, "stdout")
    assert (record.verdict, record.seed, record.verifier) == ("unsat", 5, "crown")
    assert record.seconds >= sum(record.phases.values()) * 0.99


@pytest.mark.parametrize("command", ["verify", "attack"])
def test_witness_holds(folder: Path, invoke: Callable[..., Result], command: str) -> None:
    question = (folder / "net.onnx", folder / "always.vnnlib")
    found = invoke(command, *question, "--witness", folder / "w.txt")
    assert (found.exit_code, found.stdout) == (0, "sat\n"), found.output
    x, y = witness.read(str(folder / "w.txt"))
    assert (len(x), len(y)) == (4, 3)
    assert invoke("check", "witness", *question, folder / "w.txt").exit_code == 0


def test_a_failed_attack_knows_nothing_and_leaves_nothing(
    folder: Path, invoke: Callable[..., Result]
) -> None:
    found = invoke(
        "attack", folder / "net.onnx", folder / "never.vnnlib", "--witness", folder / "w.txt",
        "--restarts", 2, "--steps", 3,
    )  # fmt: skip
    assert (found.exit_code, found.stdout) == (0, "unknown\n"), found.output
    assert not (folder / "w.txt").exists()


def test_run_resumes(folder: Path, invoke: Callable[..., Result]) -> None:
    line = ("run", folder / "instances.csv", "--results", folder / "r.jsonl")
    first = invoke(*line, "--limit", 1)
    assert (first.exit_code, first.stdout) == (0, "")
    before = (folder / "r.jsonl").read_bytes()
    second = invoke(*line)
    assert "1 of 2 instances are done already" in second.stderr
    assert "2 instances: sat 1, unsat 1" in second.stderr
    assert (folder / "r.jsonl").read_bytes().startswith(before)
    third = invoke(*line)
    assert "2 of 2 instances are done already" in third.stderr
    assert len(verdict.read([str(folder / "r.jsonl")])) == 2


def test_ctrl_c_keeps_what_is_done(folder: Path, secateur: str) -> None:
    hard = mlp([40, 200, 200, 200, 200, 200, 1], seed=1, scale=1.5)
    (folder / "hard.onnx").write_bytes(hard.SerializeToString())
    (folder / "hard.vnnlib").write_text(box_property([-1.0] * 40, [1.0] * 40, 1, "(>= Y_0 20.0)"))
    (folder / "two.csv").write_text("net.onnx,never.vnnlib,30\nhard.onnx,hard.vnnlib,60\n")
    results = folder / "r.jsonl"
    running = subprocess.Popen(
        [secateur, "run", "two.csv", "--results", "r.jsonl"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores the signal, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while not (results.exists() and results.read_bytes().endswith(b"\n")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, says = running.communicate(timeout=30)
    assert running.returncode == 130, says
    assert "1 of 2 instances are in r.jsonl" in says
    assert "Traceback" not in says
    assert [record.verdict for record in verdict.read([str(results)])] == ["unsat"]


@pytest.mark.parametrize("method", ["ibp", "crown", "alpha-crown"])
def test_bounds_enclose_the_outputs(folder: Path, invoke: Callable[..., Result], method: str) -> None:
    from secateur.formats import onnx_model
    from secateur.pipeline import onnxrt

    question = ("bounds", folder / "net.onnx", folder / "never.vnnlib", "--method", method)
    found = json.loads(invoke(*question, "--json").stdout)
    model = onnx_model.read(str(folder / "net.onnx"))
    outputs = onnxrt.run(model.proto, onnxrt.sample_inputs(4, seed=0, samples=200).clip(-1, 1))
    (region,) = found["regions"]
    assert (outputs >= region["lower"]).all()
    assert (outputs <= region["upper"]).all()
    table = invoke(*question)
    assert (table.exit_code, table.stdout) == (0, "unsat\n")
    assert "Y_2" in table.stderr


def test_bounds_that_are_infinite_are_null_in_json(tmp_path: Path, invoke: Callable[..., Result]) -> None:
    """1/x on both sides of 0, multiplied: intervals overflow, and JSON has neither infinities nor NaN."""
    net = Net(0, 2)
    inverse = net("Reciprocal", "x")
    product = net("Mul", net("Mul", inverse, inverse), inverse)
    onnx_model.write(net.finish(net("Sub", product, product)), str(tmp_path / "m.onnx"))
    (tmp_path / "p.vnnlib").write_text(box_property([-1.0] * 2, [1.0] * 2, 2, "(>= (- Y_0 Y_1) 1.0)"))
    for method in ("ibp", "crown", "alpha-crown"):
        result = invoke("bounds", tmp_path / "m.onnx", tmp_path / "p.vnnlib", "--method", method, "--json")
        assert result.exit_code == 0, result.stderr
        (region,) = json.loads(result.stdout)["regions"]
        assert region == {"lower": [None, None], "upper": [None, None], "clauses": [None]}


@pytest.fixture
def hard(folder: Path) -> Path:
    """`hard.onnx` and `hard.vnnlib`, which nobody decides in seconds, in the folder of the easy ones."""
    model = mlp([40, 200, 200, 200, 200, 200, 1], seed=1, scale=1.5)
    (folder / "hard.onnx").write_bytes(model.SerializeToString())
    (folder / "hard.vnnlib").write_text(box_property([-1.0] * 40, [1.0] * 40, 1, "(>= Y_0 20.0)"))
    return folder


def test_verify_goes_on_from_its_state(hard: Path, invoke: Callable[..., Result]) -> None:
    line = ("verify", hard / "hard.onnx", hard / "hard.vnnlib", "--state", hard / "s.npz", "--timeout", 3)
    first = invoke(*line)
    assert (first.exit_code, first.stdout) == (0, "timeout\n"), first.output
    assert "goes on from" in first.stderr
    assert (hard / "s.npz").exists()
    again = invoke(*line)
    assert (again.exit_code, again.stdout) == (0, "timeout\n"), again.output
    other = invoke(*line, "--seed", 1)
    assert other.exit_code == 2
    assert "another seed" in other.stderr and len(other.stderr.splitlines()) == 1
    easy = ("verify", hard / "net.onnx", hard / "never.vnnlib", "--state", hard / "easy.npz")
    assert invoke(*easy).stdout == "unsat\n"
    assert not (hard / "easy.npz").exists()
    assert invoke(*easy, "--verifier", "milp").exit_code == 2


def test_ctrl_c_ends_a_search_in_order(hard: Path, secateur: str) -> None:
    running = subprocess.Popen(
        [secateur, "verify", "hard.onnx", "-", "--state", "s.npz", "--json"],
        cwd=hard,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # More than a pipe holds: once it is written, the command has come so far as to read it.
    assert running.stdin is not None
    running.stdin.write((hard / "hard.vnnlib").read_text() + "; a comment\n" * 20_000)
    running.stdin.close()
    running.stdin = None
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    out, says = running.communicate(timeout=60)
    assert running.returncode == 130, says
    assert (hard / "s.npz").exists(), says
    record = verdict.from_json(out, "stdout")
    assert record.verdict == "timeout" and record.timeout == 60 and record.seconds < 50


def test_run_leaves_states_for_a_longer_run(hard: Path, invoke: Callable[..., Result]) -> None:
    (hard / "two.csv").write_text("net.onnx,never.vnnlib,30\nhard.onnx,hard.vnnlib,60\n")
    line = ("run", hard / "two.csv", "--results", hard / "r.jsonl", "--state", hard / "states")
    assert "unsat 1, timeout 1" in invoke(*line, "--timeout", 2).stderr
    assert len(list((hard / "states").iterdir())) == 1
    assert "unsat 1, timeout 1" in invoke(*line, "--timeout", 4).stderr
    records = verdict.read([str(hard / "r.jsonl")])
    assert [record.timeout for record in records if record.verdict == "timeout"] == [2, 4]


def test_profile_says_where_the_time_went(folder: Path, secateur: str) -> None:
    # A process of its own, so that the peak is this command's.
    line = [secateur, "verify", folder / "net.onnx", folder / "never.vnnlib", "--profile", "--json"]
    result = subprocess.run(line, capture_output=True, text=True, check=True)
    for word in (
        "phase",
        "read",
        "build",
        "attack",
        "domains a second",
        "peak memory, MB",
        "kinds of operations",
    ):
        assert word in result.stderr
    labels = verdict.from_json(result.stdout, "stdout").labels
    assert float(labels["peak_bytes"]) > 1e7


@pytest.mark.parametrize(("size", "code"), [("500M", 0), ("2g", 0), ("1.5GiB", 0), ("many", 2), ("0", 2)])
def test_memory_takes_sizes(folder: Path, invoke: Callable[..., Result], size: str, code: int) -> None:
    result = invoke("verify", folder / "net.onnx", folder / "never.vnnlib", "--memory", size)
    assert result.exit_code == code, result.output
