"""`secateur demo` through the command line, on one image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result


def test_the_demo_ends_with_a_table_and_a_page(invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke("demo", "-o", tmp_path / "demo", "--images", 1)
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes == b""
    lines = result.stderr.splitlines()
    assert lines[-1] == f"report: {tmp_path / 'demo' / 'report.html'}"
    names = [line.split()[0] for line in lines[-6:-1]]
    assert names == ["dense", "weights-50", "weights-80", "weights-90", "channels-50"]
    assert max(map(len, lines[-6:-1])) <= 80
    assert (tmp_path / "demo" / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_an_unwritable_folder_is_one_line(invoke: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = invoke("demo", "-o", tmp_path / "file")
    assert result.exit_code == 2
    assert "cannot be made" in result.stderr
