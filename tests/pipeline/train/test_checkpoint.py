"""Training that stops anywhere and goes on comes to the same bytes and records."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.formats import dataset, onnx_model, streams
from secateur.formats.dataset import Dataset
from secateur.formats.errors import InputError
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model
from secateur.pipeline.train.checkpoint import Checkpoint, Saved
from secateur.pipeline.train.loop import Epoch, Training, _Run, train
from secateur.pipeline.train.settings import Settings
from secateur.pipeline.train.start import starting_model


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return dataset.load("digits", "train", 200)


@pytest.fixture(scope="module")
def start(digits: Dataset) -> Model:
    return starting_model("digits_cnn", digits)


class Stopped(Exception):
    pass


def stop_after(epoch: int, seen: list[Epoch]) -> object:
    def progress(found: Epoch) -> None:
        seen.append(found)
        if len(seen) == epoch:
            raise Stopped

    return progress


def records(result: Training) -> list[dict[str, object]]:
    return records_of(result.history)


def records_of(history: Sequence[Epoch]) -> list[dict[str, object]]:
    return [{key: value for key, value in epoch.to_dict().items() if key != "seconds"} for epoch in history]


SETTINGS = {
    "adversarial sgd": Settings(
        epochs=4, objective="adversarial", epsilon=0.05, gradalign=0.2, optimizer="sgd", flip=True, crop=1
    ),
    "certified adam": Settings(epochs=4, objective="crown-ibp", epsilon=0.02, nrs=0.001, clip=8.0),
    "standard adamw, nothing held out": Settings(epochs=4, optimizer="adamw", weight_decay=0.1, validation=0),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_stopped_after_every_epoch(name: str, start: Model, digits: Dataset, tmp_path: Path) -> None:
    settings, folder = SETTINGS[name], str(tmp_path / "run")
    keep = {"conv1.weight": np.random.default_rng(0).random((16, 1, 3, 3)) < 0.5}
    mask = Mask(keep, start.sha256, "random", "weight")
    whole = train(start, digits, settings, mask=mask, early=2)
    for epoch in range(1, 4):
        seen: list[Epoch] = []
        with pytest.raises(Stopped):
            train(
                start,
                digits,
                settings,
                mask=mask,
                early=2,
                checkpoint=folder,
                progress=stop_after(epoch, seen),
            )  # type: ignore[arg-type]
        torch.rand(3)  # chance elsewhere does not matter
    for _ in range(2):  # the second time there is nothing left to do
        result = train(start, digits, settings, mask=mask, early=2, checkpoint=folder)
        assert onnx_model.to_bytes(result.model.proto) == onnx_model.to_bytes(whole.model.proto)
        assert result.early is not None and whole.early is not None
        assert onnx_model.to_bytes(result.early.proto) == onnx_model.to_bytes(whole.early.proto)
        assert json.dumps(records(result)) == json.dumps(records(whole))
        assert result.best_epoch == whole.best_epoch
    assert sorted(path.name for path in Path(folder).iterdir()) == ["epoch-00004.safetensors", "state.json"]


@pytest.mark.parametrize("best", [0.75, float("nan")])
def test_what_was_best_is_remembered(best: float, start: Model, digits: Dataset, tmp_path: Path) -> None:
    """Later epochs have to beat it."""
    runs = [_Run(start, digits, Settings(epochs=3), None, None) for _ in range(2)]
    runs[0].epoch()
    runs[0].best_accuracy = best
    checkpoint = Checkpoint(str(tmp_path), {})
    checkpoint.save(1, runs[0].saved())
    saved = checkpoint.load()
    assert saved is not None
    runs[1].restore(saved)
    assert runs[1].best_accuracy == pytest.approx(best, nan_ok=True)
    assert runs[1].best_epoch == 1 and records_of(runs[1].history) == records_of(runs[0].history)


def test_the_folder_of_another_training_is_refused(start: Model, digits: Dataset, tmp_path: Path) -> None:
    folder, settings = str(tmp_path / "run"), Settings(epochs=1)
    train(start, digits, settings, checkpoint=folder)
    other = dataclasses.replace(settings, learning_rate=1.0, schedule="constant")
    with pytest.raises(InputError, match="another training: other learning_rate, schedule"):
        train(start, digits, other, checkpoint=folder)
    with pytest.raises(InputError, match="other model"):
        train(starting_model("digits_cnn", digits, 5), digits, settings, checkpoint=folder)
    mask = Mask({"conv1.weight": np.ones((16, 1, 3, 3), bool)}, "", "random", "weight")
    with pytest.raises(InputError, match="other mask_sha256"):
        train(start, digits, settings, mask=mask, checkpoint=folder)


def test_what_is_damaged_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(str(tmp_path / "run"), {"model": "a"})
    assert checkpoint.load() is None
    saved = Saved({"now": {"w": torch.arange(3.0)}}, {"history": []})
    checkpoint.save(1, saved)
    found = checkpoint.load()
    assert found is not None and torch.equal(found.tensors["now"]["w"], torch.arange(3.0))
    tensors = tmp_path / "run" / "epoch-00001.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load()
    tensors.unlink()
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load()
    (tmp_path / "run" / "state.json").write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        Checkpoint(str(tmp_path / "file"), {})


def test_a_crash_between_the_two_files_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(str(tmp_path), {})
    checkpoint.save(1, Saved({"now": {"w": torch.zeros(1)}}, {"epoch": 1}))
    write = streams.write_bytes

    def crash(destination: str, data: bytes) -> None:
        if destination.endswith(".json"):
            raise Stopped
        write(destination, data)

    monkeypatch.setattr(streams, "write_bytes", crash)
    with pytest.raises(Stopped):
        checkpoint.save(2, Saved({"now": {"w": torch.ones(1)}}, {"epoch": 2}))
    monkeypatch.undo()
    found = checkpoint.load()
    assert found is not None and found.values == {"epoch": 1} and float(found.tensors["now"]["w"]) == 0
    checkpoint.save(2, Saved({"now": {"w": torch.ones(1)}}, {"epoch": 2}))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_killed_ten_times_at_any_moment(tmp_path: Path) -> None:
    """SIGKILL, on the command line."""
    command = [sys.executable, "-m", "secateur.tools", "train", "digits_cnn", "--objective", "crown-ibp"]
    command += ["--epsilon", "0.03", "--nrs", "0.001", "--epochs", "30", "--batch-size", "256"]
    command += ["--save-early", "2"]

    def outputs(name: str) -> list[str]:
        paths = [tmp_path / f"{name}{suffix}" for suffix in ("-early.onnx", ".jsonl", ".onnx")]
        return [str(paths[0]), "--records", str(paths[1]), "-o", str(paths[2])]

    subprocess.run([*command, *outputs("whole")], check=True)
    random, killed, epochs = np.random.default_rng(0), 0, set()
    resumed = [*command, *outputs("resumed"), "--checkpoint", str(tmp_path / "run")]
    while killed < 10:
        process = subprocess.Popen(resumed)
        state = tmp_path / "run" / "state.json"
        before = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1.0))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        epochs.add(len(json.loads(state.read_text())["values"]["history"]))
    assert killed >= 5 and len(epochs) >= 5
    subprocess.run(resumed, check=True)
    for suffix in (".onnx", "-early.onnx"):
        assert (tmp_path / f"whole{suffix}").read_bytes() == (tmp_path / f"resumed{suffix}").read_bytes()
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in path.read_text().splitlines()
        ]
        for path in (tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl")
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 30
