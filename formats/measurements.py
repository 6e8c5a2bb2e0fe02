"""What was measured of models, one flat record each, as JSON lines or as Parquet.

A record maps columns to values. `COLUMNS` says what each means; a record holds those that were measured, and may
hold columns of its own besides, with a text, a number or a truth value. In Parquet a column that a record lacks is
null, and read back as lacking.

Shares and accuracies are in [0, 1], times in seconds unless the column's name says otherwise.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.formats import streams
from secateur.formats.errors import InputError, UnsupportedError

KIND = "measurement"
SCHEMA_VERSION = 1
Value = str | float | int | bool | None | Sequence[str | float | int | None]
Record = Mapping[str, Value]


@dataclass(frozen=True)
class Column:
    """A column's type ("text", "count", "number", "counts", "numbers", "texts": the last three are lists) and meaning.

    `timed`: it depends on the machine's speed, as times do; all others are the same for the same command and seed
    (as far as no verdict is a timeout).
    """

    type: str
    meaning: str
    timed: bool = False


COLUMNS: dict[str, Column] = {
    # who it is
    "model": Column("text", "the model's file"),
    "model_sha256": Column("text", "its hash"),
    "mask": Column("text", "the mask's file"),
    "data": Column("text", "the data set"),
    "network": Column("text", "the architecture"),
    "method": Column("text", "how it was pruned; 'dense' where it was not"),
    "objective": Column("text", "what it was trained for, such as 'adversarial' or 'certified'"),
    "seed": Column("count", "the seed of its training"),
    "round": Column("count", "rounds of pruning before it"),
    "sparsity": Column("number", "share of the prunable weights (or of what the method prunes) that is gone"),
    # how it came about, in the loop of `secateur tickets`
    "regulariser": Column("text", "what training added to the loss; empty: nothing"),
    "granularity": Column("text", "the units that were pruned; empty: none"),
    "target": Column("number", "share of the units that the method was to prune"),
    "mask_sha256": Column("text", "the mask's hash"),
    "ticket_sha256": Column("text", "hash of the network that training began with: survivors rewound, or as they were"),
    "scored_sha256": Column("text", "hash of the network that the criterion looked at"),
    "epochs": Column("count", "epochs of training"),
    "best_epoch": Column("count", "the one whose weights were kept"),
    "validation": Column("number", "its accuracy on held-out training images, in the objective's eyes"),
    "training_seconds": Column("number", "of training", timed=True),
    # how it was measured
    "fingerprint": Column("text", "hash of model, images and settings: what is known under it is not measured again"),
    "epsilon": Column("number", "radius ε of the balls (ℓ∞, raw pixels)"),
    "timeout": Column("number", "seconds that an image's complete verification may take"),
    "accuracy_images": Column("count", "images that were classified"),
    "attacked_images": Column("count", "images that were attacked"),
    "images": Column("count", "images whose robustness was to be certified, right or wrong"),
    # accuracy
    "accuracy": Column("number", "share of images classified right"),
    "class_accuracy": Column("numbers", "the same of each class's images; null for a class without any"),
    "class_accuracy_min": Column("number", "the least of them"),
    "class_accuracy_max": Column("number", "the largest of them"),
    "class_accuracy_std": Column("number", "their standard deviation"),
    "calibration_error": Column("number", "expected calibration error, 15 bins (Guo et al. 2017)"),
    "fgsm_accuracy": Column("number", "share right on the image and after FGSM (Goodfellow et al. 2015)"),
    "pgd_accuracy": Column("number", "share right on the image and after PGD (Madry et al. 2018)"),
    "transfer_accuracy": Column("number", "share right on the image and on what PGD made of it on the dense net"),
    "transfer_success": Column("number", "share fooling this net of what fools the dense one, of images right on both"),
    # certified accuracy
    "right": Column("number", "share of the `images` classified right"),
    "certified_ibp": Column("number", "share right and proved by interval bounds"),
    "certified_crown": Column("number", "share right and proved by these or CROWN"),
    "certified_alpha_crown": Column("number", "share right and proved by these or α-CROWN"),
    "certified": Column("number", "share right and proved by any of these or branch and bound: complete verification"),
    "refuted": Column("number", "share right, for which complete verification found a counterexample"),
    "undecided": Column("number", "share right, for which time was over, or that were given up"),
    "class_certified": Column("numbers", "`certified` of each class's images; null for a class without any"),
    "class_certified_min": Column("number", "the least of them"),
    "class_certified_max": Column("number", "the largest of them"),
    "class_certified_std": Column("number", "their standard deviation"),
    "domains": Column("count", "sub-problems of branch and bound, all images together", timed=True),
    "seconds": Column("number", "of complete verification, all images together", timed=True),
    "mean_seconds": Column("number", "of complete verification, mean over images classified right", timed=True),
    "median_seconds": Column("number", "the same, median", timed=True),
    "peak_bytes": Column("count", "the most memory that the process held meanwhile", timed=True),
    "image_index": Column("counts", "for each of `images`: its place in the data"),
    "image_proof": Column("texts", "what settled it: wrong, ibp, crown, alpha-crown, complete, refuted, undecided"),
    "image_seconds": Column("numbers", "of its bounds and its search; null where the image is classified wrong", True),
    "image_domains": Column("counts", "its sub-problems of branch and bound; null likewise", timed=True),
    # bounds over the balls about `images`, by intervals and by CROWN
    **{
        f"{method}_{name}": Column(kind, f"{meaning}, by {'intervals' if method == 'ibp' else 'CROWN'}")
        for method in ("ibp", "crown")
        for name, kind, meaning in (
            ("unstable_ratio", "number", "mean share of an image's ReLUs whose argument's bounds are l < 0 < u"),
            ("instability", "number", "mean of Σ −l·u over an image's unstable ReLUs (2206.07311)"),
            ("width", "number", "mean u − l of the ReLUs' arguments"),
            ("logit_width", "number", "mean u − l of the outputs"),
            ("layer_unstable_ratio", "numbers", "unstable ratio a layer of ReLUs"),
            ("layer_instability", "numbers", "instability a layer"),
            ("layer_width", "numbers", "mean width a layer"),
        )
    },
    "layer": Column("texts", "the layers of ReLUs, by the value that each gives"),
    "layer_neurons": Column("counts", "how many ReLUs each has"),
    # what it costs
    "parameters": Column("count", "weights, biases and normalisation tensors, in elements"),
    "nonzero_parameters": Column("count", "those that are not 0"),
    "weights": Column("count", "elements of the prunable weights"),
    "nonzero_weights": Column("count", "those that are not 0"),
    "flops": Column("count", "floating-point operations an image, zeros counted (two a multiply-add)"),
    "nonzero_flops": Column("count", "the same without products with a weight that is 0"),
    "milliseconds": Column("number", "an image takes in onnxruntime, one at a time, on one thread", timed=True),
}  # fmt: skip

PLACE = ("method", "objective", "data", "network", "seed", "round", "sparsity", "model", "mask")
"""The columns that say where in a study a model stands; whoever trains and prunes fills them."""


def is_timed(column: str) -> bool:
    """Whether the column depends on the machine's speed (see `Column`)."""
    return column in COLUMNS and COLUMNS[column].timed


