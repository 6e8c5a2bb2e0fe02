"""`instances.csv` of VNN-COMP: `onnx,vnnlib,timeout` a line, no header, paths relative to the file's folder.

With several networks the first field is a list of pairs: `"[('f','onnx/a.onnx'),('g','onnx/b.onnx')]"`.
"""

from __future__ import annotations

import ast
import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from secateur.formats import streams
from secateur.formats.errors import InputError


@dataclass(frozen=True)
class Instance:
    """One line: model and property as the file names them, and seconds.

    `networks` holds (name, model) pairs when the property is about several networks; `onnx` is then the first.
    """

    onnx: str
    vnnlib: str
    timeout: float
    networks: tuple[tuple[str, str], ...] = ()


def read(source: str) -> list[Instance]:
    """The instances listed at `source` (path or `-`), in order; blank lines are skipped.

    Raises:
        InputError: missing, empty or malformed file; names the line.
    """
    name = streams.display_name(source)
    try:
        text = streams.read_bytes(source).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("not text: expected onnx,vnnlib,timeout a line", where=name) from None
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    found = []
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                found.append(_instance([field.strip() for field in fields], f"{name}:{reader.line_num}"))
    except csv.Error as error:
        raise InputError(f"not CSV: {error}", where=f"{name}:{reader.line_num}") from None
    if not found:
        raise InputError("lists no instance: expected onnx,vnnlib,timeout a line", where=name)
    return found


def write(instances: Iterable[Instance], destination: str) -> None:
    """Write `instances.csv` (atomically) to a path, or to standard output (`-`)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for instance in instances:
        pairs = ",".join(f"({network!r},{onnx!r})" for network, onnx in instance.networks)
        onnx = f"[{pairs}]" if pairs else instance.onnx
        writer.writerow([onnx, instance.vnnlib, f"{instance.timeout:.15g}"])
    streams.write_bytes(destination, stream.getvalue().encode())


def resolve(csv_path: str, name: str) -> str:
    """Where the file lies that `csv_path` calls `name`: in its folder, possibly with `.gz`.

    A file that is missing either way is returned as named, so that its reader says so.
    """
    folder = Path() if csv_path == streams.STREAM else Path(csv_path).parent
    path = folder / name
    compressed = path.with_name(path.name + ".gz")
    return str(compressed if compressed.exists() and not path.exists() else path)


def _instance(fields: list[str], where: str) -> Instance:
    if len(fields) != 3:
        raise InputError(f"expected 3 fields (onnx,vnnlib,timeout), found {len(fields)}", where=where)
    onnx, vnnlib, limit = fields
    try:
        timeout = float(limit)
    except ValueError:
        timeout = math.nan
    if not (math.isfinite(timeout) and timeout > 0):
        raise InputError(f"expected a timeout in seconds, found '{limit}'", where=where)
    if not onnx or not vnnlib:
        raise InputError("a model and a property must be named", where=where)
    pairs = networks(onnx, where) if onnx.startswith("[") else ()
    return Instance(pairs[0][1] if pairs else onnx, vnnlib, timeout, pairs)


def networks(field: str, where: str) -> tuple[tuple[str, str], ...]:
    """The (name, model) pairs of a field `[('f','onnx/a.onnx'),…]`; `where` names its place for messages.

    Raises:
        InputError: it is something else.
    """
    try:
        pairs = tuple((name, onnx) for name, onnx in ast.literal_eval(field))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pairs = ()
    if not pairs or not all(isinstance(part, str) and part for pair in pairs for part in pair):
        raise InputError(f"expected [('name','file.onnx'),…], found '{field[:60]}'", where=where)
    return pairs
