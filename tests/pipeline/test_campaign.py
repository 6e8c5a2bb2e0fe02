"""Running instance lists: records, resuming, errors that stay where they belong, counting."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import box_property, mlp
from secateur.formats import verdict, witness
from secateur.formats.errors import InputError
from secateur.pipeline import campaign
from secateur.pipeline.questions import How
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.search.work import Work


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
    records = list(campaign.run(plan.pending, results, How(seed=3), witness_dir=str(tmp_path / "witnesses")))
    assert records == verdict.read([results])
    records = sorted(records, key=lambda record: ["never", "always", "five"].index(record.property[:-7]))
    assert [record.verdict for record in records] == ["unsat", "sat", "error"]
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
    first = next(record for record in stopped if record.verdict != "error")
    stopped.close()
    again = campaign.plan(instances, results)
    assert again.finished == [first]
    assert len(again.pending) == 2 and first.property not in [job.instance.vnnlib for job in again.pending]
    list(campaign.run(again.pending, results))
    # What failed is tried again; another timeout, verifier or property is another question.
    assert [job.instance.vnnlib for job in campaign.plan(instances, results).pending] == ["five.vnnlib"]
    assert len(campaign.plan(instances, results, timeout=10).pending) == 3
    assert len(campaign.plan(instances, results, verifiers=["milp"]).pending) == 3
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


def test_instances_of_a_network_share_their_batches(
    instances: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is read and prepared once, queries climb the first rungs together, every verdict is its own."""
    (tmp_path / "other.onnx").write_bytes(mlp([4, 8, 3], seed=1).SerializeToString())
    box = ([-0.1] * 4, [0.1] * 4)
    for i in range(5):
        (tmp_path / f"p{i}.vnnlib").write_text(box_property(*box, 3, f"(<= Y_0 (+ Y_1 {i - 2}.0))"))
    lines = [f"{net}.onnx,p{i}.vnnlib,30" for i in range(5) for net in ("net", "other")]
    Path(instances).write_text("\n".join(lines) + "\n")
    alone = {
        (net, i): campaign.verify_files(str(tmp_path / f"{net}.onnx"), str(tmp_path / f"p{i}.vnnlib")).verdict
        for net in ("net", "other")
        for i in range(5)
    }
    batches: list[int] = []
    begin = Engine.begin

    def counted(self: Engine, works: list[Work], seed: int) -> None:
        batches.append(len(works))
        begin(self, works, seed)

    monkeypatch.setattr(Engine, "begin", counted)
    results = str(tmp_path / "r.jsonl")
    records = list(campaign.run(campaign.plan(instances, results).pending, results))
    assert batches == [5, 5]
    assert {(r.model[:-5], int(r.property[1])): r.verdict for r in records} == alone
    assert {record.verdict for record in records} == {"sat", "unsat"}


def test_one_instance_that_spoils_a_batch_spoils_only_itself(
    instances: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Engine.begin

    def failing(self: Engine, works: list[Work], seed: int) -> None:
        if any(work.query.name.endswith("always.vnnlib") for work in works):
            raise RuntimeError("out of memory")
        begin(self, works, seed)

    monkeypatch.setattr(Engine, "begin", failing)
    results = str(tmp_path / "r.jsonl")
    records = {r.property: r for r in campaign.run(campaign.plan(instances, results).pending, results)}
    assert records["never.vnnlib"].verdict == "unsat"
    assert records["always.vnnlib"].message == "RuntimeError: out of memory"