def to_json(record: Record) -> str:
    """One line of JSON, keys sorted.

    Raises:
        ValueError: a column of another type than `COLUMNS` says, or a number that is not finite.
    """
    values = {name: value for name, value in record.items() if value is not None}
    if bad := _misfit(values):
        raise ValueError(bad)
    whole = {**values, "kind": KIND, "schema_version": SCHEMA_VERSION}
    return json.dumps(whole, sort_keys=True, allow_nan=False, separators=(",", ":"))


def from_json(line: str, where: str) -> dict[str, Any]:
    """The record in `line`; `where` names file and line for messages.

    Raises:
        InputError: not JSON, another kind of record, or a column of the wrong type.
        UnsupportedError: another schema version.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", where=where) from None
    return _checked(values, where)


def read(source: str) -> list[dict[str, Any]]:
    """The records at `source` (a path, or `-`), JSON lines or Parquet, in order.

    Raises:
        InputError, UnsupportedError: no such file, or as `from_json`.
    """
    data, name = streams.read_bytes(source), streams.display_name(source)
    if is_parquet(data):
        return from_parquet(data, name)
    lines = data.decode("utf-8", errors="replace").splitlines()
    return [from_json(line, f"{name}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def write(records: Iterable[Record], destination: str) -> None:
    """Write all records, atomically: Parquet where the name ends in `.parquet`, else JSON lines.

    Raises:
        ValueError: as `to_json`.
        InputError: it cannot be written.
    """
    if destination.endswith(".parquet"):
        streams.write_bytes(destination, _to_parquet(list(records)))
    else:
        text = "".join(f"{to_json(record)}\n" for record in records)
        streams.write_bytes(destination, text.encode())


def resume(destination: str) -> list[dict[str, Any]]:
    """The records that are at the path already; none where there is no file, or an empty one.

    Raises:
        InputError: it cannot be written, or holds something else.
    """
    streams.check_destination(destination)
    path = Path(destination)
    exists = destination != streams.STREAM and path.exists() and path.stat().st_size
    return read(destination) if exists else []


def is_parquet(data: bytes) -> bool:
    """Whether the data are a Parquet file."""
    return data[:4] == b"PAR1"


def from_parquet(data: bytes, name: str) -> list[dict[str, Any]]:
    """The records of a Parquet file; `name` is what messages call it.

    Raises:
        InputError, UnsupportedError: damaged, or other records.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(io.BytesIO(data)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"damaged Parquet file: {str(error).splitlines()[0]}", where=name) from None
    return [
        _checked({column: value for column, value in row.items() if value is not None}, f"{name}: row {number}")
        for number, row in enumerate(rows, 1)
    ]  # fmt: skip


