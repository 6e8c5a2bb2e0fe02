"""Certificates of `unsat`: what it takes to prove again, step by step, that no input satisfies a property.

Format: NumPy's .npz, without pickles. `header` is JSON: the format's name and version, the SHA-256 of the model and of
the property, and the number of regions. A region without clauses has no arrays; region r (from 0, in the order of the
query's normal form) has, under `r/`, with U slopes in all, T boxes, L leaves and K splits in all:

* `columns` (U,): flat positions of the neurons that have slopes and may be split, ReLU by ReLU in the order of the
  file, ascending; `counts` (ReLUs,): how many of each ReLU.
* `bounded/k` (m,), `slopes/k` (2, m, V), for some ReLUs k (from 0): the flat positions of neurons whose bounds are
  found by substitution with these slopes, in 255ths, of the V neurons in `columns` before ReLU k; first the lower
  bounds', then the upper's. Bounds by intervals and with CROWN's slopes come before, and need nothing in the file.
* `parent`, `axis` (T,), `cut` (T,): the boxes into which the input box is cut, the whole one first, parents before
  their parts: `axis` is the input across which a box is cut at `cut`, or -1; its lower part comes before its upper.
* `box`, `clause` (L,): where each leaf is, and the clause that it refutes; `alpha` (L, U): slopes, in 65535ths;
  `weights` (L, S): those of the clause's rows (its own, then the region's input relations).
* `first` (L + 1,): leaf i's splits are numbers first[i] to first[i + 1] of `neuron` (K,) (in `columns`), `sign` (K,)
  and `beta` (K,), their dual variables.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from secateur.formats import streams
from secateur.formats.errors import InputError

FORMAT, VERSION = "secateur certificate", 1

SLOPES, ALPHA = 255, 65535
"""Slopes of neurons' bounds, and those of leaves, are multiples of one over these."""

Array = NDArray[Any]

TYPES = {
    "columns": ("i", 1),
    "counts": ("i", 1),
    "parent": ("i", 1),
    "axis": ("i", 1),
    "cut": ("f", 1),
    "box": ("i", 1),
    "clause": ("i", 1),
    "alpha": ("u2", 2),
    "weights": ("f", 2),
    "first": ("i", 1),
    "neuron": ("i", 1),
    "sign": ("i1", 1),
    "beta": ("f", 1),
}
"""The arrays of a region: kind and number of dimensions."""


@dataclass(frozen=True)
class RegionProof:
    """The proof of one region; fields as the arrays of the module's docstring, `slopes` by ReLU (neurons, slopes)."""

    columns: tuple[Array, ...]
    slopes: dict[int, tuple[Array, Array]]
    parent: Array
    axis: Array
    cut: Array
    box: Array
    clause: Array
    alpha: Array
    weights: Array
    first: Array
    neuron: Array
    sign: Array
    beta: Array


@dataclass(frozen=True)
class Certificate:
    """`regions`: None for those that have no clauses."""

    model_sha256: str
    property_sha256: str
    regions: tuple[RegionProof | None, ...]


