"""What the README shows runs as shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from secateur.tools.cli import COMMANDS

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def test_every_command_is_described() -> None:
    table = re.findall(r"^\| `([\w-]+).*$", README, flags=re.MULTILINE)
    assert set(table) | {"mask"} == set(COMMANDS)


def test_python_example(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    finished = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    accuracy, *verdicts = finished.stdout.splitlines()
    assert float(accuracy) > 0.8
    assert verdicts
    assert (tmp_path / "small.onnx").exists()


@pytest.mark.slow
def test_shell_example(tmp_path: Path, secateur: str) -> None:
    (example,) = re.findall(r"```\n(secateur train .*?)```", README, flags=re.DOTALL)
    script = f"set -e; secateur() {{ '{secateur}' \"$@\"; }}\n{example}"
    finished = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
