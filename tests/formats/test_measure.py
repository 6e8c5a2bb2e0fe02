"""Model records: what is written is read, what is malformed is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from secateur.formats import measure
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.measure import ModelRecord

numbers = st.floats(allow_nan=False, allow_infinity=False)
records = st.builds(
    ModelRecord,
    model=st.text(),
    model_sha256=st.text(),
    parameters=st.integers(0, 2**40),
    zeros=st.integers(0, 2**40),
    metrics=st.dictionaries(st.text(), numbers),
    labels=st.dictionaries(st.text(), st.text() | st.integers() | numbers),
)


@given(records)
def test_lines_come_back_as_they_were(record: ModelRecord) -> None:
    line = measure.to_json(record)
    assert "\n" not in line
    assert measure.from_json(line, "here") == record


def test_files_come_back_as_they_were(tmp_path: Path) -> None:
    wanted = [ModelRecord(name, name * 2, 3, 1, {"accuracy": 0.5}, {"sparsity": 0.1}) for name in ("a", "b")]
    measure.write(wanted, str(tmp_path / "m.jsonl"))
    assert measure.read(str(tmp_path / "m.jsonl")) == wanted


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "verdict"}, "kind"),
        ({"model": 3}, "'model' is no text"),
        ({"parameters": -1}, "'parameters' is no count"),
        ({"zeros": True}, "'zeros' is no count"),
        ({"metrics": []}, "'metrics' is no object"),
        ({"metrics": {"accuracy": "high"}}, "'accuracy' is no number"),
        ({"labels": {"sparsity": None}}, "'sparsity' is neither"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"model_sha256": ...}, "has no 'model_sha256'"),
    ],
)
def test_malformed_records_are_refused(change: dict[str, object], says: str, tmp_path: Path) -> None:
    values = json.loads(measure.to_json(ModelRecord("a", "b", 1, 0))) | change
    text = json.dumps({name: value for name, value in values.items() if value is not ...})
    (tmp_path / "m.jsonl").write_text("\n" + text + "\n")
    with pytest.raises(InputError, match=says) as caught:
        measure.read(str(tmp_path / "m.jsonl"))
    assert str(caught.value).startswith(str(tmp_path / "m.jsonl") + ":2: ")


def test_other_versions_are_unsupported() -> None:
    line = measure.to_json(ModelRecord("a", "b", 1, 0)).replace('"schema_version":1', '"schema_version":2')
    with pytest.raises(UnsupportedError, match="version 2"):
        measure.from_json(line, "here")