def to_bytes(certificate: Certificate) -> bytes:
    """The file's bytes: the same certificate gives the same."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "model_sha256": certificate.model_sha256,
        "property_sha256": certificate.property_sha256,
        "regions": len(certificate.regions),
    }
    arrays: dict[str, Array] = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    for r, proof in enumerate(certificate.regions):
        if proof is None:
            continue
        counts = [len(each) for each in proof.columns]
        arrays[f"{r}/counts"] = np.array(counts, np.int64)
        arrays[f"{r}/columns"] = np.concatenate([*proof.columns, np.zeros(0, np.int64)])
        for name in TYPES:
            if name not in ("counts", "columns"):
                arrays[f"{r}/{name}"] = getattr(proof, name)
        for k, (neurons, slopes) in proof.slopes.items():
            arrays[f"{r}/bounded/{k}"], arrays[f"{r}/slopes/{k}"] = neurons, slopes
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def write(certificate: Certificate, path: str) -> None:
    """Write a certificate, in one step.

    Raises:
        InputError: the file cannot be written.
    """
    streams.write_bytes(path, to_bytes(certificate))


def read(path: str) -> Certificate:
    """Read a certificate. What its numbers claim is not looked at, only that they have the form of a proof.

    Raises:
        InputError: a missing or damaged file, or no certificate; another version of the format.
    """
    with streams.opened(path) as stream:
        return from_stream(stream, streams.display_name(path))


def from_stream(stream: BinaryIO, path: str) -> Certificate:
    """As `read`, of an open file, which messages call `path`."""
    arrays = _arrays(stream, path)
    try:
        header = json.loads(arrays["header"].tobytes())
        kind, version, count = header["format"], header["version"], header["regions"]
        hashes = str(header["model_sha256"]), str(header["property_sha256"])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            "is no certificate", where=path, hint="secateur verify --certificate writes one"
        ) from None
    if (kind, version) != (FORMAT, VERSION):
        raise InputError(
            f"expected '{FORMAT}' of version {VERSION}, found '{kind}' of version {version}", where=path
        )
    if not isinstance(count, int) or not 0 <= count <= 1_000_000:
        raise InputError(f"expected a number of regions, found {count!r}", where=path)
    return Certificate(*hashes, tuple(_region(arrays, r, path) for r in range(count)))


def _arrays(stream: BinaryIO, path: str) -> dict[str, Array]:
    try:
        file = np.load(stream, allow_pickle=False)
        return {name: file[name] for name in file.files}
    except Exception:  # numpy and zipfile raise whatever a broken file makes them stumble over
        raise InputError(
            "is no certificate, or a damaged one", where=path, hint="secateur verify --certificate writes one"
        ) from None


def _region(arrays: dict[str, Array], r: int, path: str) -> RegionProof | None:
    if f"{r}/counts" not in arrays:
        return None
    given: dict[str, Array] = {}
    for name, (kind, dimensions) in TYPES.items():
        array = arrays.get(f"{r}/{name}")
        if array is None:
            raise InputError(f"region {r}: '{name}' is missing", where=path)
        if array.dtype.str[1:][: len(kind)] != kind or array.ndim != dimensions:
            found = f"{array.dtype} in {array.ndim} dimensions"
            raise InputError(f"region {r}: '{name}' has another type than it should: {found}", where=path)
        given[name] = array
    counts, columns = given.pop("counts"), given.pop("columns")
    leaves, splits, boxes, width = len(given["box"]), len(given["neuron"]), len(given["axis"]), len(columns)
    fits = (
        (counts >= 0).all() and counts.sum() == width,
        all(len(given[name]) == boxes for name in ("parent", "cut")) and boxes > 0,
        all(len(given[name]) == leaves for name in ("clause", "alpha", "weights")),
        given["alpha"].shape[1] == width,
        all(len(given[name]) == splits for name in ("sign", "beta")),
        len(given["first"]) == leaves + 1 and given["first"][0] == 0 and given["first"][-1] == splits,
    )
    if not all(fits) or (np.diff(given["first"]) < 0).any():
        raise InputError(f"region {r}: its arrays do not fit each other", where=path)
    slopes = {}
    for k in range(len(counts)):
        neurons, values = arrays.get(f"{r}/bounded/{k}"), arrays.get(f"{r}/slopes/{k}")
        if neurons is None or values is None:
            continue
        if (
            values.dtype != np.uint8
            or values.shape != (2, len(neurons), counts[:k].sum())
            or neurons.ndim != 1
        ):
            raise InputError(
                f"region {r}: the slopes for ReLU {k} have another shape than they should", where=path
            )
        slopes[k] = (neurons.astype(np.int64), values)
    split = np.split(columns.astype(np.int64), np.cumsum(counts)[:-1]) if len(counts) else []
    return RegionProof(tuple(split), slopes, **given)
