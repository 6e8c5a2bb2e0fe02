"""The demo, shortened: every stage runs, files are standard ones, and what is done is not done again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from secateur.formats import instances, mask, measure, onnx_model, verdict
from secateur.formats.errors import InputError
from secateur.pipeline import campaign
from secateur.pipeline.study import demo
from secateur.pipeline.study.demo import Outcome, Settings
from secateur.pipeline.study.stages import Stages
from secateur.pipeline.study.summary import Summary

SHORT = Settings(
    architecture="digits_mlp",
    sparsities=(0.5,),
    channel_sparsities=(0.25,),
    epsilon=0.02,
    images=4,
    epochs=4,
    retraining=2,
    timeout=5.0,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, list[str]]:
    folder = tmp_path_factory.mktemp("demo") / "deep" / "er"
    said: list[str] = []
    return folder, demo.run(str(folder), SHORT, progress=said.append), said


def test_every_step_is_told(finished: tuple[Path, Outcome, list[str]]) -> None:
    assert len(finished[2]) == demo.steps(SHORT)


def test_the_models_are_what_their_names_say(finished: tuple[Path, Outcome, list[str]]) -> None:
    folder, outcome, _ = finished
    assert [one.model for one in outcome.summaries] == ["dense", "weights-50", "channels-25"]
    models = {
        one.model: onnx_model.read(str(folder / "models" / f"{one.model}.onnx")) for one in outcome.summaries
    }
    held = mask.read(str(folder / "masks" / "weights-50.safetensors"))
    assert held.model_sha256 == models["dense"].sha256
    assert held.sparsity == pytest.approx(0.5, abs=1e-3)
    for name, keep in held.tensors.items():
        assert not onnx_model.initializers(models["weights-50"].proto)[name][~keep].any()

    def size(name: str) -> int:
        return sum(array.size for array in onnx_model.initializers(models[name].proto).values())

    assert size("channels-25") < size("dense") == size("weights-50")
    commands = [step["command"] for step in onnx_model.provenance(models["channels-25"].proto)]
    assert commands == ["build", "train", "prune", "train", "shrink"]


def test_summaries_say_what_the_files_say(finished: tuple[Path, Outcome, list[str]]) -> None:
    folder, outcome, _ = finished
    records = verdict.read([str(folder / "results.jsonl")])
    listed = instances.read(str(folder / "instances.csv"))
    assert [(one.model, one.property) for one in records] == [(one.onnx, one.vnnlib) for one in listed]
    assert not [one.message for one in records if one.verdict == "error"]
    measured = {one.model: one for one in measure.read(str(folder / "models.jsonl"))}
    for one in outcome.summaries:
        own = [record for record in records if record.model_sha256 == one.model_sha256]
        assert one.certified == sum(record.verdict == "unsat" for record in own) / SHORT.images
        assert one.accuracy == measured[one.model].metrics["accuracy"]
        refuted = sum(record.verdict == "sat" for record in own)
        known = min(measured[one.model].metrics["attacked"], (len(own) - refuted) / SHORT.images)
        assert one.attacked == known
        assert one.certified is not None and one.certified <= one.attacked
    page = (folder / "report.html").read_text()
    assert outcome.report == folder / "report.html"
    assert "weights-50" in page and "channels-25" in page and str(folder) not in page


def test_the_same_files_come_out_when_run_again_and_nothing_is_done_twice(
    finished: tuple[Path, Outcome, list[str]],
) -> None:
    folder, outcome, _ = finished
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("m*/*")}
    results = (folder / "results.jsonl").read_bytes()
    page = (folder / "report.html").read_bytes()
    said: list[str] = []
    assert demo.run(str(folder), SHORT, progress=said.append) == outcome
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("m*/*")} == before
    assert (folder / "results.jsonl").read_bytes() == results
    assert (folder / "report.html").read_bytes() == page
    assert len(said) == demo.steps(SHORT)


def test_what_was_removed_is_made_again_with_the_same_bytes(
    finished: tuple[Path, Outcome, list[str]],
) -> None:
    folder, outcome, _ = finished
    lost = folder / "models" / "weights-50.onnx"
    before = lost.read_bytes()
    lost.unlink()
    again = demo.run(str(folder), SHORT)
    assert lost.read_bytes() == before
    assert _timeless(again.summaries) == _timeless(outcome.summaries)


def test_the_folder_is_a_benchmark_of_its_own(
    finished: tuple[Path, Outcome, list[str]], tmp_path: Path
) -> None:
    plan = campaign.plan(str(finished[0] / "instances.csv"), str(tmp_path / "r.jsonl"), limit=1, timeout=5)
    (record,) = campaign.run(plan.pending, str(tmp_path / "r.jsonl"))
    first = verdict.read([str(finished[0] / "results.jsonl")])[0]
    assert (record.verdict, record.property_sha256) == (first.verdict, first.property_sha256)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        demo.run(str(tmp_path / "file" / "demo"), SHORT)


def test_stages_are_kept_until_key_or_files_change(tmp_path: Path) -> None:
    def made(key: object) -> bool:
        return Stages(tmp_path).make("one", key, ["a"], done)

    def done() -> None:
        (tmp_path / "a").write_text("made")

    assert made(1)
    assert not made(1)
    assert made(2)
    (tmp_path / "a").write_text("changed")
    assert made(2)
    (tmp_path / "stages.json").write_text("damaged")
    assert made(2)
    assert not made(2)


def _timeless(summaries: tuple[Summary, ...]) -> list[Summary]:
    return [replace(one, mean_seconds=None, median_seconds=None) for one in summaries]