def _to_parquet(records: Sequence[Record]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    whole = [json.loads(to_json(record)) for record in records]
    names = sorted({name for record in whole for name in record})
    arrow = {"text": pyarrow.string(), "count": pyarrow.int64(), "number": pyarrow.float64()}
    types = {name: arrow[column.type.removesuffix("s")] for name, column in COLUMNS.items()}
    types |= {name: pyarrow.list_(types[name]) for name, one in COLUMNS.items() if one.type.endswith("s")}
    try:
        table = pyarrow.table(
            {name: pyarrow.array([record.get(name) for record in whole], types.get(name)) for name in names}
        )
    except pyarrow.ArrowException as error:
        raise ValueError(f"a column holds values of several types: {error}") from None
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return sink.getvalue()


def _checked(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise InputError(f"not a record of measurements: expected an object with kind '{KIND}'", where=where)
    version = values.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UnsupportedError(f"record of schema version {version}: expected {SCHEMA_VERSION}", where=where)
    record = {name: value for name, value in values.items() if name not in ("kind", "schema_version")}
    if bad := _misfit(record):
        raise InputError(bad, where=where)
    return record


def _misfit(record: Mapping[str, Any]) -> str | None:
    """What is wrong with a record's types, if anything."""
    for name, value in record.items():
        if name in ("kind", "schema_version"):
            return f"column '{name}' is not for callers"
        column = COLUMNS.get(name)
        accepts = _ACCEPTS[column.type] if column else _is_scalar
        if not accepts(value):
            expected = f"a {column.type}" if column else "a text, a number or a truth value"
            return f"column '{name}' is {str(value)[:60]!r}: expected {expected}"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool) or _is_text(value) or _is_number(value)


def _list_of(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(one is None or accepts(one) for one in value)


_ACCEPTS: dict[str, Callable[[Any], bool]] = {
    "text": _is_text,
    "count": _is_count,
    "number": _is_number,
    "texts": _list_of(_is_text),
    "counts": _list_of(_is_count),
    "numbers": _list_of(_is_number),
}
