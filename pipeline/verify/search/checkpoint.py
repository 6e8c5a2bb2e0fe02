"""A search that time has ended, on disk: what goes on from there needs nothing else.

The file holds what is open: the sub-problems' best bounds, the bounds of all nodes on the region being searched, its
open domains with their splits, bounds and multipliers, and the conflicts learnt. What is closed is not in it. So
whoever goes on trusts the file: that it was written by this engine for these files, which a fingerprint says (hashes of
the model, the property and the engine's source, and the seed), and that it is whole, which a checksum says. It is no
proof, and no protection against forgery.

Format: NumPy's .npz, without pickles; `header` is JSON. It is replaced in one step, so that a crash leaves the old one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.formats import streams
from secateur.formats.errors import InputError
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.root import NodeBounds
from secateur.pipeline.verify.results import LayerStability
from secateur.pipeline.verify.search.conflicts import Conflicts
from secateur.pipeline.verify.search.problem import Progress
from secateur.pipeline.verify.search.work import Left, Work
from secateur.pipeline.verify.store import Store

Arrays = dict[str, np.ndarray]


def fingerprint(model_sha256: str, property_sha256: str, seed: int) -> dict[str, str]:
    """What a state must have been written for, by the names that messages give it."""
    return {
        "model": model_sha256,
        "property": property_sha256,
        "seed": str(seed),
        "version of the engine": _engine(),
    }


@cache
def _engine() -> str:
    """A hash of the engine's source: rows of another version may mean something else."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def save(path: str, work: Work, made_for: Mapping[str, str]) -> None:
    """Write what is left of `work`.

    Raises:
        InputError: the file cannot be written.
    """
    arrays: Arrays = {"bounds": work.bounds.numpy()}
    header: dict[str, object] = {
        "fingerprint": dict(made_for),
        "seconds": work.earlier + work.seconds,
        "domains": work.domains,
        "layers": None if work.layers is None else [astuple(layer) for layer in work.layers],
    }
    left = work.left
    if left is not None:
        header |= {"region": left.region, "effort": left.effort}
        header |= _saved(left.progress, "", arrays)
        if left.progress.neurons is not None:
            header["neurons"] = _saved(left.progress.neurons, "neurons-", arrays)
        for side, name in enumerate(("lower", "upper")):
            arrays |= _numpy("node", {f"{p}/{name}": pair[side] for p, pair in left.nodes.values.items()})
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    arrays["checksum"] = np.frombuffer(_checksum(arrays), np.uint8)
    with streams.replacing(path) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def load(path: str, work: Work, made_for: Mapping[str, str], box: Box, limit: int | None) -> None:
    """Let `work` go on from the file at `path`.

    `box` (of all its regions) is shaped as the network's input and lies on the device where the search runs; `limit` is
    that of its store.

    Raises:
        InputError: no state, a damaged one, or one of another question.
    """
    arrays = _read(path)
    header = json.loads(arrays["header"].tobytes())
    differs = [name for name, value in made_for.items() if header["fingerprint"].get(name) != value]
    if differs:
        raise InputError(
            f"is the state of another search: another {', another '.join(differs)}",
            where=path,
            hint="name another file, or remove this one to begin anew",
        )
    work.bounds = torch.from_numpy(arrays["bounds"].copy())
    work.domains, work.earlier = header["domains"], header["seconds"]
    if header["layers"] is not None:
        work.layers = tuple(LayerStability(*layer) for layer in header["layers"])
    if "region" in header:
        region, device = header["region"], box.lower.device
        values = _pairs(arrays, "node", device)
        progress = _loaded(header, "", arrays, device, limit)
        if "neurons" in header:
            part = None if limit is None else limit // 2
            progress.neurons = _loaded(header["neurons"], "neurons-", arrays, device, part)
        nodes = NodeBounds(box[region : region + 1], values)
        work.left = Left(region, nodes, progress, header["effort"])


def _saved(progress: Progress, prefix: str, arrays: Arrays) -> dict[str, object]:
    """Add to `arrays`, under names that begin with `prefix`, what a search has left open; the rest is returned."""
    arrays |= _numpy(f"{prefix}store", progress.store.rows())
    arrays |= _numpy(f"{prefix}part", {f"{i}/lower": part.lower for i, part in enumerate(progress.parts)})
    arrays |= _numpy(f"{prefix}part", {f"{i}/upper": part.upper for i, part in enumerate(progress.parts)})
    for clause, conflicts in progress.conflicts.items():
        arrays |= {f"{prefix}learnt/{clause}/{name}": array for name, array in conflicts.arrays().items()}
    return {"searched": progress.domains, "undecided": progress.undecided}


def _loaded(
    header: Mapping[str, Any], prefix: str, arrays: Arrays, device: torch.device, limit: int | None
) -> Progress:
    """What `_saved` has kept."""
    progress = Progress(header["searched"], undecided=header["undecided"], store=Store(limit))
    start = f"{prefix}store/"
    rows = {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
    if rows:
        progress.store.put(**_tensors(rows, device))
    learnt = _grouped(arrays, f"{prefix}learnt")
    progress.conflicts = {clause: Conflicts.of(each) for clause, each in learnt.items()}
    parts = _pairs(arrays, f"{prefix}part", device)
    progress.parts = [Box(*parts[i]) for i in sorted(parts)]
    return progress


def _read(path: str) -> Arrays:
    damaged = InputError(
        "is no state of a search, or a damaged one", where=path, hint="remove it to begin anew"
    )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception:  # numpy and zipfile raise whatever a broken file makes them stumble over
        raise damaged from None
    checksum = arrays.pop("checksum", None)
    if checksum is None or "header" not in arrays or checksum.tobytes() != _checksum(arrays):
        raise damaged
    return arrays


def _checksum(arrays: Arrays) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _numpy(prefix: str, tensors: Mapping[str, Tensor]) -> Arrays:
    return {f"{prefix}/{name}": tensor.cpu().numpy() for name, tensor in tensors.items()}


def _tensors(arrays: Arrays, device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.copy()).to(device) for name, array in arrays.items()}


def _grouped(arrays: Arrays, prefix: str) -> dict[int, Arrays]:
    """Number → name → array, of names `prefix/number/name`."""
    groups: dict[int, Arrays] = {}
    for path, array in arrays.items():
        kind, *rest = path.split("/")
        if kind == prefix:
            groups.setdefault(int(rest[0]), {})[rest[1]] = array
    return groups


def _pairs(arrays: Arrays, prefix: str, device: torch.device) -> dict[int, tuple[Tensor, Tensor]]:
    """Position → lower and upper, of names `prefix/position/side`."""
    groups = {p: _tensors(sides, device) for p, sides in _grouped(arrays, prefix).items()}
    return {p: (sides["lower"], sides["upper"]) for p, sides in groups.items()}
