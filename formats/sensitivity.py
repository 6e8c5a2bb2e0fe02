"""Records of a sensitivity sweep: JSON lines, one for each layer and sparsity that was tried."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from secateur.formats import streams
from secateur.formats.errors import InputError


@dataclass(frozen=True)
class Settings:
    """What was measured, and on what: the same for all points of one curve.

    `images` of the data set `data` were classified; `unstable` neurons were counted within `epsilon` (on raw pixels) of
    `bounded` of them by the method `bounds`, or not at all (None).
    """

    model_sha256: str
    criterion: str
    granularity: str
    data: str
    images: int
    seed: int = 0
    epsilon: float | None = None
    bounded: int = 0
    bounds: str = ""


@dataclass(frozen=True)
class Point:
    """A model of which only `layer` was pruned (None: the model as it is). `pruned` of its `units` went; `accuracy` is
    the share of images classified right, `unstable` the mean number of unstable neurons of an image, of `neurons`."""

    settings: Settings
    layer: str | None
    sparsity: float
    units: int
    pruned: int
    accuracy: float
    unstable: float | None = None
    neurons: int | None = None


def read(source: str) -> list[Point]:
    """The points at `source` (a path, or `-`).

    Raises:
        InputError: no such file, or a line that is no point; names it.
    """
    name = streams.display_name(source)
    text = streams.read_bytes(source).decode("utf-8", errors="replace")
    lines = enumerate(text.splitlines(), 1)
    return [_point(line, f"{name}:{number}") for number, line in lines if line.strip()]


def write(points: Sequence[Point], destination: str) -> None:
    """Write all points, atomically: a sweep that is stopped leaves whole lines."""
    lines = [json.dumps(asdict(point), sort_keys=True, allow_nan=False) + "\n" for point in points]
    streams.write_bytes(destination, "".join(lines).encode())


def resume(destination: str) -> list[Point]:
    """The points that are at the path already; none where there is no file.

    Raises:
        InputError: it cannot be written, or is another file.
    """
    streams.check_destination(destination)
    path = Path(destination)
    return read(destination) if path.exists() and path.stat().st_size else []


def _point(line: str, where: str) -> Point:
    try:
        values: Any = json.loads(line)
        settings = Settings(**_checked(values.pop("settings"), Settings))
        return Point(settings, **_checked(values, Point))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(
            "not a point of a sensitivity sweep", where=where, hint="see `secateur sensitivity`"
        ) from None


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "None": (type(None),),
}


def _checked(values: dict[str, Any], kind: type[Settings] | type[Point]) -> dict[str, Any]:
    """The values, of the types that the fields have."""
    for entry in fields(kind):
        if entry.name != "settings":
            allowed = [_TYPES[name] for name in str(entry.type).split(" | ")]
            if not any(isinstance(values[entry.name], types) for types in allowed):
                raise TypeError(entry.name)
    return values
