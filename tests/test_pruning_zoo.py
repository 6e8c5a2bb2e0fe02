"""The zoo's builders, exports and table; and our count of multiply-adds beside torch's."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from secateur.formats import onnx_model
from secateur.formats.errors import UnsupportedError
from secateur.pipeline import flops
from secateur.pipeline.prune import Pruned, Shrunk, shrink

if TYPE_CHECKING:
    from pruning_zoo.measure import Record

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


def test_heads(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pruning_zoo.measure.SECONDS", 0.0)
    words = ("--models", "vit", "--exporters", "torchscript", "--granularity", "head")
    assert run(script, monkeypatch, *words) == 0
    assert "| vit | torchscript | 17 | 114,258 → 97,682 (85%) |" in capsys.readouterr().out


@pytest.fixture
def lenet(tmp_path: Path) -> Path:
    from pruning_zoo.export import Variant, export

    path = export(Variant("lenet", "torchscript", 13), tmp_path).path
    assert path is not None
    return path


def measured(path: Path) -> Record:
    from pruning_zoo.measure import Record, measure

    record = Record("lenet.onnx", "lenet", "torchscript", 13)
    measure(record, path, 0.5)
    return record


def test_a_wrong_rewrite_is_broken(lenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(model: onnx_model.Model) -> Shrunk:
        small = shrink(model)
        bias = small.proto.graph.initializer[1]
        onnx_model.set_initializer(small.proto, bias.name, numpy_helper.to_array(bias) + np.float32(0.1))
        return small

    monkeypatch.setattr("pruning_zoo.measure.shrink", off)
    assert "shrunk and masked differ by" in measured(lenet).broken


def test_a_rewrite_that_removes_nothing_is_broken(lenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def idle(model: onnx_model.Model) -> Shrunk:
        return replace(shrink(onnx_model.read(str(lenet))), proto=model.proto)

    monkeypatch.setattr("pruning_zoo.measure.shrink", idle)
    assert "channels are masked, nothing became smaller" in measured(lenet).broken


def test_what_is_refused_says_why(lenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Pruned:
        raise UnsupportedError("no such operator")

    monkeypatch.setattr("pruning_zoo.measure.prune", refuse)
    record = measured(lenet)
    assert (record.refused, record.broken) == ("no such operator", "")
