"""`secateur-solver`: the VNN-LIB standard's command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from factories import mlp
from secateur.formats import onnx_model, vnnlib
from secateur.pipeline import onnxrt, product
from secateur.pipeline.dispatch import generic
from secateur.pipeline.dispatch.foreign import Runner
from secateur.pipeline.verify.replay import Replay
from secateur.tools.solver import command
from solvers import TWINS

ONE = """(vnnlib-version <2.0>)
(declare-network N (declare-input X float32 [1,2]) (declare-output Y float32 [2]))
(assert (and (>= X[0,0] 0.0) (<= X[0,0] 1.0) (>= X[0,1] 0.0) (<= X[0,1] 1.0)))
(assert (>= Y[0] {}))
"""


def solver(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("net", 0), ("other", 3)):
        (tmp_path / f"{name}.onnx").write_bytes(mlp([2, 6, 2], seed=seed).SerializeToString())
    (tmp_path / "always.vnnlib").write_text(ONE.format("-100.0"))
    (tmp_path / "never.vnnlib").write_text(ONE.format("100.0"))
    return tmp_path


def test_verdict_and_assignment(folder: Path) -> None:
    assert solver("verify", "never.vnnlib", "--network", "N=net.onnx", "--timeout", "5.0").stdout == "unsat\n"
    lines = solver("verify", "always.vnnlib", "--network", "N=net.onnx", "--timeout", "5").stdout.split("\n")
    assert (lines[0], lines[1], lines[4], lines[-1]) == ("sat", "X float32 [1,2]", "Y float32 [2]", "")
    x, y = [float(line) for line in lines[2:4]], [float(line) for line in lines[5:7]]
    model = onnx_model.read("net.onnx")
    np.testing.assert_array_equal(onnxrt.run(model, np.array([x]))[0], y)
    assert vnnlib.read("always.vnnlib").holds(x, y)


def test_several_networks_and_tensors(folder: Path) -> None:
    Path("twins.vnnlib").write_text(TWINS.format("-100.0"))
    networks = ("--network", "f=net.onnx", "--network", "g=other.onnx")
    found = solver("verify", "twins.vnnlib", *networks, "--serialise-assignments", "out")
    assert found.stdout == "sat\n"
    values = {}
    for name in "XYUV":
        tensor = onnx.TensorProto.FromString(Path("out", f"{name}.pb").read_bytes())
        assert (tensor.name, tuple(tensor.dims)) == (name, (1, 2))
        values[name] = numpy_helper.to_array(tensor)
    np.testing.assert_array_equal(values["X"], values["U"])
    query = vnnlib.read("twins.vnnlib")
    models = [onnx_model.read("net.onnx"), onnx_model.read("other.onnx")]
    x = np.concatenate([values["X"], values["U"]], axis=None)
    holds, y = product.check(query, models, x)
    assert holds
    np.testing.assert_array_equal(y, np.concatenate([values["Y"], values["V"]], axis=None))


def test_capabilities_and_names() -> None:
    assert solver("--name").stdout == "secateur\n"
    assert solver("--version").stdout.strip()
    assert solver("supports", "--vnnlib-versions").stdout == "1.0\n2.0\n"
    operators = solver("supports", "--onnx-operators").stdout.split()
    assert {"Conv", "Gemm", "Relu", "Softmax"} <= set(operators)
    assert solver("supports", "--flight").exit_code == 2


def test_what_cannot_be_answered_says_so(folder: Path) -> None:
    assert (
        "no model for the network 'N': given M"
        in solver("verify", "never.vnnlib", "--network", "M=net.onnx").stderr
    )
    wrong = solver("verify", "never.vnnlib", "--network", "net.onnx")
    assert (wrong.exit_code, "expected NAME=FILE" in wrong.stderr) == (2, True)
    Path("poly.vnnlib").write_text(ONE.format("(* X[0,0] X[0,1])"))
    beyond = solver("verify", "poly.vnnlib", "--network", "N=net.onnx")
    assert (beyond.exit_code, beyond.stdout) == (3, "")
    assert "poly.vnnlib:4: a product of variables" in beyond.stderr


def test_a_competition_s_instance(folder: Path) -> None:
    for name, verdict in (("never", "unsat"), ("always", "sat")):
        assert solver("instance", "net.onnx", f"{name}.vnnlib", "out.txt", 20).exit_code == 0
        assert Path("out.txt").read_text().split("\n")[0] == verdict
    assert Path("out.txt").read_text().split("\n")[1] == "X float32 [1,2]"
    old = vnnlib.to_text(vnnlib.read("always.vnnlib"))
    Path("old.vnnlib").write_text(old)
    solver("instance", "net.onnx", "old.vnnlib", "out.txt", 20)
    assert Path("out.txt").read_text().startswith("sat\n((X_0 ")
    Path("twins.vnnlib").write_text(TWINS.format("100.0"))
    solver("instance", "[('f','net.onnx'),('g','other.onnx')]", "twins.vnnlib", "out.txt", 20)
    assert Path("out.txt").read_text() == "unsat\n"
    assert solver("instance", "missing.onnx", "twins.vnnlib", "out.txt", 20).exit_code == 2
    assert Path("out.txt").read_text() == "error\n"


def test_the_competition_s_scripts(folder: Path, request: pytest.FixtureRequest) -> None:
    """Our own scripts, called as those of any tool: by `vnncomp:DIR`."""
    query, model = vnnlib.read("always.vnnlib"), onnx_model.read("net.onnx")
    tool = generic.vnncomp(str(request.config.rootpath / "vnncomp_benchmarks"))
    runner = Runner(tool, Replay(model))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        found = runner.decide(Path("net.onnx"), Path("always.vnnlib"), query, timeout=60)
        assert found.verdict == "sat", found.message
        found = runner.decide(Path("net.onnx"), Path("gone.vnnlib"), query, timeout=60)
        assert found.verdict == "unknown" and "skips" in found.message
