"""ONNX itself: any opset from 7 on, in any float type, with its data inside or in files beside it."""

from __future__ import annotations

from secateur.formats import onnx_model
from secateur.pipeline.convert.sources.source import Content, Format, Options, Source


def read(content: Content, options: Options) -> Source:
    """The checked model.

    Raises:
        InputError: malformed ONNX, or data that are not where it says.
    """
    model = onnx_model.from_bytes(content.data, content.name, content.folder)
    return Source(model.proto, model.sha256, "onnx")


FORMAT = Format("ONNX", lambda content: True, read)
