"""Verdict records: JSON round trip, appending after a crash, refusals with the line."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.formats import verdict
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.verdict import Record

RECORD = Record("onnx/a.onnx", "ab", "vnnlib/p.vnnlib", "cd", "crown", "unsat", 1.5, labels={"sparsity": 0.5})

finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.dictionaries(st.text(), st.integers(0, 10**9), max_size=3)
records = st.builds(
    Record,
    model=st.text(),
    verdict=st.sampled_from(verdict.VERDICTS),
    seconds=finite,
    phases=st.dictionaries(st.text(), finite, max_size=3),
    unstable=st.none() | counts,
    neurons=st.none() | counts,
    domains=st.integers(0, 10**9),
    bound=st.none() | finite,
    timeout=st.none() | finite,
    labels=st.dictionaries(st.text(), st.one_of(st.text(), finite, st.integers()), max_size=3),
    schema_version=st.just(1),
)


@given(records)
def test_json_round_trip(record: Record) -> None:
    line = verdict.to_json(record)
    assert "\n" not in line
    assert verdict.from_json(line, "r") == record


def test_infinite_bounds_are_json() -> None:
    values = {}
    for bound in (math.inf, -math.inf, math.nan):
        line = verdict.to_json(Record("m", "", "p", "", "crown", "unknown", 0.0, bound=bound))
        values[repr(bound)] = json.loads(line)["bound"]
    assert values == {"inf": 1.7976931348623157e308, "-inf": -1.7976931348623157e308, "nan": None}


def test_append_and_read(tmp_path: Path) -> None:
    path = str(tmp_path / "r.jsonl")
    for seconds in (1.0, 2.0):
        verdict.append(path, Record("m", "", "p", "", "crown", "sat", seconds))
    assert [record.seconds for record in verdict.read([path, path])] == [1.0, 2.0, 1.0, 2.0]


@pytest.mark.parametrize("kept", range(0, len(verdict.to_json(RECORD)) + 1, 7))
def test_a_torn_last_line_costs_only_itself(
    tmp_path: Path, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    line = verdict.to_json(RECORD)
    path = tmp_path / "r.jsonl"
    path.write_text(line + "\n" + line[:kept])
    with caplog.at_level(logging.WARNING):
        assert verdict.read([str(path)]) == [RECORD]
    assert ("r.jsonl:2: torn last line" in caplog.text) == (kept > 0)
    verdict.append(str(path), RECORD)
    assert path.read_text() == (line + "\n") * 2


def test_a_last_line_without_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(verdict.to_json(RECORD))
    assert verdict.read([str(path)]) == [RECORD]
    verdict.append(str(path), RECORD)
    assert verdict.read([str(path)]) == [RECORD, RECORD]


def test_a_long_torn_line_is_cut_whole(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(verdict.to_json(RECORD) + "\n" + '{"x":"' + "a" * 200_000)
    verdict.append(str(path), RECORD)
    assert verdict.read([str(path)]) == [RECORD, RECORD]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"verdict": "maybe"}, InputError, "r:1: verdict record: 'verdict' is \"maybe\""),
        ({"seconds": "long"}, InputError, "'seconds' is \"long\""),
        ({"labels": {"a": None}}, InputError, "'labels' is"),
        ({"domains": 1.5}, InputError, "'domains' is 1.5"),
        ({"colour": "red"}, InputError, "unknown field 'colour'"),
        ({"schema_version": 2}, UnsupportedError, "schema version 2: expected 1"),
    ],
)
def test_refusals(change: dict[str, object], kind: type[Exception], message: str) -> None:
    values = {**json.loads(verdict.to_json(RECORD)), **change}
    with pytest.raises(kind, match=message):
        verdict.from_json(json.dumps(values), "r:1")


def test_refusals_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    line = verdict.to_json(RECORD)
    for bad, message in (
        ("{", "2: not JSON"),
        ("[]", "2: not a verdict record"),
        ('{"schema_version":1}', "no 'model'"),
    ):
        path.write_text(f"{line}\n{bad}\n{line}\n")
        with pytest.raises(InputError, match=message):
            verdict.read([str(path)])
    with pytest.raises(InputError, match="cannot be written"):
        verdict.append(str(tmp_path / "missing" / "r.jsonl"), RECORD)
    with pytest.raises(ValueError, match="verdict 'holds'"):
        verdict.to_json(Record("m", "", "p", "", "crown", "holds", 0.0))
