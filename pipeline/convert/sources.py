"""Reading what is to be converted: ONNX, `torch.export` archives (`.pt2`), pickled modules.

What a file is, is told by its bytes. A pickle runs code when it is loaded, so pickled modules (and archives with
pickled objects inside) are read only when trusted. Module `torch` is imported only for torch files.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from secateur.formats import onnx_model, streams
from secateur.formats.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    import torch

Array = NDArray[np.generic]
_OPSET = 18  # what torch's exporter is written in; it converts to others afterwards
_TRUST = "--trust-pickle loads it, if you trust where it comes from"


@dataclass(frozen=True)
class Source:
    """A model as it came: its ONNX form, its kind, and the torch function [N, inputs] -> [N, outputs] it must
    agree with (None for ONNX)."""

    proto: onnx.ModelProto
    sha256: str
    kind: str
    function: Callable[[Array], Array] | None = None


def read(source: str, *, trust_pickle: bool = False, input_shape: tuple[int, ...] | None = None) -> Source:
    """Read a path or `-`. `input_shape` (without batch) is what a pickled module does not tell.

    Raises:
        InputError: missing or malformed files; a pickle that is not trusted or holds no module; no input shape.
        UnsupportedError: TorchScript, or a module that torch cannot export.
    """
    name = streams.display_name(source)
    data = streams.read_bytes(source)
    sha256 = hashlib.sha256(data).hexdigest()
    kind = _kind(data, name)
    if kind == "onnx":
        model = onnx_model.from_bytes(data, name)
        return Source(model.proto, model.sha256, kind)
    with _quiet():
        if kind == "pt2":
            if not trust_pickle:
                _refuse_pickles(data, name)
            program = _load_program(data, name)
            shape = _example_shape(program)
        else:
            if not trust_pickle:
                raise InputError("it is a pickle, which runs code when loaded", where=name, hint=_TRUST)
            if input_shape is None:
                raise InputError(
                    "a pickled module does not tell its input's shape",
                    where=name,
                    hint="say --input-shape 1,28,28: without the batch",
                )
            program = _export_module(_load_pickle(data, name), input_shape, name)
            shape = (1, *input_shape)
        proto = _to_onnx(program, name)
    return Source(proto, sha256, kind, _function(program, shape))


def _kind(data: bytes, name: str) -> str:
    if data[:2] == b"PK":
        try:
            names = {PurePath(entry).name for entry in zipfile.ZipFile(io.BytesIO(data)).namelist()}
        except zipfile.BadZipFile as error:
            raise InputError(f"damaged archive: {error}", where=name, hint="save it again") from None
        if "constants.pkl" in names:
            raise UnsupportedError("TorchScript", where=name, hint="save it with torch.export.save")
        if "data.pkl" in names:
            return "pickle"
        if "archive_format" in names or "serialized_exported_program.json" in names:
            return "pt2"
        raise InputError("a zip archive, but neither .pt2 nor a torch pickle", where=name)
    return "pickle" if data[:1] == b"\x80" else "onnx"


def _refuse_pickles(data: bytes, name: str) -> None:
    """torch.export.load falls back to plain unpickling; refuse what needs that before it gets so far."""
    import torch

    archive = zipfile.ZipFile(io.BytesIO(data))
    suspects = {entry for entry in archive.namelist() if entry.endswith((".pt", ".pkl"))}
    for entry in archive.namelist():
        if entry.endswith("_config.json"):
            folder = str(PurePath(entry).parent)
            for payload in _payloads(archive.read(entry)):
                if payload.get("use_pickle"):
                    suspects.add(f"{folder}/{payload.get('path_name')}")
    for entry in sorted(suspects & set(archive.namelist())):
        try:
            content = archive.read(entry)
            if content:
                torch.load(io.BytesIO(content), weights_only=True)
        except Exception:
            raise InputError(f"holds a pickled object in '{entry}'", where=name, hint=_TRUST) from None


def _payloads(config: bytes) -> list[dict[str, Any]]:
    try:
        entries = json.loads(config).get("config", {}).values()
    except (ValueError, AttributeError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)]


def _load_program(data: bytes, name: str) -> torch.export.ExportedProgram:
    import torch

    try:
        return torch.export.load(io.BytesIO(data))
    except Exception as error:
        raise InputError(f"not a readable .pt2: {_line(error)}", where=name, hint="save it again") from None


def _load_pickle(data: bytes, name: str) -> torch.nn.Module:
    import torch

    try:
        module = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    except Exception as error:
        raise InputError(f"cannot be unpickled: {_line(error)}", where=name, hint="save it again") from None
    if not isinstance(module, torch.nn.Module):
        hint = "a state_dict has no architecture: save the module, or torch.export.save it"
        raise InputError(
            f"expected a pickled nn.Module, found {type(module).__name__}", where=name, hint=hint
        )
    return module.eval()


def _export_module(
    module: torch.nn.Module, shape: tuple[int, ...], name: str
) -> torch.export.ExportedProgram:
    """Exported with a dynamic batch where torch can, otherwise with a batch of one."""
    import torch

    batch = {0: torch.export.Dim("batch")}
    try:
        module(torch.zeros(1, *shape))
    except Exception as error:
        raise InputError(
            f"the module does not take inputs of shape {shape}: {_line(error)}",
            where=name,
            hint="set --input-shape",
        ) from None
    try:
        return torch.export.export(module, (torch.zeros(2, *shape),), dynamic_shapes=(batch,))
    except Exception:
        try:
            return torch.export.export(module, (torch.zeros(1, *shape),))
        except Exception as error:
            raise UnsupportedError(f"torch cannot export it: {_line(error)}", where=name) from None


def _example_shape(program: torch.export.ExportedProgram) -> tuple[int, ...] | None:
    """The shape of the only input, if the archive holds an example."""
    import torch

    if program.example_inputs is None:
        return None
    tensors = [value for value in program.example_inputs[0] if isinstance(value, torch.Tensor)]
    return tuple(tensors[0].shape) if len(tensors) == 1 else None


def _to_onnx(program: torch.export.ExportedProgram, name: str) -> onnx.ModelProto:
    import torch

    try:
        # unoptimised, since torch's optimiser folds BatchNormalization unasked
        exported = torch.onnx.export(
            program, dynamo=True, optimize=False, verbose=False, opset_version=_OPSET, external_data=False
        )
    except Exception as error:
        raise UnsupportedError(f"torch cannot export it to ONNX: {_line(error)}", where=name) from None
    if exported is None:
        raise UnsupportedError("torch exported nothing", where=name)
    return _without_traces(exported.model_proto)


def _without_traces(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes: they hold stack traces with paths of the machine."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    for part in [graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:], copy.metadata_props[:]
    return copy


def _function(
    program: torch.export.ExportedProgram, shape: tuple[int, ...] | None
) -> Callable[[Array], Array] | None:
    """The program as a function of flat rows; a batch fixed by the program is one row."""
    import torch

    if shape is None:
        return None
    module = program.module()
    fixed = isinstance(_first_dimension(program), int)

    def function(rows: Array) -> Array:
        x = torch.from_numpy(np.ascontiguousarray(rows, np.float32))
        with torch.no_grad():
            if fixed:
                outputs = [module(row.reshape(shape)) for row in x]
            else:
                outputs = [module(x.reshape(len(x), *shape[1:]))]
        count = 1 if fixed else len(x)
        tensors = [out if isinstance(out, (tuple, list)) else (out,) for out in outputs]
        joined = [torch.cat([part.reshape(count, -1) for part in group], dim=1) for group in tensors]
        return np.asarray(torch.cat(joined).numpy())

    return function


def _first_dimension(program: torch.export.ExportedProgram) -> object:
    inputs = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in inputs:
            size = node.meta["val"].shape
            return size[0] if len(size) else 1
    return 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter logs and prints advice to developers; a command's output streams are not for that."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
