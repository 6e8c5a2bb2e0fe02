"""Witnesses in the text of VNN-COMP: `((X_0 0.5) (X_1 0.25) (Y_0 1.0))`, one pair a line."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from secateur.formats import streams
from secateur.formats.errors import InputError

_PAIR = re.compile(r"\(\s*([XY])_(\d+)\s+([^\s()]+)\s*\)")
_WHOLE = re.compile(r"\s*(?:sat\b\s*)?\(((?:\s|\([^()]*\))*)\)\s*")


def write(x: Iterable[float], y: Iterable[float], destination: str) -> None:
    """Write inputs `x` and outputs `y` (flat) to a path (atomically) or to standard output (`-`).

    Each value is printed as the shortest decimal of its float64, which gives a float32 back exactly.

    Raises:
        InputError: the destination cannot be written.
    """
    streams.write_bytes(destination, pairs_text(x, y).encode())


def pairs_text(x: Iterable[float], y: Iterable[float]) -> str:
    """The text that `write` writes."""
    pairs = [f"(X_{index} {float(value)!r})" for index, value in enumerate(x)]
    pairs += [f"(Y_{index} {float(value)!r})" for index, value in enumerate(y)]
    return f"({chr(10).join(pairs)})\n"


def read(source: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Inputs [n_in] and outputs [n_out] of the witness at `source` (path or `-`).

    The outputs may be missing (they are recomputed by whoever judges); a first line `sat`, as in the result
    files of VNN-COMP, is skipped.

    Raises:
        InputError: no witness in it, a gap or repetition in the numbering, a value that is no finite number.
    """
    name = streams.display_name(source)
    text = streams.read_bytes(source).decode("utf-8", errors="replace")
    whole = _WHOLE.fullmatch(text)
    if whole is None:
        raise InputError("not a witness: expected ((X_0 value) … (Y_0 value) …)", where=name)
    pairs = _PAIR.findall(whole[1])
    if len(pairs) != whole[1].count("("):
        raise InputError("not a witness: expected pairs such as (X_0 0.5)", where=name)
    return _values("X", pairs, name, required=True), _values("Y", pairs, name, required=False)


def _values(
    letter: str, pairs: list[tuple[str, str, str]], name: str, *, required: bool
) -> NDArray[np.float64]:
    values: dict[int, float] = {}
    for kind, index, word in pairs:
        if kind != letter:
            continue
        try:
            value = float(word)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise InputError(f"{letter}_{index} is '{word[:40]}': expected a finite number", where=name)
        if int(index) in values:
            raise InputError(f"{letter}_{index} has two values", where=name)
        values[int(index)] = value
    missing = next((index for index in range(len(values)) if index not in values), None)
    if missing is not None or (required and not values):
        raise InputError(f"{letter}_{missing or 0} has no value", where=name)
    return np.array([values[index] for index in range(len(values))], dtype=np.float64)
