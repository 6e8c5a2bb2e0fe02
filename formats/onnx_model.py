"""ONNX models as files and streams: read, check, hash, write, and say where a model came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from secateur.formats import onnx_external, onnx_parts, onnx_sparse, streams
from secateur.formats.errors import InputError

PROVENANCE_KEY = "secateur.provenance"


@dataclass(frozen=True)
class Model:
    """An ONNX model as read: its proto, the SHA-256 of its (uncompressed) bytes, those in other files included, and a
    name for messages."""

    proto: onnx.ModelProto
    sha256: str
    name: str

    @property
    def graph(self) -> onnx.GraphProto:
        return self.proto.graph

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The graph's real inputs: those that are not also initializers (old files list both)."""
        constants = {tensor.name for tensor in self.graph.initializer}
        return [value for value in self.graph.input if value.name not in constants]


def read(source: str) -> Model:
    """Read and check the model at `source` (path or `-`; gzip understood). Sparse initializers are made dense, data in
    files beside it (never beside a stream) are read.

    Raises:
        InputError: missing, truncated or invalid ONNX; NaN or infinite weights; data that are not where it says.
    """
    return from_bytes(streams.read_bytes(source), streams.display_name(source), streams.folder(source))


def from_bytes(data: bytes, name: str, folder: Path | None = None) -> Model:
    """As `read`, of bytes in memory that come from `folder`."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:
        raise InputError(f"not an ONNX model: {error}", where=name, hint="export or copy it again") from None
    digest = hashlib.sha256(data)
    del data  # unless the caller holds it, the rest needs its memory
    if not proto.graph.node and not proto.graph.output:
        raise InputError("not an ONNX model: it has no graph", where=name, hint="export or copy it again")
    onnx_external.load(proto, folder, name, digest.update)
    try:
        onnx_parts.check(proto)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"invalid ONNX: {reason}", where=name, hint="export it again") from None
    onnx_sparse.densify(proto, name)
    for tensor in proto.graph.initializer:
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):
            array = _array(tensor, name)
            if not np.isfinite(array).all():
                bad = "NaN" if np.isnan(array).any() else "infinite"
                raise InputError(
                    f"initializer '{tensor.name}' has {bad} weights: expected finite numbers",
                    where=name,
                    hint="train or export it again",
                )
    return Model(proto, digest.hexdigest(), name)


def _array(tensor: onnx.TensorProto, where: str) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = numpy_helper.to_array(tensor)
        return array
    except ValueError as error:  # more data than the shape has room for, which the checker lets pass
        message = f"invalid ONNX: initializer '{tensor.name}': {error}"
        raise InputError(message, where=where, hint="export it again") from None


def from_proto(proto: onnx.ModelProto, name: str = "model") -> Model:
    """A model in memory, hashed as it would be written."""
    digest = hashlib.sha256()
    for piece in onnx_parts.pieces(proto):
        digest.update(piece)
    return Model(proto, digest.hexdigest(), name)


def to_bytes(proto: onnx.ModelProto) -> bytes:
    """The bytes that `write` writes: the same model gives the same bytes."""
    return b"".join(onnx_parts.pieces(proto))


def write(model: Model | onnx.ModelProto, destination: str) -> None:
    """Check and write a model to a path (atomically; `.gz` compresses) or to standard output (`-`). One that is too
    large for one file gets a second one for its weights (see `onnx_external.write`)."""
    proto = model.proto if isinstance(model, Model) else model
    onnx_parts.check(proto)
    if onnx_external.needed(proto):
        onnx_external.write(proto, destination)
        return
    streams.write_pieces(destination, onnx_parts.pieces(proto))


def initializers(proto: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """All initializers by name, as (read-only) numpy arrays."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def set_initializer(proto: onnx.ModelProto, name: str, array: NDArray[np.generic]) -> None:
    """Replace the values (and the shape) of the initializer `name`, keeping its place and name."""
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
            return
    raise KeyError(name)


def tool_version() -> str:
    try:
        return version("secateur")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0"


def add_provenance(
    proto: onnx.ModelProto, command: str, arguments: Mapping[str, object], source_sha256: str | None = None
) -> None:
    """Append one step to the model's history in `metadata_props`.

    The step holds the command, the tool's version, the arguments (paths must be left out by the caller, so that
    a pipe and files give the same bytes) and the hash of the model it started from.
    """
    step: dict[str, object] = {"command": command, "version": tool_version(), "arguments": dict(arguments)}
    if source_sha256 is not None:
        step["source_sha256"] = source_sha256
    history = [*provenance(proto), step]
    text = json.dumps(history, sort_keys=True, separators=(",", ":"))
    for entry in proto.metadata_props:
        if entry.key == PROVENANCE_KEY:
            entry.value = text
            return
    proto.metadata_props.add(key=PROVENANCE_KEY, value=text)


def provenance(proto: onnx.ModelProto) -> list[dict[str, object]]:
    """The model's history, oldest step first; empty when it has none (or one that is not ours to read)."""
    for entry in proto.metadata_props:
        if entry.key == PROVENANCE_KEY:
            try:
                history = json.loads(entry.value)
            except json.JSONDecodeError:
                return []
            return history if isinstance(history, list) else []
    return []
