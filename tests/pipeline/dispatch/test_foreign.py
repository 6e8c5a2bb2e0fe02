"""The dispatcher against programs that behave well, badly and worse."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from factories import box_property
from secateur.formats import vnnlib
from secateur.formats.errors import CheckFailed, InputError, UnsupportedError
from secateur.pipeline.dispatch import FOREIGN, generic, homes, pynever
from secateur.pipeline.dispatch.foreign import Limits, Runner
from secateur.pipeline.dispatch.protocol import Tool
from secateur.pipeline.verify.replay import Replay
from secateur.pipeline.verify.results import Result
from solvers import instance, program, says


def decide(
    folder: Path, tool: Tool, *, timeout: float = 20, limits: Limits | None = None, log: Path | None = None
) -> Result:
    onnx, prop, model, query = instance(folder)
    runner = Runner(tool, Replay(model), limits or Limits())
    return runner.decide(onnx, prop, query, timeout=timeout, log=log)


@pytest.mark.parametrize("verdict", ["unsat", "unknown", "timeout", "error"])
def test_verdicts_are_passed_on(tmp_path: Path, verdict: str) -> None:
    result = decide(tmp_path, says(tmp_path, f"{verdict}\n"))
    assert result.verdict == verdict
    assert set(result.phases) == {"prepare", "solve", "replay"}


def test_a_sat_is_replayed(tmp_path: Path) -> None:
    result = decide(tmp_path, says(tmp_path, "sat\n((X_0 0.5)\n(X_1 0.25)\n(Y_0 99.0))\n"))
    assert result.verdict == "sat" and result.witness is not None
    assert result.witness.y[0] != 99.0  # recomputed
    result = decide(tmp_path, says(tmp_path, "sat\n((X_0 0.5)\n(X_1 7.0))\n"))
    assert result.verdict == "invalid-witness"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print('hello')", "no verdict, exit code 0: hello"),
        ("import sys; sys.exit('segmentation fault, nearly')", "exit code 1: segmentation fault, nearly"),
        ("import os; os.kill(os.getpid(), 11)", "no verdict, exit code -11"),
        ("print('unsat'); raise SystemExit(3)", "said unsat, but ended with exit code 3"),
        ("import sys; sys.stdout.buffer.write(bytes(range(256)) * 100)", "no verdict"),
    ],
)
def test_garbage_crashes_and_exit_codes(tmp_path: Path, body: str, reason: str) -> None:
    result = decide(tmp_path, program(tmp_path, body))
    assert result.verdict == "error"
    assert reason in result.message


def test_past_its_time_only_a_witness_counts(tmp_path: Path) -> None:
    late = "import sys, time; open(sys.argv[4], 'w').write({!r}); time.sleep(60)"
    started = time.perf_counter()
    result = decide(tmp_path, program(tmp_path, late.format("unsat")), timeout=1)
    assert time.perf_counter() - started < 1 + 2
    assert result.verdict == "timeout"
    result = decide(tmp_path, program(tmp_path, late.format("sat\n((X_0 0.5) (X_1 0.5))")), timeout=1)
    assert result.verdict == "sat"


def test_memory_is_limited(tmp_path: Path) -> None:
    tool = program(tmp_path, "import time; held = bytearray(200_000_000); time.sleep(60)")
    result = decide(tmp_path, tool, limits=Limits(memory=100_000_000))
    assert (result.verdict, result.message) == ("error", "ended: it held more than 100000000 bytes")


def test_arguments_threads_and_log(tmp_path: Path) -> None:
    body = "import os, sys; print(sys.argv[5:], os.environ['OMP_NUM_THREADS']); open(sys.argv[4], 'w').write('unknown')"
    log = tmp_path / "log.txt"
    limits = Limits(threads=3, arguments=("--fast", "a b"))
    assert decide(tmp_path, program(tmp_path, body), limits=limits, log=log).verdict == "unknown"
    text = log.read_text()
    assert text.startswith("$ ") and "'a b'" in text.split("\n")[0]
    assert "['--fast', 'a b'] 3" in text


def test_vnncomp_scripts(tmp_path: Path) -> None:
    folder = tmp_path / "entry" / "vnncomp_scripts"
    folder.mkdir(parents=True)
    (folder / "prepare_instance.sh").write_text(
        'test "$1 $2" = "v1 benchmark" && test -f "$3" && test -f "$4"\n'
    )
    (folder / "run_instance.sh").write_text(
        'echo unsat > "$5"; echo "$6" > seconds; cp seconds "$5.seconds"\n'
    )
    tool = generic.vnncomp(str(tmp_path / "entry"))
    assert decide(tmp_path, tool).verdict == "unsat"
    (folder / "prepare_instance.sh").write_text("exit 1\n")
    result = decide(tmp_path, tool)
    assert (result.verdict, "skips the instance" in result.message) == ("unknown", True)
    with pytest.raises(InputError, match="no VNN-COMP tool"):
        generic.vnncomp(str(tmp_path))


@pytest.mark.parametrize(
    "text", ["", "tool {onnx}", "tool {onnx} {vnnlib} {speed}", "tool {onnx} {vnnlib} 'x"]
)
def test_templates_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="command:"):
        generic.template(text)


def test_a_solver_of_the_standard(tmp_path: Path) -> None:
    """vnnlib-test-solver answers as its configuration says; the dispatcher reads it as the standard has it."""
    onnx, prop, model, _ = instance(tmp_path)
    prop.write_text(
        "(vnnlib-version <2.0>)\n(declare-network N (declare-input X float32 [1,2]) (declare-output Y float32 [1,1]))\n"
        + "".join(f"(assert (and (>= X[0,{i}] 0.0) (<= X[0,{i}] 1.0)))\n" for i in range(2))
        + "(assert (>= Y[0,0] -1000.0))\n"
    )
    query = vnnlib.read(str(prop))
    solver = Path(sys.executable).with_name("vnnlibTestSolver")
    config = tmp_path / "solver.toml"
    head = '[solver]\nname = "t"\nversion = "1"\n'
    tool = generic.template(
        f"{solver} --config {config} verify {{vnnlib}} --network N={{onnx}} --timeout {{timeout}}"
    )
    runner = Runner(tool, Replay(model))
    for answer, verdict in (("unsat", "unsat"), ("unknown", "unknown"), ("timed-out", "timeout")):
        config.write_text(f'{head}[[rules]]\nmatch = "*"\nresult = "{answer}"\n')
        result = runner.decide(onnx, prop, query, timeout=20)
        assert result.verdict == verdict, result.message
    config.write_text(f'{head}[[rules]]\nmatch = "*"\nresult = "unsat"\ndelay_seconds = 30\n')
    assert runner.decide(onnx, prop, query, timeout=1).verdict == "timeout"


def test_a_narrow_reader_gets_the_property_restated() -> None:
    text = box_property(
        [0.0, -0.5], [1.0, 0.1], 2, "(or (<= Y_0 Y_1) (and (>= Y_0 2.5) (<= (+ Y_0 Y_1) 1.0)))"
    )
    query = vnnlib.parse(text, "p")
    assert pynever.TOOL.restate is not None
    restated = vnnlib.parse(pynever.TOOL.restate(query), "restated")
    for x in ([0.5, 0.05], [0.5, 0.2], [1.0, -0.5]):
        for y in ([0.0, 0.0], [3.0, 1.0], [3.0, -2.5], [2.0, 1.0]):
            assert restated.holds(x, y) == query.holds(x, y)
    with pytest.raises(UnsupportedError, match="conditions on outputs alone"):
        pynever.TOOL.restate(vnnlib.parse(box_property([0.0], [1.0], 1, "(<= Y_0 X_0)"), "p"))


def test_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    marabou, nnenum = FOREIGN["marabou"], FOREIGN["nnenum"]
    with pytest.raises(InputError, match="verifiers install marabou"):
        homes.find(marabou)
    with pytest.raises(InputError, match="comes as source only"):
        homes.install(nnenum)
    with pytest.raises(InputError, match=r"not the source of nnenum: expected src/nnenum/nnenum.py"):
        homes.install(nnenum, path=str(tmp_path))
    with pytest.raises(InputError, match="no such interpreter"):
        homes.install(marabou, python=str(tmp_path / "python"))
    home = homes.install(marabou, python=sys.executable)
    assert homes.find(marabou) == home
    with pytest.raises(CheckFailed, match="has no maraboupy"):
        homes.version(marabou, home)
    source = tmp_path / "source"
    (source / "src" / "nnenum").mkdir(parents=True)
    (source / nnenum.source_file).write_text("")
    assert homes.install(nnenum, path=str(source)).path == source.resolve()
    (tmp_path / "verifiers" / "marabou" / "home.json").write_text("{")
    with pytest.raises(InputError, match=r"home.json: damaged"):
        homes.find(marabou)
