"""Pass (on request): another opset.

Cases: downward, nodes are written the older way by the adapters of `downward`; upward, onnx's version converter moves
the default operator set. Where that lacks a step, and behind our own adapters, the operators are declared to be of the
target opset, which holds when the checker accepts every node there, attributes, inputs and types. Resize as it was
before 11, which onnx's converter takes for what it is by default today, is said in full. Other domains are left as they
are. What comes out is for the caller to compare.
"""

from __future__ import annotations

import onnx
from onnx import version_converter

from secateur.formats import onnx_parts
from secateur.formats.errors import UnsupportedError
from secateur.pipeline import onnxgraph
from secateur.pipeline.convert.passes import downward

_LOWEST = 7  # what onnxruntime still runs
_PLACED = 11  # since then Resize says how it places samples


def current(model: onnx.ModelProto) -> int:
    """The version of the default operator set."""
    return onnxgraph.opset(model)


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
    version = current(model)
    if target < version:
        converted = _declare(downward.lower(model, target), target, version)
    else:
        try:
            converted = version_converter.convert_version(model, target)
            onnx.checker.check_model(converted, full_check=True)
        except Exception:
            converted = _declare(model, target, version)
        if version < _PLACED <= target:
            _place_samples(converted)
    # The converter drops the metadata and may lower the IR version.
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    converted.ir_version = max(converted.ir_version, model.ir_version)
    return converted


def _declare(model: onnx.ModelProto, target: int, version: int) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnxgraph.declare_opset(copy, target)
    try:
        onnx.checker.check_model(copy, full_check=True)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UnsupportedError(
            f"opset {version} cannot be converted to {target}: {lines[0]}", hint="try another --opset"
        ) from None
    return copy


def _place_samples(model: onnx.ModelProto) -> None:
    """What Upsample and Resize did before they could say so."""
    for node in model.graph.node:
        if node.op_type == "Resize":
            onnxgraph.set_attribute(node, "coordinate_transformation_mode", "asymmetric")
            onnxgraph.set_attribute(node, "nearest_mode", "floor")
