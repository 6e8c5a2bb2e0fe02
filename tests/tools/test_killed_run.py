"""`secateur run` killed with KILL: no finished instance is lost, none is done twice."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

from factories import box_property, mlp

INSTANCES = 40


def test_it_goes_on_from_its_records(tmp_path: Path, secateur: str) -> None:
    lines = []
    for k in range(INSTANCES):  # networks of their own, so that records come one by one
        (tmp_path / f"{k}.onnx").write_bytes(mlp([3, 24, 24, 2], seed=k).SerializeToString())
        (tmp_path / f"{k}.vnnlib").write_text(box_property([0.0] * 3, [1.0] * 3, 2, "(>= Y_0 (+ Y_1 1.25))"))
        lines.append(f"{k}.onnx,{k}.vnnlib,60\n")
    (tmp_path / "instances.csv").write_text("".join(lines))
    results = tmp_path / "results.jsonl"
    command = [secateur, "run", "instances.csv", "--results", "results.jsonl", "--threads", "1"]

    finished: list[str] = []
    for _ in range(2):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        while process.poll() is None and (
            not results.exists() or results.read_text().count("\n") <= len(finished)
        ):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before, finished = finished, results.read_text().split("\n")[:-1]
        assert finished[: len(before)] == before, "what was finished is as it was"
        assert len(finished) > len(before)
    assert process.returncode == -signal.SIGKILL and len(finished) < INSTANCES, "killed in the middle"
    results.write_text(results.read_text() + '{"model": "torn')

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"{len(finished)} of {INSTANCES} instances are done already" in done.stderr
    records = results.read_text().split("\n")[:-1]
    assert records[: len(finished)] == finished
    assert sorted(json.loads(line)["model"] for line in records) == sorted(
        f"{k}.onnx" for k in range(INSTANCES)
    )
    assert all(json.loads(line)["verdict"] in ("sat", "unsat") for line in records)
