"""Any source to one clean ONNX model: passes, one a file, each with `check` and `rewrite`."""

from secateur.pipeline.convert.conversion import Converted, convert

__all__ = ["Converted", "convert"]
