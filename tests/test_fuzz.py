"""The fuzzer: a short run finds nothing, and it does find what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fuzz
from secateur.formats import onnx_model, vnnlib
from secateur.formats.errors import CheckFailed
from secateur.pipeline.verify import verify_many

BRIEF = ["--cases", "12", "--threads", "1"]


def test_a_short_run_finds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main([*BRIEF, "--out", str(tmp_path / "found")]) == 0
    assert not (tmp_path / "found").exists()
    table = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in table[1:-1]} == set(fuzz.KINDS)


def test_a_wrong_verdict_is_found_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that refutes everything."""

    def liar(*arguments: object, **options: object) -> list[object]:
        found = verify_many(*arguments, **options)  # type: ignore[arg-type]
        return [replace(result, verdict="unsat", witness=None) for result in found]

    monkeypatch.setattr(fuzz, "verify_many", liar)
    assert fuzz.main([*BRIEF, "--out", str(tmp_path)]) == 1
    places = list(tmp_path.iterdir())
    said = [(place / "finding.txt").read_text() for place in places]
    assert any("unsat, but there is a witness" in text for text in said)
    assert all(
        f"make fuzz SEED={place.name} CASES=1" in text for place, text in zip(places, said, strict=True)
    )
    model = onnx_model.read(str(places[0] / "model.onnx"))
    assert model.inputs and vnnlib.read(str(places[0] / "p0.vnnlib")).regions
    assert str(places[0]) in capsys.readouterr().out


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_cases_depend_on_their_seed_alone(kind: str) -> None:
    build = fuzz.KINDS[kind][0]
    one, two, other = (build(seed, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert one.model.proto == two.model.proto != other.model.proto
    assert [q.text for q in one.questions] == [q.text for q in two.questions]


def test_needles_are_known() -> None:
    for seed in range(5):
        example = fuzz.planted(seed, np.random.default_rng(seed))
        assert example.questions[0].known == "sat"
        assert (example.questions[0].violation(example.x, example.y)[1:] > 0).mean() > 0.9


def test_a_stop_reports_what_was_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: int) -> fuzz.Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(fuzz, "examine", stopped)
    assert fuzz.main(BRIEF) == 130
    assert "cases" in capsys.readouterr().out


def test_a_certificate_that_fails_its_check_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise CheckFailed("region 0: clause 0: leaf 0")

    findings = []
    for seed in range(4):
        example = fuzz.enumerated(seed, np.random.default_rng(seed))
        query = vnnlib.parse(example.questions[0].text, "p")
        assert not list(fuzz.certified(example, query))
        with monkeypatch.context() as patch:
            patch.setattr(fuzz, "check", fails)
            findings += fuzz.certified(example, query)
    assert findings and all("fails its check" in said for said in findings)
