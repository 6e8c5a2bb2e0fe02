"""TorchScript archives (`torch.jit.save`).

They hold programs of a language of their own, which torch interprets without Python and which can do little but
compute; those that reach files are refused unless trusted.
"""

from __future__ import annotations

import io
import re
import zipfile
from typing import TYPE_CHECKING

from secateur.formats.errors import InputError
from secateur.pipeline.convert.sources.source import (
    NO_SHAPE,
    TRUST,
    Content,
    Format,
    Options,
    Shape,
    Source,
    line,
)

if TYPE_CHECKING:
    import torch

_REACHES_FILES = re.compile(rb"\b(save|from_file|load_tensor)\(")
_TRACED = "traced_inputs.pkl"


def read(content: Content, options: Options) -> Source:
    """The module, exported by torch's exporter for TorchScript. A traced archive tells its input's shape.

    Raises:
        InputError: a damaged archive; calls that reach files; a shape that is not known or does not fit.
        UnsupportedError: torch's ONNX exporter refuses the program.
    """
    import torch

    from secateur.pipeline.convert.sources import torch_module

    if not options.trust_pickle:
        _refuse_files(content)
    traced = _TRACED in content.entries
    try:
        module = torch.jit.load(io.BytesIO(content.data), map_location="cpu", _restore_shapes=traced).eval()
    except Exception as error:
        raise InputError(
            f"not readable TorchScript: {line(error)}", where=content.name, hint="save it again"
        ) from None
    shape = (1, *options.input_shape) if options.input_shape is not None else _traced_shape(module)
    if shape is None:
        raise InputError("the program does not tell its input's shape", where=content.name, hint=NO_SHAPE)
    return torch_module.from_script(module, content, "torchscript", shape)


FORMAT = Format("TorchScript archive", lambda content: {"constants.pkl", "data.pkl"} <= content.entries, read)


def _refuse_files(content: Content) -> None:
    archive = zipfile.ZipFile(io.BytesIO(content.data))
    for entry in archive.namelist():
        found = _REACHES_FILES.search(archive.read(entry)) if entry.endswith(".py") else None
        if found is not None:
            message = f"its program calls '{found.group(1).decode()}' in '{entry}', which may reach files"
            raise InputError(message, where=content.name, hint=TRUST)


def _traced_shape(module: torch.jit.ScriptModule) -> Shape | None:
    """The shape that the only input had when the module was traced, with a batch of one."""
    import torch

    _, *inputs = module.graph.inputs()
    kind = inputs[0].type() if len(inputs) == 1 else None
    sizes = kind.sizes() if isinstance(kind, torch.TensorType) else None
    return (1, *sizes[1:]) if sizes else None
