"""The zoo's builders, exports and table; and our count of multiply-adds beside torch's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from secateur.formats import onnx_model
from secateur.pipeline import flops

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "vnncomp_benchmarks"))


@pytest.fixture
def script() -> ModuleType:
    import prune_zoo

    return prune_zoo


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["prune_zoo.py", *words])
    return int(script.main())


def test_table(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pruning_zoo.measure.SECONDS", 0.0)
    results = tmp_path / "r.jsonl"
    words = ("--models", "lenet", "resnet", "--exporters", "torchscript", "--results", str(results))
    assert run(script, monkeypatch, *words) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| lenet")]
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert len(rows) == 3
    assert [record["model"] for record in records] == ["lenet"] * 3 + ["resnet"] * 3
    for record in records:
        assert record["opset"] == 17
        assert record["difference"] <= 1e-4
        before, after = record["parameters"]
        assert after < 0.6 * before
        assert not record["refused"] and not record["broken"]


@pytest.mark.parametrize("name", ["resnext", "mobilenet", "unet", "stylised", "vit"])
def test_cost_is_what_torch_counts(name: str, tmp_path: Path) -> None:
    from pruning_zoo.export import Variant, export
    from pruning_zoo.models import build

    exported = export(Variant(name, "torchscript", 17), tmp_path)
    assert exported.path is not None
    module, shape = build(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, *shape))
    assert flops.count(onnx_model.read(str(exported.path))).flops == counter.get_total_flops()


def test_every_builder_exports_the_same_twice(tmp_path: Path) -> None:
    """Seeds: two exports have the same bytes."""
    from pruning_zoo.export import Variant, export
    from pruning_zoo.models import ZOO

    for name in ZOO:
        first, second = (export(Variant(name, "torchscript", 13), tmp_path / folder) for folder in "ab")
        assert first.path is not None, first.reason
        assert second.path is not None
        assert first.opset == 13
        assert first.path.read_bytes() == second.path.read_bytes()


def test_an_export_that_fails_is_broken(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "TORCHSCRIPT", (99,))
    words = ("--models", "mlp", "--exporters", "torchscript", "--all", "--keep", str(tmp_path))
    assert run(script, monkeypatch, *words) == 1
    assert "BROKEN mlp-torchscript-99: not exported" in capsys.readouterr().out
