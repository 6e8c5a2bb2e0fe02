"""`secateur report` through the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from secateur.formats import measure, measurements, verdict
from secateur.formats.measure import ModelRecord
from secateur.formats.verdict import Record
from secateur.pipeline.study import tables
from secateur.pipeline.study.points import points
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


def test_measurements_of_either_form_give_tables_and_figures(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records = [
        {"method": method, "sparsity": sparsity, "seed": 0, "mean_seconds": 2.0 - sparsity}
        for method, sparsity in (("dense", 0.0), ("imp", 0.5))
    ]
    measurements.write(records[:1], "a.parquet")
    measurements.write(records[1:], "b.jsonl")
    out = invoke("report", "a.parquet", "b.jsonl", "--table", "t.csv", "--table", "t.tex", "--figures", "f")
    assert out.exit_code == 0, out.stderr
    assert out.stderr.startswith("2 measurements: ")
    study = points(records)
    assert Path("t.csv").read_text() == tables.csv_table(study)
    assert Path("t.tex").read_text() == tables.latex(study)
    assert {path.name for path in Path("f").iterdir()} == {"seconds.svg", "seconds.pdf", "seconds.png"}
    assert invoke("report", "-", "--table", "-", stdin=Path("b.jsonl").read_bytes()).stdout.startswith(
        "data,"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("missing.jsonl", "-o", "r.html"), "missing.jsonl: no such file"),
        (("bad.jsonl", "-o", "r.html"), "bad.jsonl:1"),
        (("r.jsonl", "-o", "nowhere/r.html"), "its folder does not exist"),
        (("r.jsonl",), "say where to write"),
        (("r.jsonl", "-o", "r.html", "--table", "t.tex"), "no measurements"),
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
