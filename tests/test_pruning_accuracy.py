"""The script that compares criteria: every criterion has its rows, and the same seed gives the same files."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from secateur.pipeline.prune.criteria import CRITERIA

ROOT = Path(__file__).resolve().parent.parent
FEW = ("random", "magnitude", "bn-scale", "nrs")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "vnncomp_benchmarks"))
    import pruning_accuracy

    return pruning_accuracy


def test_table_lines_and_plot(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "DIGITS", replace(script.DIGITS, images=300, epochs=2))
    monkeypatch.setattr(script, "CRITERIA", {name: CRITERIA[name] for name in FEW})
    monkeypatch.setattr(script, "SYNFLOW_STEPS", 1)
    words = [
        "pruning_accuracy.py",
        "--digits",
        "--sparsities",
        "0.2",
        "0.9",
        "--samples",
        "64",
        "--test",
        "100",
    ]
    found = []
    for folder in (tmp_path / "first", tmp_path / "again"):
        monkeypatch.setattr(sys, "argv", [*words, "--out", str(folder)])
        assert script.main() == 0
        found.append([json.loads(line) for line in (folder / "accuracy.jsonl").read_text().splitlines()])
        assert (folder / "accuracy.png").stat().st_size > 10_000
        assert (folder / "accuracy.md").read_text() in capsys.readouterr().out
    first, again = found
    assert [record["sha256"] for record in first] == [record["sha256"] for record in again]
    assert {(r["criterion"], r["granularity"]) for r in first if r["criterion"] in FEW} == {
        *((name, "weight") for name in ("random", "magnitude")),
        *((name, "channel") for name in FEW),
    }
    for record in first:
        assert 0 <= record["accuracy"] <= 1
        if record["granularity"] == "weight":
            assert record["zeros"] == pytest.approx(record["sparsity"], abs=1e-3)
    lines = (tmp_path / "first" / "accuracy.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| magnitude")]
    assert [row.count("%") for row in rows] == [2, 2]


def test_every_criterion_has_a_place_in_the_plot(script: ModuleType) -> None:
    drawn = {name for _, names in script.FAMILIES.values() for name in names} | {"random", "magnitude"}
    assert drawn >= {name for name, row in CRITERIA.items() if row.unit != "block"}
    assert all(len(names) <= len(script.COLOURS) for _, names in script.FAMILIES.values())
