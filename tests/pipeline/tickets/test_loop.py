"""The loop on a few digits: what each round is made of, and that it ends the same however often it is killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secateur.formats import mask, measurements, onnx_model
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model, initializers
from secateur.pipeline.prune import masks
from secateur.pipeline.tickets import loop
from secateur.pipeline.tickets.evaluation import Evaluation
from secateur.pipeline.tickets.methods import METHODS
from secateur.pipeline.tickets.recipe import Recipe

SMALL = Recipe(
    methods=("imp+nrs", "slimming", "random", "refill"),
    network="digits_cnn",
    train_images=130,
    epsilon=0.03,
    training={"objective": "adversarial", "epochs": 2, "batch_size": 32},
    retraining={"epochs": 1},
    pruning={"rounds": 2, "share": 0.5, "samples": 32},
    evaluation=Evaluation(1, 20.0, attacked=8, pgd_steps=2, measures=("accuracy", "transfer", "bounds")),
    method={"slimming": {"then": "fine-tune"}, "random": {"one_shot": True}},
)
KILLED = replace(
    SMALL,
    methods=("imp+nrs", "refill"),
    method={},
    evaluation=Evaluation(images=1, timeout=20.0, measures=("accuracy", "complete")),
)
Finished = tuple[Path, list[dict[str, Any]], list[str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder, said = tmp_path_factory.mktemp("tickets") / "a", []
    expected = loop.steps(str(folder), SMALL)
    records = loop.run(str(folder), SMALL, progress=said.append)
    assert len(said) == expected
    return folder, records, said


def model(folder: Path, place: str, name: str = "model") -> Model:
    return onnx_model.read(str(folder / "seed-0" / place / f"{name}.onnx"))


def held(folder: Path, place: str) -> mask.Mask:
    return mask.read(str(folder / "seed-0" / place / "mask.safetensors"))


def test_every_network_has_a_record(finished: Finished) -> None:
    folder, records, _ = finished
    assert [(one["method"], one["round"]) for one in records] == [
        ("dense", 0),
        *(("imp+nrs", number) for number in (0, 1, 2)),  # round 0: dense, but trained as its rounds are
        *(("slimming", number) for number in (0, 1, 2)),
        *((name, number) for name in ("random", "refill") for number in (1, 2)),
    ]  # imp, which refill looks at, was not asked for
    for one in records:
        found = onnx_model.read(str(folder / one["model"]))
        assert found.sha256 == one["model_sha256"]
        assert 0 <= one["accuracy"] <= 1 and one["epsilon"] == 0.03
        if one["round"]:
            assert found.sha256 != one["ticket_sha256"] != one["scored_sha256"]
            assert mask.read(str(folder / one["mask"])).sparsity > 0
    assert measurements.read(str(folder / "records.jsonl")) == records


@pytest.mark.parametrize(
    "place", ["imp+nrs/round-01", "imp+nrs/round-02", "random/round-02", "refill/round-02"]
)
def test_survivors_are_rewound_and_the_mask_is_held(finished: Finished, place: str) -> None:
    folder, kept = finished[0], held(finished[0], place)
    start = onnx_model.read(str(folder / "seed-0" / "initial.onnx"))
    ticket = model(folder, place, "ticket")
    assert kept.model_sha256 == start.sha256
    found = masks.extract(start, ticket)
    masks.rewound(found.changed, place)
    for name, array in initializers(start.proto).items():
        keep = kept.tensors.get(name, np.True_)
        assert np.array_equal(initializers(ticket.proto)[name], np.where(keep, array, 0)), name
        trained = initializers(model(folder, place).proto)[name]
        assert not trained[np.broadcast_to(~np.asarray(keep), trained.shape)].any(), name
    step = onnx_model.provenance(model(folder, place).proto)[-1]
    assert step["source_sha256"] == ticket.sha256  # training began with the ticket


def test_fine_tuning_goes_on_with_the_trained_weights(finished: Finished) -> None:
    folder = finished[0]
    for place, before in (("slimming/round-01", "dense+bn_l1"), ("slimming/round-02", "slimming/round-01")):
        scored = model(folder, before)
        assert held(folder, place).model_sha256 == scored.sha256
        for name, array in initializers(model(folder, place, "ticket").proto).items():
            keep = held(folder, place).tensors.get(name, np.True_)
            assert np.array_equal(array, np.where(keep, initializers(scored.proto)[name], 0)), name


def test_rounds_go_on_from_each_other(finished: Finished) -> None:
    folder, records, _ = finished
    for name in ("imp+nrs", "slimming"):
        first, second = (held(folder, f"{name}/round-0{k}").tensors for k in (1, 2))
        assert all(not (second[tensor] & ~first[tensor]).any() for tensor in second)
    by_place = {(one["method"], one["round"]): one for one in records}
    assert by_place["imp+nrs", 1]["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert by_place["imp+nrs", 2]["sparsity"] == pytest.approx(0.75, abs=1e-3)
    assert by_place["imp+nrs", 2]["scored_sha256"] == by_place["imp+nrs", 1]["model_sha256"]
    assert by_place["random", 2]["scored_sha256"] == by_place["dense", 0]["model_sha256"]
    imp = model(folder, "imp/round-02")
    assert by_place["refill", 2]["scored_sha256"] == imp.sha256
    rows = held(folder, "refill/round-02").tensors["conv1.weight"].reshape(16, -1)
    assert ((rows.all(axis=1)) | (~rows).all(axis=1)).all() and 0 < rows.all(axis=1).sum() < 16


def test_what_is_done_is_not_done_again(finished: Finished) -> None:
    folder, records, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "seed-0").rglob("*.*")}
    said: list[str] = []
    assert loop.steps(str(folder), SMALL) == 0
    assert loop.run(str(folder), SMALL, progress=said.append) == records
    assert said == []
    assert {path: path.stat().st_mtime_ns for path in (folder / "seed-0").rglob("*.*")} == before


def test_networks_can_be_measured_otherwise(tmp_path: Path) -> None:
    recipe = replace(KILLED, methods=("imp",), pruning={"rounds": 1})
    before = loop.run(str(tmp_path), recipe)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.onnx")}
    other = replace(recipe, evaluation=Evaluation(images=2, measures=("accuracy", "bounds")))
    said: list[str] = []
    expected = loop.steps(str(tmp_path), other)
    after = loop.run(str(tmp_path), other, progress=said.append)
    assert len(said) == expected == 2 * (1 + 2)  # no training
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.onnx")} == files
    assert [one["images"] for one in before + after] == [1, 1, 2, 2]


def test_another_recipe_is_refused_by_name(finished: Finished) -> None:
    folder = finished[0]
    for other, name in (
        (replace(SMALL, epsilon=0.04), "epsilon"),
        (replace(SMALL, retraining={"epochs": 2}), "retraining.epochs"),
        (replace(SMALL, train_images=131), "train_images"),
    ):
        with pytest.raises(InputError, match=rf"another recipe: {name} changed"):
            loop.run(str(folder), other)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    from secateur.pipeline.tickets import folder

    with folder.opened(str(tmp_path), SMALL), pytest.raises(InputError, match="another run"):
        loop.run(str(tmp_path), SMALL)


def test_early_weights_to_rewind_to(tmp_path: Path) -> None:
    recipe = replace(SMALL, methods=("imp",), rewind_to=1, pruning={"rounds": 1}, method={})
    loop.run(str(tmp_path), recipe)
    early = onnx_model.read(str(tmp_path / "seed-0" / "dense" / "early.onnx"))
    kept = held(tmp_path, "imp/round-01")
    assert kept.model_sha256 == early.sha256
    ticket = model(tmp_path, "imp/round-01", "ticket")
    for name, array in initializers(early.proto).items():
        assert np.array_equal(
            initializers(ticket.proto)[name], np.where(kept.tensors.get(name, True), array, 0)
        )
    start = onnx_model.read(str(tmp_path / "seed-0" / "initial.onnx"))
    assert any(masks.extract(start, ticket).changed.values())


# --- killed ----------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes | list[dict[str, Any]]]:
    """Every file of a run, records without what depends on the machine's speed."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name == ".lock":
            continue
        if path.suffix in (".json", ".jsonl"):
            if path.name != "stages.json":  # holds hashes of files with seconds in them
                lines = [json.loads(line) for line in path.read_text().splitlines()]
                found[name] = [
                    {key: line[key] for key in line if not measurements.is_timed(key)} for line in lines
                ]
        else:
            found[name] = path.read_bytes()
    return found


