"""Running instance lists: records, resuming, errors that stay where they belong, counting."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import box_property, mlp
from secateur.formats import verdict, witness
from secateur.formats.errors import InputError
from secateur.pipeline import campaign


@pytest.fixture
def instances(tmp_path: Path) -> str:
    """Three instances of one model: unsat, sat, and a property for another input size."""
    (tmp_path / "net.onnx").write_bytes(mlp([4, 8, 3]).SerializeToString())
    box = ([-1.0] * 4, [1.0] * 4)
    (tmp_path / "never.vnnlib").write_text(box_property(*box, 3, "(>= Y_0 1000.0)"))
    (tmp_path / "always.vnnlib").write_text(box_property(*box, 3, "(<= Y_0 1000.0)"))
    (tmp_path / "five.vnnlib").write_text(box_property([0.0] * 5, [1.0] * 5, 3, "(<= Y_0 Y_1)"))
    lines = [f"net.onnx,{name}.vnnlib,30" for name in ("never", "always", "five")]
    (tmp_path / "instances.csv").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "instances.csv")


def test_each_instance_gets_its_record(instances: str, tmp_path: Path) -> None:
    results = str(tmp_path / "r.jsonl")
    plan = campaign.plan(instances, results, timeout=20, labels={"benchmark": "tiny"})
    records = list(campaign.run(plan.pending, results, seed=3, witness_dir=str(tmp_path / "witnesses")))
    assert [record.verdict for record in records] == ["unsat", "sat", "error"]
    assert records == verdict.read([results])
    for record in records:
        assert record.model == "net.onnx"
        assert record.timeout == 20
        assert record.seed == 3
        assert record.labels == {"benchmark": "tiny"}
        assert record.seconds > 0
    assert "5 inputs" in records[2].message
    assert records[1].witness is not None
    x, y = witness.read(str(tmp_path / "witnesses" / records[1].witness))
    assert x.shape == (4,)
    assert y.shape == (3,)


def test_a_second_run_does_only_what_is_missing(instances: str, tmp_path: Path) -> None:
    results = str(tmp_path / "r.jsonl")
    stopped = campaign.run(campaign.plan(instances, results).pending, results)
    first = next(stopped)
    stopped.close()
    again = campaign.plan(instances, results)
    assert again.finished == [first]
    assert [job.instance.vnnlib for job in again.pending] == ["always.vnnlib", "five.vnnlib"]
    list(campaign.run(again.pending, results))
    # What failed is tried again; another timeout, verifier or property is another question.
    assert [job.instance.vnnlib for job in campaign.plan(instances, results).pending] == ["five.vnnlib"]
    assert len(campaign.plan(instances, results, timeout=10).pending) == 3
    assert len(campaign.plan(instances, results, verifier="milp").pending) == 3
    (tmp_path / "never.vnnlib").write_text(box_property([0.0] * 4, [1.0] * 4, 3, "(>= Y_0 999.0)"))
    pending = [job.instance.vnnlib for job in campaign.plan(instances, results).pending]
    assert pending == ["never.vnnlib", "five.vnnlib"]


def test_limit_and_timeouts(instances: str, tmp_path: Path) -> None:
    results = str(tmp_path / "r.jsonl")
    plan = campaign.plan(instances, results, timeout=100, limit=2)
    assert [job.timeout for job in plan.jobs] == [30, 30]
    assert [job.timeout for job in campaign.plan(instances, results, timeout=5).jobs] == [5, 5, 5]


def test_an_empty_results_file_is_one_without_records(instances: str, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").touch()
    assert len(campaign.plan(instances, str(tmp_path / "r.jsonl")).pending) == 3


def test_records_cannot_go_to_a_stream(instances: str) -> None:
    with pytest.raises(InputError, match="file"):
        campaign.plan(instances, "-")


def test_tally_judges_only_decided_verdicts_against_known_ones() -> None:
    def record(name: str, answer: str, seconds: float) -> verdict.Record:
        return verdict.Record("m", "", name, "", "crown", answer, seconds)

    records = [
        record("a", "unsat", 1),
        record("b", "sat", 2),
        record("c", "timeout", 9),
        record("d", "sat", 4),
    ]
    expected = {("m", "a"): "unsat", ("m", "b"): "unsat", ("m", "c"): "sat", ("other", "d"): "unsat"}
    total = campaign.tally(records, expected)
    assert (total.instances, total.decided, total.right, total.wrong) == (4, 3, 1, 1)
    assert (total.verdicts["timeout"], total.seconds, total.median_seconds) == (1, 16, 3)
