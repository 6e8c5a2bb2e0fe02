"""Commands in pipes, as real processes: the same bytes and verdicts as through files."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pytest

from factories import box_property, cnn
from secateur.formats import onnx_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `dense.onnx` and two properties: `never.vnnlib` cannot hold, `always.vnnlib` does everywhere."""
    (tmp_path / "dense.onnx").write_bytes(cnn().SerializeToString())
    lower, upper = [0.4] * 64, [0.6] * 64
    (tmp_path / "never.vnnlib").write_text(box_property(lower, upper, 3, "(>= Y_0 1000.0)"))
    (tmp_path / "always.vnnlib").write_text(box_property(lower, upper, 3, "(<= Y_0 1000.0)"))
    return tmp_path


def shell(line: str, folder: Path, secateur: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in `folder`, in which `secateur` is the console script."""
    script = f"set -o pipefail; secateur() {{ '{secateur}' \"$@\"; }}; {line}"
    return subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, check=False)


def test_pipe_and_files_give_the_same_bytes_and_verdicts(folder: Path, secateur: str) -> None:
    piped = shell(
        "secateur prune magnitude -s 0.8 - < dense.onnx | secateur shrink - > piped.onnx"
        " && secateur verify - never.vnnlib < piped.onnx && secateur verify piped.onnx - < always.vnnlib",
        folder,
        secateur,
    )
    assert piped.returncode == 0, piped.stderr
    filed = shell(
        "secateur prune magnitude -s 0.8 dense.onnx -o pruned.onnx && secateur shrink pruned.onnx -o shrunk.onnx"
        " && secateur verify shrunk.onnx never.vnnlib && secateur verify shrunk.onnx always.vnnlib",
        folder,
        secateur,
    )
    assert filed.returncode == 0, filed.stderr
    assert piped.stdout == filed.stdout == b"unsat\nsat\n"
    assert (folder / "piped.onnx").read_bytes() == (folder / "shrunk.onnx").read_bytes()
    steps = onnx_model.provenance(onnx_model.read(str(folder / "shrunk.onnx")).proto)
    assert [step["command"] for step in steps] == ["prune", "shrink"]


def test_three_commands_in_one_pipe(folder: Path, secateur: str) -> None:
    done = shell(
        "secateur prune magnitude -s 0.8 - < dense.onnx | secateur shrink - | secateur verify - never.vnnlib",
        folder,
        secateur,
    )
    assert (done.returncode, done.stdout) == (0, b"unsat\n"), done.stderr


def test_gzip_on_the_way_changes_nothing(folder: Path, secateur: str) -> None:
    (folder / "zipped.onnx.gz").write_bytes(gzip.compress((folder / "dense.onnx").read_bytes()))
    done = shell(
        "secateur prune magnitude -s 0.5 dense.onnx -o a.onnx && secateur prune magnitude -s 0.5 zipped.onnx.gz"
        " -o b.onnx.gz && gzip -d < b.onnx.gz | cmp - a.onnx",
        folder,
        secateur,
    )
    assert done.returncode == 0, done


def test_a_failure_upstream_ends_the_pipe_with_its_reason(folder: Path, secateur: str) -> None:
    done = shell(
        "secateur prune magnitude -s 0.8 nowhere.onnx | secateur shrink - > out.onnx", folder, secateur
    )
    assert done.returncode == 2
    first, second = done.stderr.decode().splitlines()
    assert "nowhere.onnx: no such file" in first + second
    assert "standard input: empty" in first + second
    assert (folder / "out.onnx").read_bytes() == b""


def test_a_reader_that_leaves_early_is_met_with_silence(folder: Path, secateur: str) -> None:
    done = shell("secateur prune magnitude -s 0.8 dense.onnx | true", folder, secateur)
    assert done.stderr == b""


def test_exit_verdict(folder: Path, secateur: str) -> None:
    codes = shell(
        "secateur verify dense.onnx never.vnnlib --exit-verdict; echo $?;"
        " secateur verify dense.onnx always.vnnlib --exit-verdict --witness w.txt; echo $?;"
        " secateur check witness dense.onnx always.vnnlib w.txt",
        folder,
        secateur,
    )
    assert codes.returncode == 0, codes.stderr
    assert codes.stdout.splitlines()[:4] == [b"unsat", b"10", b"sat", b"11"]
