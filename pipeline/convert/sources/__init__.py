"""Reading what is to be converted. What a file is, is told by its bytes, and by its suffix where they say nothing.

A pickle runs code when it is loaded, so pickles are read only when trusted. torch and the other packages are imported
only for files of theirs.
"""

from __future__ import annotations

from secateur.formats import streams
from secateur.formats.errors import InputError
from secateur.pipeline.convert.sources import (
    keras,
    nnet,
    onnx_file,
    pickled,
    pt2,
    scikit,
    torchscript,
    weights,
)
from secateur.pipeline.convert.sources.source import UNTOLD, Content, Format, Options, Source, quiet

__all__ = ["FORMATS", "UNTOLD", "Options", "Source", "read"]

FORMATS: tuple[Format, ...] = (
    torchscript.FORMAT,
    pt2.FORMAT,
    keras.FORMAT,
    scikit.FORMAT,
    pickled.TORCH,
    pickled.PLAIN,
    weights.FORMAT,
    nnet.FORMAT,
    onnx_file.FORMAT,
)
"""In the order in which they are tried; ONNX, which has no sign of its own, is what is left."""


def read(source: str, options: Options = UNTOLD) -> Source:
    """Read a path or `-`.

    Raises:
        InputError: missing or malformed files, a pickle that is not trusted, or something that must be said in
            `options` and is not.
        UnsupportedError: what is well formed and cannot be exported.
    """
    content = Content(streams.read_bytes(source), streams.display_name(source), streams.folder(source))
    form = next(form for form in FORMATS if form.matches(content))
    if content.entries and form is onnx_file.FORMAT:
        raise InputError(
            "a zip archive, but of none of the known kinds",
            where=content.name,
            hint=f"known are {'; '.join(form.summary for form in FORMATS)}",
        )
    with quiet():
        return form.read(content, options)
