"""`torch.export` archives (`.pt2`)."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from secateur.formats.errors import InputError
from secateur.pipeline.convert.sources.source import TRUST, Content, Format, Options, Shape, Source, line

if TYPE_CHECKING:
    import torch

_SIGNS = {"archive_format", "serialized_exported_program.json"}


def read(content: Content, options: Options) -> Source:
    """The exported program; an archive with pickled objects inside only when trusted.

    Raises:
        InputError: a damaged archive, or a pickle in it.
        UnsupportedError: torch's ONNX exporter refuses the program.
    """
    import torch

    from secateur.pipeline.convert.sources import torch_module

    if not options.trust_pickle:
        _refuse_pickles(content)
    try:
        program = torch.export.load(io.BytesIO(content.data))
    except Exception as error:
        raise InputError(
            f"not a readable .pt2: {line(error)}", where=content.name, hint="save it again"
        ) from None
    return torch_module.from_program(program, content, "pt2", _example_shape(program))


FORMAT = Format("torch.export archive (.pt2)", lambda content: bool(_SIGNS & content.entries), read)


def _refuse_pickles(content: Content) -> None:
    """torch.export.load falls back to plain unpickling; refuse what needs that before it gets so far."""
    import torch

    archive = zipfile.ZipFile(io.BytesIO(content.data))
    suspects = {entry for entry in archive.namelist() if entry.endswith((".pt", ".pkl"))}
    for entry in archive.namelist():
        if entry.endswith("_config.json"):
            folder = str(PurePath(entry).parent)
            for payload in _payloads(archive.read(entry)):
                if payload.get("use_pickle"):
                    suspects.add(f"{folder}/{payload.get('path_name')}")
    for entry in sorted(suspects & set(archive.namelist())):
        try:
            data = archive.read(entry)
            if data:
                torch.load(io.BytesIO(data), weights_only=True)
        except Exception:
            raise InputError(f"holds a pickled object in '{entry}'", where=content.name, hint=TRUST) from None


def _payloads(config: bytes) -> list[dict[str, Any]]:
    try:
        entries = json.loads(config).get("config", {}).values()
    except (ValueError, AttributeError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)]


def _example_shape(program: torch.export.ExportedProgram) -> Shape | None:
    """The shape of the only input, if the archive holds an example."""
    import torch

    if program.example_inputs is None:
        return None
    tensors = [value for value in program.example_inputs[0] if isinstance(value, torch.Tensor)]
    return tuple(tensors[0].shape) if len(tensors) == 1 else None
