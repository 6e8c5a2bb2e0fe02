"""`secateur report` through the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from secateur.formats import measure, verdict
from secateur.formats.measure import ModelRecord
from secateur.formats.verdict import Record
from secateur.pipeline.study.report import csv, report

Invoke = Callable[..., Result]
RECORD = Record("m.onnx", "aa", "p.vnnlib", "bb", "crown", "unsat", 0.5)
MODEL = ModelRecord("m", "aa", 10, 5, {"accuracy": 0.5})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    verdict.append(str(tmp_path / "r.jsonl"), RECORD)
    measure.write([MODEL], str(tmp_path / "m.jsonl"))
    return tmp_path


def test_page_and_table_are_written(invoke: Invoke, results: Path) -> None:
    out = invoke(
        *("report", results / "r.jsonl", results / "m.jsonl", "-o", results / "r.html"),
        *("--csv", results / "r.csv", "--title", "Mine"),
    )
    assert out.exit_code == 0, out.stderr
    assert out.stdout_bytes == b""
    assert (results / "r.html").read_text() == report([RECORD], [MODEL], "Mine")
    assert (results / "r.csv").read_text() == csv([RECORD])


def test_streams_in_and_out(invoke: Invoke, results: Path) -> None:
    out = invoke("report", "-", "--csv", "-", stdin=(results / "r.jsonl").read_bytes())
    assert out.stdout == csv([RECORD])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("missing.jsonl", "-o", "r.html"), "missing.jsonl: no such file"),
        (("bad.jsonl", "-o", "r.html"), "bad.jsonl:1"),
        (("r.jsonl", "-o", "nowhere/r.html"), "its folder does not exist"),
        (("r.jsonl",), "say where to write"),
        ((), "Missing argument"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(
    invoke: Invoke, results: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(results)
    (results / "bad.jsonl").write_text("not json\nat all\n")
    out = invoke("report", *arguments)
    assert out.exit_code == 2
    assert says in out.stderr and len(out.stderr.strip().splitlines()) == 1
    assert not (results / "r.html").exists()
