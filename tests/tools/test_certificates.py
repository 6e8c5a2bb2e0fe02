"""`secateur verify --certificate` and `secateur check certificate` on the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from certificates import threshold
from factories import box_property, mlp
from nets import Net
from secateur.formats import onnx_model, vnnlib
from secateur.formats.errors import CheckFailed
from secateur.pipeline import certifying

Invoke = Callable[..., Result]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """A network, a property that never holds there, and where the certificate goes."""
    model = onnx_model.from_proto(mlp([4, 8, 3]))
    onnx_model.write(model, str(tmp_path / "net.onnx"))
    (tmp_path / "p.vnnlib").write_text(vnnlib.to_text(threshold(model, 0.5)))
    return str(tmp_path / "net.onnx"), str(tmp_path / "p.vnnlib"), str(tmp_path / "proof.npz")


def test_written_and_checked(invoke: Invoke, files: tuple[str, str, str]) -> None:
    verified = invoke("verify", *files[:2], "--certificate", files[2])
    assert (verified.exit_code, verified.stdout) == (0, "unsat\n"), verified.output
    assert f"written to {files[2]}" in verified.stderr
    checked = invoke("check", "certificate", *files)
    assert (checked.exit_code, checked.stdout) == (0, "")
    assert checked.stderr.startswith("the certificate holds: 1 regions, 1 clauses, ")
    piped = invoke("check", "certificate", "-", *files[1:], stdin=Path(files[0]).read_bytes())
    assert piped.exit_code == 0
    again = Path(files[2]).read_bytes()
    assert invoke("verify", *files[:2], "--certificate", files[2]).exit_code == 0
    assert Path(files[2]).read_bytes() == again


def test_a_long_check_shows_how_far_it_is(
    invoke: Invoke, files: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("verify", *files[:2], "--certificate", files[2]).exit_code == 0
    monkeypatch.setattr("secateur.tools.check.MANY", 0)
    checked = invoke("check", "certificate", *files)
    assert checked.exit_code == 0 and "check: 100/100" in checked.stderr


def test_of_another_network(invoke: Invoke, files: tuple[str, str, str], tmp_path: Path) -> None:
    assert invoke("verify", *files[:2], "--certificate", files[2]).exit_code == 0
    other = str(tmp_path / "other.onnx")
    onnx_model.write(mlp([4, 8, 3], seed=1), other)
    result = invoke("check", "certificate", other, *files[1:])
    assert result.exit_code == 1 and "proof.npz: the certificate is of another model" in result.stderr


def test_damaged(invoke: Invoke, files: tuple[str, str, str]) -> None:
    Path(files[2]).write_bytes(b"PK nothing")
    result = invoke("check", "certificate", *files)
    assert result.exit_code == 2 and "proof.npz: is no certificate" in result.stderr
    assert result.stderr.count("\n") == 1


def test_nothing_is_written_with_another_verdict(invoke: Invoke, files: tuple[str, str, str]) -> None:
    Path(files[1]).write_text(box_property([-1.0] * 4, [1.0] * 4, 3, "(<= Y_0 1000.0)"))
    result = invoke("verify", *files[:2], "--certificate", files[2])
    assert (result.exit_code, result.stdout) == (0, "sat\n")
    assert not Path(files[2]).exists()


def test_nothing_is_written_when_time_is_over(invoke: Invoke, files: tuple[str, str, str]) -> None:
    result = invoke("verify", *files[:2], "--certificate", files[2], "--timeout", 0.001)
    assert (result.exit_code, result.stdout) == (0, "timeout\n")
    assert not Path(files[2]).exists()


def test_refused_before_the_work(invoke: Invoke, files: tuple[str, str, str], tmp_path: Path) -> None:
    net = Net(0, 4)
    smooth = str(tmp_path / "smooth.onnx")
    onnx_model.write(net.finish(net.dense(net("Tanh", net.dense("x", 4, 5)), 5, 3)), smooth)
    refused = invoke("verify", smooth, files[1], "--certificate", files[2])
    assert refused.exit_code == 3 and "(Tanh)" in refused.stderr and refused.stdout == ""
    several = invoke("verify", f"f={files[0]},g={files[0]}", files[1], "--certificate", files[2])
    assert several.exit_code == 3 and "one network" in several.stderr
    for words in (("--verifier", "milp"), ("--verifier", "crown,milp"), ("--state", "s")):
        result = invoke("verify", *files[:2], "--certificate", files[2], *words)
        assert result.exit_code == 2 and "--certificate" in result.stderr
    streamed = invoke("verify", *files[:2], "--certificate", "-")
    assert streamed.exit_code == 2 and "goes to a file" in streamed.stderr
    missing = invoke("verify", *files[:2], "--certificate", str(tmp_path / "nowhere" / "c.npz"))
    assert missing.exit_code == 2 and "folder does not exist" in missing.stderr
    assert not Path(files[2]).exists()


def test_a_proof_that_fails_its_check_is_not_written(
    invoke: Invoke, files: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise CheckFailed("region 0: clause 0: leaf 0: expected a positive bound, found -1")

    monkeypatch.setattr(certifying.certificate, "check", fails)
    result = invoke("verify", *files[:2], "--certificate", files[2])
    assert result.exit_code == 1 and result.stdout == ""
    assert "does not pass its check: region 0" in result.stderr and "nothing is written" in result.stderr
    assert not Path(files[2]).exists()


def test_the_checker_needs_no_torch(files: tuple[str, str, str]) -> None:
    code = (
        "import sys\nimport secateur.formats.certificate, secateur.pipeline.certificate\n"
        "assert not {'torch', 'onnxruntime', 'scipy'} & set(sys.modules)\n"
        "assert not [name for name in sys.modules if name.startswith('secateur.pipeline.verify')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
