"""Pass (on request): another opset.

Cases: downward to 13 and above, nodes are written the older way by the adapters of `downward`; below 13 and
upward, onnx's version converter moves the default operator set. Where that lacks a step (it has no way back for
Relu, for one), and behind our own adapters, the operators are declared to be of the target opset, which holds
when the checker accepts every node there, attributes, inputs and types. Meanings that changed silently
(Softmax's axis) are caught by the comparison that follows every conversion. Other domains are left as they are.
"""

from __future__ import annotations

import onnx
from onnx import version_converter

from secateur.formats import onnx_parts
from secateur.formats.errors import UnsupportedError
from secateur.pipeline.convert import downward

_LOWEST = 7  # what onnxruntime still runs
_OWN_FROM = 13  # down to here the adapters of `downward` are complete


def current(model: onnx.ModelProto) -> int:
    """The version of the default operator set."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def check(model: onnx.ModelProto, target: int) -> str | None:
    """Why the pass has nothing to do, or None."""
    return f"it is opset {target} already" if current(model) == target else None


def rewrite(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """A copy in opset `target`.

    Raises:
        UnsupportedError: the opset cannot be reached, and why.
    """
    highest = onnx.defs.onnx_opset_version()
    if not _LOWEST <= target <= highest:
        raise UnsupportedError(f"opset {target}: expected {_LOWEST} to {highest}")
    rest, weights = onnx_parts.apart(model)  # what onnx reads serialised ends at 2 GB
    converted = _rewritten(rest, target)
    return onnx_parts.rejoined(converted, model, weights) if weights else converted


def _rewritten(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    if _OWN_FROM <= target < current(model):
        converted = _declare(downward.lower(model, target), target)
    else:
        try:
            converted = version_converter.convert_version(model, target)
            onnx.checker.check_model(converted, full_check=True)
        except Exception:
            converted = _declare(model, target)
    # The converter drops the metadata and may lower the IR version.
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    converted.ir_version = max(converted.ir_version, model.ir_version)
    return converted


def _declare(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for entry in copy.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = target
    try:
        onnx.checker.check_model(copy, full_check=True)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UnsupportedError(
            f"opset {current(model)} cannot be converted to {target}: {lines[0]}", hint="try another --opset"
        ) from None
    return copy
