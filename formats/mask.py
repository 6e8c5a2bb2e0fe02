"""Pruning masks: boolean safetensors keyed by initializer name, with a versioned JSON header.

The file is a plain safetensors file (https://huggingface.co/docs/safetensors); its metadata entry
`secateur.mask` holds JSON: version, source model's SHA-256, criterion, granularity, sparsity overall and a tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from secateur.formats import streams
from secateur.formats.errors import InputError, UnsupportedError

METADATA_KEY = "secateur.mask"
VERSION = 1


@dataclass(frozen=True)
class Mask:
    """What a pruner keeps (True) and zeroes (False) of the initializers of the model with hash `model_sha256`."""

    tensors: Mapping[str, NDArray[np.bool_]]
    model_sha256: str
    criterion: str
    granularity: str
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def sparsity(self) -> float:
        """Share of zeroed entries over all tensors, 0 to 1 (0 when there are no entries)."""
        total = sum(tensor.size for tensor in self.tensors.values())
        kept = sum(int(np.count_nonzero(tensor)) for tensor in self.tensors.values())
        return (total - kept) / total if total else 0.0

    @property
    def sparsity_by_tensor(self) -> dict[str, float]:
        """Share of zeroed entries of each tensor, 0 to 1."""
        return {
            name: (tensor.size - int(np.count_nonzero(tensor))) / tensor.size if tensor.size else 0.0
            for name, tensor in self.tensors.items()
        }


def to_bytes(mask: Mask) -> bytes:
    """The bytes that `write` writes: the same mask gives the same bytes."""
    header = {
        "version": VERSION,
        "model_sha256": mask.model_sha256,
        "criterion": mask.criterion,
        "granularity": mask.granularity,
        "sparsity": mask.sparsity,
        "sparsity_by_tensor": mask.sparsity_by_tensor,
        "extra": dict(mask.extra),
    }
    tensors = {
        name: np.ascontiguousarray(mask.tensors[name], dtype=np.bool_) for name in sorted(mask.tensors)
    }
    # One metadata entry only: safetensors writes several in no fixed order.
    data: bytes = safetensors.numpy.save(
        tensors, {METADATA_KEY: json.dumps(header, sort_keys=True, separators=(",", ":"))}
    )
    return data


def from_bytes(data: bytes, name: str) -> Mask:
    """As `read`, of bytes in memory; `name` is what messages call them."""
    try:
        tensors = dict(sorted(safetensors.numpy.load(data).items()))  # it loads in no fixed order
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"not a mask: {error}", where=name, hint="expected a safetensors file") from None
    header = _header(data, name)
    extra = header.get("extra", {})
    if not isinstance(extra, dict):
        raise InputError(f"not a mask: 'extra' of '{METADATA_KEY}' is no object", where=name)
    for tensor, values in tensors.items():
        if values.dtype != np.bool_:
            raise InputError(f"not a mask: tensor '{tensor}' is {values.dtype}, expected bool", where=name)
    return Mask(
        tensors,
        _entry(header, "model_sha256", name),
        _entry(header, "criterion", name),
        _entry(header, "granularity", name),
        {str(key): str(value) for key, value in extra.items()},
    )


def is_mask(data: bytes) -> bool:
    """Whether the bytes look like a safetensors file: 8 bytes of length, then JSON of that length."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8


def read(source: str) -> Mask:
    """Read the mask at `source` (path or `-`; gzip understood).

    Raises:
        InputError: not a safetensors file of booleans with our header.
        UnsupportedError: a later version of the header.
    """
    return from_bytes(streams.read_bytes(source), streams.display_name(source))


def write(mask: Mask, destination: str) -> None:
    """Write `mask` to a path (atomically; `.gz` compresses) or to standard output (`-`)."""
    streams.write_bytes(destination, to_bytes(mask))


def _header(data: bytes, name: str) -> dict[str, object]:
    """Our JSON out of the safetensors header: 8 bytes of length, then JSON with `__metadata__`."""
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    if METADATA_KEY not in metadata:
        raise InputError(
            f"not a mask: the safetensors header has no '{METADATA_KEY}'",
            where=name,
            hint="secateur prune --mask-out writes masks",
        )
    try:
        header = json.loads(metadata[METADATA_KEY])
    except ValueError as error:
        raise InputError(f"not a mask: '{METADATA_KEY}' is not JSON: {error}", where=name) from None
    if not isinstance(header, dict):
        raise InputError(f"not a mask: '{METADATA_KEY}' is malformed", where=name)
    if header.get("version") != VERSION:
        raise UnsupportedError(f"mask of version {header.get('version')}: expected {VERSION}", where=name)
    return header


def _entry(header: dict[str, object], key: str, name: str) -> str:
    value = header.get(key)
    if not isinstance(value, str):
        raise InputError(f"not a mask: '{METADATA_KEY}' has no '{key}'", where=name)
    return value
