"""ONNX models as files and streams: read, check, hash, write, and say where a model came from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from secateur.formats import onnx_external, onnx_parts, onnx_sparse, onnx_wire, streams
from secateur.formats.errors import InputError
from secateur.formats.onnx_parts import Array, Arrays

PROVENANCE_KEY = "secateur.provenance"


@dataclass(frozen=True)
class Model:
    """An ONNX model as read, the SHA-256 of its (uncompressed) bytes, those in other files included, and a name for
    messages.

    `light` may have large initializers without their values: these are `weights`, by name, and may be made whenever
    they are asked for (see `onnx_parts`). `proto` is the whole model, put together on first use; who wants little
    memory does without it.
    """

    light: onnx.ModelProto
    sha256: str
    name: str
    weights: Arrays = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def proto(self) -> onnx.ModelProto:
        return onnx_parts.whole(self.light, self.weights) if self.weights else self.light

    @property
    def graph(self) -> onnx.GraphProto:
        return self.proto.graph

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The graph's real inputs: those that are not also initializers (old files list both)."""
        constants = {tensor.name for tensor in self.light.graph.initializer}
        return [value for value in self.light.graph.input if value.name not in constants]


def read(source: str) -> Model:
    """Read and check the model at `source` (path or `-`; gzip understood). Sparse initializers are made dense, data in
    files beside it (never beside a stream) are read. The weights of a large model stay in the file, which is kept open.

    Raises:
        InputError: missing, truncated or invalid ONNX; NaN or infinite weights; data that are not where it says.
    """
    name, folder = streams.display_name(source), streams.folder(source)
    with streams.opened(source) as file:
        large = file.seek(0, os.SEEK_END) >= onnx_parts.LARGE
        file.seek(0)
        if large:
            try:
                light, weights = onnx_wire.split(file, name)
            except ValueError:  # as a whole it is told what is wrong
                pass
            else:
                file.seek(0)
                return _checked(light, weights, hashlib.file_digest(file, "sha256"), name, folder)
            file.seek(0)
        return from_bytes(file.read(), name, folder)


def from_bytes(data: bytes, name: str, folder: Path | None = None) -> Model:
    """As `read`, of bytes in memory that come from `folder`."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:
        raise InputError(f"not an ONNX model: {error}", where=name, hint="export or copy it again") from None
    digest = hashlib.sha256(data)
    del data  # unless the caller holds it, the rest needs its memory
    return _checked(proto, {}, digest, name, folder)


def _checked(
    proto: onnx.ModelProto, weights: Arrays, digest: hashlib._Hash, name: str, folder: Path | None
) -> Model:
    if not proto.graph.node and not proto.graph.output:
        raise InputError("not an ONNX model: it has no graph", where=name, hint="export or copy it again")
    onnx_external.load(proto, folder, name, digest.update)
    try:
        onnx_parts.check(proto, weights)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"invalid ONNX: {reason}", where=name, hint="export it again") from None
    onnx_sparse.densify(proto, name)
    for tensor in proto.graph.initializer:
        if tensor.data_type in onnx_parts.DTYPES:
            array = weights[tensor.name] if tensor.name in weights else _array(tensor, name)
            if not np.isfinite(array).all():
                bad = "NaN" if np.isnan(array).any() else "infinite"
                raise InputError(
                    f"initializer '{tensor.name}' has {bad} weights: expected finite numbers",
                    where=name,
                    hint="train or export it again",
                )
    return Model(proto, digest.hexdigest(), name, weights)


def _array(tensor: onnx.TensorProto, where: str) -> Array:
    try:
        array: Array = numpy_helper.to_array(tensor)
        return array
    except ValueError as error:  # more data than the shape has room for, which the checker lets pass
        message = f"invalid ONNX: initializer '{tensor.name}': {error}"
        raise InputError(message, where=where, hint="export it again") from None


def from_proto(proto: onnx.ModelProto, name: str = "model") -> Model:
    """A model in memory, hashed as it would be written."""
    return hashed(Model(proto, "", name))


def hashed(model: Model) -> Model:
    """The model with the hash that it has when it is written."""
    digest = hashlib.sha256()
    for piece in onnx_parts.pieces(model.light, model.weights):
        digest.update(piece)
    return replace(model, sha256=digest.hexdigest())


def to_bytes(model: Model | onnx.ModelProto) -> bytes:
    """The bytes that `write` writes: the same model gives the same bytes."""
    return b"".join(onnx_parts.pieces(*in_parts(model)))


def write(model: Model | onnx.ModelProto, destination: str) -> None:
    """Check and write a model to a path (atomically; `.gz` compresses) or to standard output (`-`). One that is too
    large for one file gets a second one for its weights (see `onnx_external.write`)."""
    proto, weights = in_parts(model)
    onnx_parts.check(proto, weights)
    if onnx_external.needed(proto, weights):
        onnx_external.write(proto, weights, destination)
        return
    streams.write_pieces(destination, onnx_parts.pieces(proto, weights))


def in_parts(model: Model | onnx.ModelProto) -> tuple[onnx.ModelProto, Arrays]:
    """A model's proto, and the values of those of its initializers that lie apart from it."""
    return (model.light, model.weights) if isinstance(model, Model) else (model, {})


def values(model: Model | onnx.ModelProto) -> Arrays:
    """All initializers by name, as (read-only) arrays, made anew whenever one is asked for."""
    return onnx_parts.values(*in_parts(model))


def initializers(model: Model | onnx.ModelProto) -> dict[str, Array]:
    """All initializers by name, as (read-only) arrays."""
    return dict(values(model))


def set_initializer(proto: onnx.ModelProto, name: str, array: Array) -> None:
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
