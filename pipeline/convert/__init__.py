"""Any source to one clean ONNX model: passes, one a file, each with `check` and `rewrite`.

`convert` is imported on first use: those who need a single pass need none of what all sources and passes need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.pipeline.convert.conversion import Converted, convert

__all__ = ["Converted", "convert"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.conversion"), name)
