"""Records of measurements: JSON lines and Parquet hold the same, and refuse what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.formats import measurements
from secateur.formats.errors import InputError, UnsupportedError

_NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
_COUNTS = st.integers(-(2**53), 2**53)
_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": _TEXTS,
    "count": _COUNTS,
    "number": _NUMBERS,
    "texts": st.lists(_TEXTS, max_size=3),
    "counts": st.lists(st.none() | _COUNTS, max_size=3),
    "numbers": st.lists(st.none() | _NUMBERS, max_size=3),
}
RECORDS = st.lists(
    st.fixed_dictionaries(
        {}, optional={name: _VALUES[column.type] for name, column in measurements.COLUMNS.items()}
    ),
    min_size=1,
    max_size=3,
)


@given(RECORDS, st.sampled_from(["r.jsonl", "r.parquet", "r.jsonl.gz"]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]], name: str
) -> None:
    path = str(tmp_path_factory.mktemp("records") / name)
    measurements.write(records, path)
    assert measurements.read(path) == records
    assert measurements.resume(path) == records


def test_columns_of_ones_own_and_lacking_ones(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"accuracy": 0.5, "kept": 0.8, "note": "a", "rewound": True},
        {"seed": 1},
    ]
    for name in ("r.jsonl", "r.parquet"):
        path = str(tmp_path / name)
        measurements.write([*records, {"accuracy": None, "seed": 2}], path)
        assert measurements.read(path) == [*records, {"seed": 2}]
    assert measurements.resume(str(tmp_path / "none.jsonl")) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense", "not JSON"),
        ("[1]", "not a record of measurements"),
        ('{"kind":"model"}', "not a record of measurements"),
        (
            '{"kind":"measurement","schema_version":1,"accuracy":"high"}',
            "'accuracy' is 'high': expected a number",
        ),
        ('{"kind":"measurement","schema_version":1,"seed":true}', "'seed'"),
        ('{"kind":"measurement","schema_version":1,"class_accuracy":[0.5,"x"]}', "'class_accuracy'"),
        ('{"kind":"measurement","schema_version":1,"mine":[1]}', "'mine'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(measurements.to_json({"accuracy": 0.5}) + "\n" + line + "\n")
    with pytest.raises(InputError, match=r"r\.jsonl:2: ") as caught:
        measurements.read(str(path))
    assert says in str(caught.value)


def test_other_versions_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"kind":"measurement","schema_version":2}\n')
    with pytest.raises(UnsupportedError, match="version 2"):
        measurements.read(str(path))
    path = tmp_path / "r.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(InputError, match="damaged Parquet"):
        measurements.read(str(path))


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    for bad in ({"accuracy": float("nan")}, {"seed": 0.5}, {"kind": "x"}):
        with pytest.raises(ValueError, match="column"):
            measurements.write([bad], str(tmp_path / "r.jsonl"))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="several types"):
        measurements.write([{"mine": 1}, {"mine": "x"}], str(tmp_path / "r.parquet"))
    assert not list(tmp_path.iterdir())
