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
from secateur.pipeline.train.checkpoint import Checkpoint, Saved

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


def test_a_ticket_from_early_weights(invoke: Invoke, tmp_path: Path) -> None:
    """Train and keep early weights and records, prune, rewind, retrain from a checkpoint; the checks follow."""
    dense, early, lines = (str(tmp_path / name) for name in ("dense.onnx", "early.onnx", "epochs.jsonl"))
    certified = (
        "--objective",
        "crown-ibp",
        "--epsilon",
        0.02,
        "--nrs",
        0.001,
        "--clip",
        8,
        "--batch-size",
        200,
    )
    result = invoke(
        "train",
        "digits_cnn",
        *certified,
        "--epochs",
        2,
        "--save-early",
        1,
        early,
        "--records",
        lines,
        "-o",
        dense,
    )
    assert result.exit_code == 0, result.stderr
    records = [json.loads(line) for line in Path(lines).read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert records[-1]["epsilon"] == 0.02 and set(records[-1]["terms"]) == {"nrs"}
    mask_path, ticket, run = (str(tmp_path / name) for name in ("m.safetensors", "ticket.onnx", "run"))
    pruned = str(tmp_path / "pruned.onnx")
    result = invoke("prune", "magnitude", dense, "-s", 0.5, "--mask-out", mask_path, "-o", pruned)
    assert result.exit_code == 0, result.stderr
    rewind = ("train", pruned, "--mask", mask_path, "--init", early)
    assert invoke(*rewind, "--epochs", 0, "-o", ticket).exit_code == 0
    proof = invoke("mask", "stats", ticket, "--mask", mask_path, "--init", early, "--json")
    assert proof.exit_code == 0, proof.stderr
    assert "the mask removes are zero" in proof.stderr and "have their initial values" in proof.stderr
    facts = json.loads(proof.stdout)
    assert not any(facts["changed"].values()) and all(facts["others"].values())
    for _ in range(2):
        result = invoke(*rewind, *QUICK, "--checkpoint", run, "-o", ticket)
        assert result.exit_code == 0, result.stderr
    held = invoke("mask", "stats", ticket, "--mask", mask_path)
    assert held.exit_code == 0, held.stderr
    moved = invoke("mask", "stats", ticket, "--mask", mask_path, "--init", early)
    assert moved.exit_code == 1 and "have not their initial values" in moved.stderr
    broken = invoke("mask", "stats", dense, "--mask", mask_path)
    assert broken.exit_code == 1 and "are not zero" in broken.stderr
    other = invoke(*rewind, *QUICK, "--lr", 0.1, "--checkpoint", run, "-o", ticket)
    assert other.exit_code == 2 and "another training: other learning_rate" in other.stderr


def test_an_interrupted_training_says_how_to_go_on(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoint.save

    def interrupted(self: Checkpoint, epoch: int, saved: Saved) -> None:
        save(self, epoch, saved)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", interrupted)
    command = ("train", "digits_mlp", *QUICK, "--checkpoint", tmp_path / "run", "-o", tmp_path / "out.onnx")
    result = invoke(*command)
    assert result.exit_code != 0 and not (tmp_path / "out.onnx").exists()
    assert f"the same command goes on from {tmp_path / 'run'}" in result.stderr
    monkeypatch.undo()
    assert invoke(*command).exit_code == 0


def test_presets_give_way_to_options(invoke: Invoke, tmp_path: Path) -> None:
    listed = invoke("train", "--list-presets")
    assert listed.exit_code == 0 and "paper-certified-cifar10-nrs" in listed.stdout
    out = tmp_path / "out.onnx"
    quick = ("--epochs", 0, "--seed", 3, "--no-flip")
    result = invoke("train", "digits_cnn", "--preset", "paper-adversarial-fashion", *quick, "-o", out)
    assert result.exit_code == 0, result.stderr
    model = onnx_model.read(str(out))
    assert [node.op_type for node in model.graph.node][:2] == ["Sub", "Div"]
    arguments = onnx_model.provenance(model.proto)[-1]["arguments"]
    assert (arguments["objective"], arguments["epsilon"], arguments["gradalign"]) == ("adversarial", 0.1, 0.2)
    assert (arguments["epochs"], arguments["seed"], arguments["flip"]) == (0, 3, False)


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
        (("digits_mlp", "--preset", "papers"), 2, "no preset 'papers'"),
        (("digits_mlp", "--init", "a.onnx"), 2, "--init needs --mask"),
        (("digits_mlp", "--objective", "ibp"), 2, "the objective ibp needs a radius"),
        (("digits_mlp", "--adversarial", "0.1", "--epsilon", "0.1"), 2, "give one or the other"),
        (("digits_mlp", "--milestones", "a,b"), 2, "expected numbers"),
        (("digits_mlp", "--device", "tpu"), 2, "expected cpu, cuda or cuda:N"),
        (("digits_mlp", "--records", "nowhere/x.jsonl"), 2, "its folder does not exist"),
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
