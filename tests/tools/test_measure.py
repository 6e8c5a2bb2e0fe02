"""`secateur measure` through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from factories import mlp
from secateur.formats import measurements, onnx_model

Invoke = Callable[..., Result]
QUICK = ("--epsilon", "1/20", "--images", "4", "--limit", "30", "--attacked", "10", "--threads", "1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two networks and data on which the first is right; the second lacks a quarter of its weights."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    dense = onnx_model.from_proto(mlp([4, 8, 3], seed=1))
    onnx_model.write(dense, "dense.onnx")
    weight = np.array(onnx_model.initializers(dense.proto)["fc0.weight"])
    weight[:, 1] = 0
    weight[:3, 2] = 0
    onnx_model.set_initializer(dense.proto, "fc0.weight", weight)
    onnx_model.write(dense, "pruned.onnx")
    images = random.random((40, 4), np.float32)
    np.savez("data.npz", x=images, y=random.integers(0, 3, 40))
    return tmp_path


@pytest.mark.parametrize("name", ["r.jsonl", "r.parquet"])
def test_records_are_written_and_what_is_there_is_not_measured_again(
    invoke: Invoke, folder: Path, name: str
) -> None:
    arguments = ("--data", "data.npz", *QUICK, "--dense", "dense.onnx", "-o", name)
    first = invoke("measure", "dense.onnx", *arguments)
    assert first.exit_code == 0, first.stderr
    assert first.stdout_bytes == b"" and "dense.onnx: accuracy" in first.stderr
    (before,) = measurements.read(name)
    second = invoke(
        "measure", "dense.onnx", "pruned.onnx", *arguments, "--label", "method=imp", "--label", "seed=3"
    )
    assert second.exit_code == 0, second.stderr
    assert "1 of 2 models are measured already in r." in second.stderr
    dense, pruned = measurements.read(name)
    assert dense == before, "kept as it was, times included"
    assert (dense["method"], dense["sparsity"], dense["model"]) == ("dense", 0.0, "dense.onnx")
    assert (pruned["method"], pruned["seed"], pruned["model"]) == ("imp", 3, "pruned.onnx")
    assert pruned["sparsity"] == 11 / 56 == (56 - pruned["nonzero_weights"]) / dense["weights"]
    assert pruned["accuracy_images"] == 30 and pruned["attacked_images"] == 10 and pruned["images"] == 4
    assert dense["transfer_accuracy"] == dense["pgd_accuracy"]


def test_the_columns_are_listed(invoke: Invoke) -> None:
    out = invoke("measure", "--list")
    assert out.exit_code == 0
    lines = out.stdout.splitlines()
    assert any(line.startswith("--only alpha-crown ") for line in lines)
    assert {line.split()[0] for line in lines if not line.startswith("--")} == set(measurements.COLUMNS)


def test_only_some_measures_as_json(invoke: Invoke, folder: Path) -> None:
    out = invoke("measure", "dense.onnx", "--data", "data.npz", *QUICK, "--only", "accuracy,size", "--json")
    assert out.exit_code == 0, out.stderr
    record = json.loads(out.stdout)
    assert record["weights"] == 56 and 0 <= record["accuracy"] <= 1
    assert not {"certified", "pgd_accuracy", "milliseconds"} & set(record)
    assert not (folder / "r.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("dense.onnx", "--epsilon", "0.1"), "say where to write"),
        (("dense.onnx", "--epsilon", "wide", "--json"), "'wide' is not a number"),
        (("dense.onnx", "--epsilon", "0.1", "--json", "--only", "speedy"), "unknown measure 'speedy'"),
        (("dense.onnx", "--epsilon", "0.1", "--json", "--label", "imp"), "expected NAME=VALUE"),
        (("dense.onnx", "--epsilon", "0.1", "--json", "--start", "40"), "no image 40"),
        (("dense.onnx", "--epsilon", "0.1", "-o", "none/r.jsonl"), "folder does not exist"),
        (("dense.onnx", "--epsilon", "0.1", "-o", "dense.onnx"), "dense.onnx:1: not JSON"),
        (("none.onnx", "--epsilon", "0.1", "--json"), "none.onnx: no such file"),
        (("--epsilon", "0.1", "--json"), "Missing argument"),
    ],
)
def test_bad_input_is_one_line(invoke: Invoke, folder: Path, arguments: tuple[str, ...], says: str) -> None:
    out = invoke("measure", *arguments, "--data", "data.npz")
    assert out.exit_code == 2
    assert says in out.stderr and len(out.stderr.strip().splitlines()) == 1
