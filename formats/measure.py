"""What was measured of a model as a whole, as lines of JSON: size, zeros, accuracy.

These records stand beside the verdict records (`formats/verdict.py`) of the model's instances and share its hash
and labels with them; a line is told apart by its field `kind`, which is `model` here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields

from secateur.formats import streams
from secateur.formats.errors import InputError, UnsupportedError

KIND = "model"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ModelRecord:
    """One model.

    `parameters` counts the elements of all weights, biases and normalisation tensors, `zeros` those that are 0.
    `metrics` are shares in [0, 1] and counts, by name:

    * `accuracy`: share of the test images that the model gets right, `images` of them;
    * `property_images`: images that a robustness property was asked for, whether or not the model gets them right
      (those that it gets wrong have no instance); what `certified` and `attacked` accuracy are shares of;
    * `attacked`: share of those that the model gets right and that withstood the attack.

    `labels` are free, as those of verdict records; `sparsity` (share of weights pruned), `method` and `epsilon`
    place the model in a report's charts.
    """

    model: str
    model_sha256: str
    parameters: int
    zeros: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str | float | int] = field(default_factory=dict)
    kind: str = KIND
    schema_version: int = SCHEMA_VERSION


def to_json(record: ModelRecord) -> str:
    """One line of JSON, keys sorted.

    Raises:
        ValueError: a number that is not finite.
    """
    return json.dumps(asdict(record), sort_keys=True, allow_nan=False, separators=(",", ":"))


def from_json(line: str, where: str) -> ModelRecord:
    """The record in `line`; `where` names file and line for messages.

    Raises:
        InputError: not JSON, or a field is missing, unknown or of the wrong type.
        UnsupportedError: another schema version.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", where=where) from None
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise InputError(f"not a model record: expected an object with kind '{KIND}'", where=where)
    if values.get("schema_version") != SCHEMA_VERSION:
        raise UnsupportedError(
            f"model record of schema version {values.get('schema_version')}: expected {SCHEMA_VERSION}",
            where=where,
        )
    names = {entry.name for entry in fields(ModelRecord)}
    for name in sorted(names ^ set(values)):
        problem = "has no" if name in names else "has an unknown field"
        raise InputError(f"model record {problem} '{name}'", where=where)
    for name in ("model", "model_sha256"):
        if not isinstance(values[name], str):
            raise InputError(f"model record: '{name}' is no text", where=where)
    for name in ("parameters", "zeros"):
        if type(values[name]) is not int or values[name] < 0:
            raise InputError(f"model record: '{name}' is no count", where=where)
    for name in ("metrics", "labels"):
        if not isinstance(values[name], dict):
            raise InputError(f"model record: '{name}' is no object", where=where)
    for name, value in values["metrics"].items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"model record: metric '{name}' is no number", where=where)
    for name, value in values["labels"].items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InputError(f"model record: label '{name}' is neither text nor number", where=where)
    return ModelRecord(**values)


def write(records: Iterable[ModelRecord], destination: str) -> None:
    """Write all records, a line each, to a path (atomically) or to standard output (`-`)."""
    streams.write_bytes(destination, "".join(f"{to_json(record)}\n" for record in records).encode())


def read(source: str) -> list[ModelRecord]:
    """The records at `source` (path or `-`), in order.

    Raises:
        InputError, UnsupportedError: as `from_json`; the source is missing.
    """
    name = streams.display_name(source)
    lines = streams.read_bytes(source).decode("utf-8", errors="replace").splitlines()
    return [from_json(line, f"{name}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