def killed(folder: Path, files: int, after: float) -> bool:
    """Run in a process that is killed (SIGKILL) `after` seconds from when the folder has so many files, and more than
    it had; whether it was before its end."""
    here = Path(__file__).parent
    code = f"import sys; sys.path[:0] = {[str(here), str(here.parents[1])]}; import test_loop as test; "
    process = subprocess.Popen([sys.executable, "-c", f"{code}test.loop.run({str(folder)!r}, test.KILLED)"])
    files = max(files, len(list(folder.rglob("*"))) + 1)
    while process.poll() is None and len(list(folder.rglob("*"))) < files:
        time.sleep(0.002)
    time.sleep(after)
    process.kill()
    return process.wait() == -signal.SIGKILL


def kill_and_resume(folder: Path, times: int, seed: int) -> None:
    loop.run(str(folder / "whole"), KILLED)
    moments = random.Random(seed)
    files = sorted(moments.sample(range(1, len(list((folder / "whole").rglob("*"))) - 4), times))
    stopped = sum(killed(folder / "killed", count, moments.uniform(0, 0.05)) for count in files)
    assert stopped >= times / 2
    loop.run(str(folder / "killed"), KILLED)
    assert contents(folder / "killed") == contents(folder / "whole")


def test_killed_and_resumed_it_ends_the_same(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, 3, seed=0)


@pytest.mark.slow
def test_killed_ten_times_it_ends_the_same(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, 10, seed=1)


# --- methods ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["standard", "adversarial", "crown-ibp"])
def test_every_method_runs(objective: str, tmp_path: Path) -> None:
    recipe = Recipe(
        methods=tuple(METHODS),
        network="conv_small",
        train_images=64,
        training={"objective": objective, "epochs": 1},
        pruning={"rounds": 2, "samples": 32},
        evaluation=Evaluation(images=1, measures=("accuracy",)),
    )
    records = loop.run(str(tmp_path), recipe)
    for name in METHODS:
        own = [one for one in records if one["method"] == name and one["round"]]
        assert [one["target"] for one in own] == list(recipe.of(name).course)
        assert 0 < own[0]["sparsity"] < own[1]["sparsity"], name
        weights = initializers(onnx_model.read(str(tmp_path / own[1]["model"])).proto)
        kept = mask.read(str(tmp_path / own[1]["mask"])).tensors
        assert all(not weights[tensor][~keep].any() for tensor, keep in kept.items()), name
