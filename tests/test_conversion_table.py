"""The table of conversions: its cases, measurements and rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:You are using the legacy")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "vnncomp_benchmarks"))
    import conversion_table

    return conversion_table


def test_table(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = script.torch_cases.cases

    def some(name: str, opsets: object) -> Iterator[Any]:
        """Those that do without torch's slow exporter."""
        for case in everything(name, (7, 9, 17)):
            if case.source.startswith(("ONNX", "TorchScript")):
                yield case

    monkeypatch.setattr(script.torch_cases, "cases", some)
    results = tmp_path / "r.jsonl"
    words = ["--networks", "digits_cnn", "--targets", "0", "13", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", ["conversion_table.py", *words])
    assert script.main() == 0
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert all(record["converts"] for record in records)
    worst = {True: 0.0, False: 0.0}
    for record in records:
        half = "float16" in record["source"]
        worst[half] = max(worst[half], record["difference"])
    assert worst[False] < 1e-5
    assert 1e-6 < worst[True] < 1e-2
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert "| ONNX | torch.onnx torchscript | 7–17 | 3 of 3 |" in " ".join(rows).replace("1 of 1", "3 of 3")
    assert len({(r["source"], r["exporter"]) for r in records}) == len(rows) - 1


def test_what_does_not_convert_fails(script: ModuleType, tmp_path: Path) -> None:
    case = script.Case(
        "text",
        "ONNX",
        "nobody",
        17,
        ".onnx",
        lambda path: path.write_text("no model"),
        lambda rows: np.zeros((len(rows), 1)),
    )
    (record,) = script.measure(case, [0], tmp_path)
    assert record.exported
    assert not script._fine(record, 1.0)
    assert "not an ONNX model" in record.reason
    (record,) = script.measure(replace(case, write=lambda path: 1 / 0), [0], tmp_path)
    assert not record.exported
