"""Verdict records: what one verifier said of one instance, as lines of JSON that survive being killed."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from secateur.formats import streams
from secateur.formats.errors import InputError, UnsupportedError

SCHEMA_VERSION = 1
VERDICTS = ("sat", "unsat", "unknown", "timeout", "error", "invalid-witness")

Label = str | float | int

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One verdict. Times are seconds.

    `model` and `property` are the names as given (in `instances.csv` or on the command line), `bound` is the
    best proven lower bound of the violation (> 0 means unsat), `unstable` and `neurons` count by layer,
    `witness` and `log` (what a foreign verifier printed) name files, `labels` are free (sparsity, criterion, index,
    epsilon, …).
    """

    model: str
    model_sha256: str
    property: str
    property_sha256: str
    verifier: str
    verdict: str
    seconds: float
    phases: Mapping[str, float] = field(default_factory=dict)
    unstable: Mapping[str, int] | None = None
    neurons: Mapping[str, int] | None = None
    domains: int = 0
    bound: float | None = None
    witness: str | None = None
    log: str | None = None
    timeout: float | None = None
    seed: int | None = None
    message: str = ""
    labels: Mapping[str, Label] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


def to_json(record: Record) -> str:
    """One line of JSON, keys sorted. An infinite bound is written as the largest float of its sign, NaN as null.

    Raises:
        ValueError: another number is not finite, or the verdict is none of `VERDICTS`.
    """
    values = asdict(record)
    if record.verdict not in VERDICTS:
        raise ValueError(f"verdict '{record.verdict}': expected one of {', '.join(VERDICTS)}")
    if record.bound is not None:
        largest = sys.float_info.max
        values["bound"] = None if math.isnan(record.bound) else max(-largest, min(largest, record.bound))
    return json.dumps(values, sort_keys=True, allow_nan=False, separators=(",", ":"))


def from_json(line: str, where: str) -> Record:
    """The record in `line`; `where` names file and line for messages.

    Raises:
        InputError: not JSON, a field is missing, unknown or of the wrong type.
        UnsupportedError: another schema version.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", where=where) from None
    if not isinstance(values, dict):
        raise InputError("not a verdict record: expected a JSON object", where=where)
    version = values.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UnsupportedError(
            f"verdict record of schema version {version}: expected {SCHEMA_VERSION}", where=where
        )
    for name, accepts in _ACCEPTS.items():
        if name not in values and name in _LATER:
            continue
        if name not in values:
            raise InputError(f"verdict record has no '{name}'", where=where)
        if not accepts(values[name]):
            raise InputError(f"verdict record: '{name}' is {json.dumps(values[name])[:60]}", where=where)
    unknown = sorted(set(values) - set(_ACCEPTS))
    if unknown:
        raise InputError(f"verdict record: unknown field '{unknown[0]}'", where=where)
    return Record(**values)


def append(path: str, record: Record) -> None:
    """Add `record` to the file at `path` (made when missing), on the disk when this returns.

    A torn last line, left by a process that was killed, is cut off first.

    Raises:
        InputError: the file cannot be written.
    """
    line = to_json(record).encode() + b"\n"
    try:
        with open(path, "a+b") as stream:
            _mend(stream.fileno())
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", where=path) from None


def read(sources: Iterable[str]) -> list[Record]:
    """The records of all `sources` (paths or `-`), in order. A torn last line is left out, with a warning.

    Raises:
        InputError, UnsupportedError: as `from_json`; a source is missing.
    """
    records = []
    for source in sources:
        text = streams.read_bytes(source).decode("utf-8", errors="replace")
        records += from_lines(text.split("\n"), streams.display_name(source))
    return records


def from_lines(lines: Sequence[str], name: str) -> list[Record]:
    """As `read`, of one file's text split at its newlines; `name` is what messages call it."""
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(from_json(line, f"{name}:{number}"))
        except InputError:
            if number < len(lines):
                raise
            _log.warning("secateur: warning: %s:%d: torn last line left out", name, number)
    return records


def _mend(descriptor: int) -> None:
    """Give the file a complete last line: end one that only lacks its newline, cut one that is torn."""
    size = os.fstat(descriptor).st_size
    start, tail = size, b""
    while start > 0 and b"\n" not in tail:
        step = min(start, 1 << 16)
        start -= step
        tail = os.pread(descriptor, step, start) + tail
    last = tail[tail.rfind(b"\n") + 1 :]
    if not last:
        return
    try:
        from_json(last.decode("utf-8", errors="replace"), "")
    except InputError:
        os.ftruncate(descriptor, size - len(last))
    else:
        os.write(descriptor, b"\n")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _table(value: Any, accepts: Any) -> bool:
    return isinstance(value, dict) and all(accepts(item) for item in value.values())


_ACCEPTS = {
    "model": _text,
    "model_sha256": _text,
    "property": _text,
    "property_sha256": _text,
    "verifier": _text,
    "verdict": lambda value: value in VERDICTS,
    "seconds": _number,
    "phases": lambda value: _table(value, _number),
    "unstable": lambda value: value is None or _table(value, _integer),
    "neurons": lambda value: value is None or _table(value, _integer),
    "domains": _integer,
    "bound": lambda value: value is None or _number(value),
    "witness": lambda value: value is None or _text(value),
    "log": lambda value: value is None or _text(value),
    "timeout": lambda value: value is None or _number(value),
    "seed": lambda value: value is None or _integer(value),
    "message": _text,
    "labels": lambda value: _table(value, lambda item: _text(item) or _number(item)),
    "schema_version": _integer,
}
_LATER = {"log"}
"""Fields that older records of this schema do not have."""
assert set(_ACCEPTS) == {entry.name for entry in fields(Record)}
