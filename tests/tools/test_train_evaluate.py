"""`secateur train` and `secateur evaluate` through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from secateur.formats import dataset, mask, onnx_model
from secateur.formats.mask import Mask
from secateur.pipeline import onnxrt

Invoke = Callable[..., Result]
QUICK = ("--epochs", 1, "--batch-size", 200)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory, invoke: Invoke) -> Path:
    path = tmp_path_factory.mktemp("train") / "dense.onnx"
    result = invoke("train", "digits_mlp", "--epochs", 4, "-o", path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes == b""
    assert "held out" in result.stderr
    return path


def test_architectures_are_listed(invoke: Invoke) -> None:
    result = invoke("train", "--list")
    assert result.exit_code == 0
    assert "cifar_model_deep" in result.stdout


def test_pipes_and_files_give_the_same_bytes(invoke: Invoke, dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.onnx"
    assert invoke("train", dense, *QUICK, "-o", out).exit_code == 0
    piped = invoke("train", "-", *QUICK, stdin=dense.read_bytes())
    assert piped.exit_code == 0
    assert piped.stdout_bytes == out.read_bytes()
    assert (
        invoke("train", "digits_mlp", *QUICK).stdout_bytes
        == invoke("train", "digits_mlp", *QUICK).stdout_bytes
    )


def test_a_mask_is_held(invoke: Invoke, dense: Path, tmp_path: Path) -> None:
    weights = onnx_model.initializers(onnx_model.read(str(dense)).proto)
    keep = {"fc1.weight": np.random.default_rng(0).random(weights["fc1.weight"].shape) < 0.2}
    mask.write(Mask(keep, "", "random", "weight"), str(tmp_path / "m.safetensors"))
    out = tmp_path / "out.onnx"
    result = invoke(
        "train", dense, *QUICK, "--mask", tmp_path / "m.safetensors", "--adversarial", 0.05, "-o", out
    )
    assert result.exit_code == 0, result.stderr
    after = onnx_model.initializers(onnx_model.read(str(out)).proto)
    assert np.array_equal(after["fc1.weight"] != 0, keep["fc1.weight"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("resnet",), 2, "no architecture 'resnet'"),
        (("missing.onnx",), 2, "missing.onnx: no such file"),
        (("digits_mlp", "--data", "cifar10"), 2, "https://"),
        (("digits_mlp", "--mask", "missing.safetensors"), 2, "missing.safetensors"),
        (("digits_mlp", "-o", "nowhere/model.onnx"), 2, "its folder does not exist"),
        (("digits_mlp", "--lr", "0"), 2, "--lr"),
        (("digits_mlp", "--optimizer", "lion"), 2, "lion"),
        ((), 2, "Missing argument"),
    ],
)
def test_bad_input_is_one_line(
    invoke: Invoke,
    arguments: tuple[str, ...],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("train", *arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stdout_bytes == b""
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_evaluate_says_what_onnxruntime_says(invoke: Invoke, dense: Path) -> None:
    data = dataset.load("digits", "test", 100)
    given = onnxrt.run(onnx_model.read(str(dense)), data.images).argmax(1)
    result = invoke("evaluate", dense, "--limit", 100, "--json")
    values = json.loads(result.stdout)
    assert values["images"] == 100
    assert values["correct"] == int((given == data.labels).sum())
    assert values["accuracy"] == values["correct"] / 100
    assert np.trace(values["confusion"]) == values["correct"]
    for_people = invoke("evaluate", "-", "--limit", 100, stdin=dense.read_bytes())
    assert for_people.stdout_bytes == b""
    assert f"{values['correct']} of 100" in for_people.stderr


def test_evaluate_refuses_what_does_not_fit(invoke: Invoke, dense: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "small.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.zeros(2, np.uint8))
    result = invoke("evaluate", dense, "--data", tmp_path / "small.npz")
    assert result.exit_code == 2
    assert "64 inputs, the images of small.npz have 16" in result.stderr
