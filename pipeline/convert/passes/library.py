"""Passes of onnx-ir and rules of onnxscript, as passes of ours.

They do these jobs well: what they need to know about a graph is what onnx-ir's representation has, nothing is
computed, and names of values stay. A model goes there and back for each; each is compared as every pass is.

onnxslim does many such things at once and names none of them: it could not be chosen by parts, nor a mismatch
be pinned down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx


def functions(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Model-local functions are written out where they are called (onnx-ir's InlinePass)."""
    if not model.functions:
        return None
    from onnx_ir.passes import common

    return _run(model, common.InlinePass(), common.RemoveUnusedOpsetsPass())


def unused(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Optional outputs that nothing reads go, and operator sets without an operator (onnx-ir)."""
    from onnx_ir.passes import common

    return _run(model, common.RemoveUnusedNodesPass(), common.RemoveUnusedOpsetsPass())


def duplicates(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Equal initializers become one, equal nodes with equal inputs too (onnx-ir)."""
    from onnx_ir.passes import common

    return _run(model, common.DeduplicateInitializersPass(), common.CommonSubexpressionEliminationPass())


def noops(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """x + 0, x · 1, Cast and Expand to what a value is already, Relu of Relu, Pad in front of Conv (onnxscript)."""
    from onnx_ir.passes import common as passes
    from onnxscript import rewriter
    from onnxscript.rewriter.rules import common

    rules = [
        *(common.add_0_rule, common.sub_0_rule, common.mul_by_1_rule, common.div_by_1_rule),
        *(common.no_op_cast_rule, common.no_op_expand_rule, common.no_op_transpose_rule),
        *(common.unsqueeze_unsqueeze_rule, common.collapse_slice_rule, common.collapse_slice2_rule),
        *(common.successive_relu_rule, common.successive_relu_clip_rule, common.successive_clip_relu_rule),
        *(common.successive_clip_rule, common.normalize_pad_format_conv_rule, common.fuse_pad_into_conv_rule),
    ]
    return _run(model, passes.ShapeInferencePass(), rewriter.RewritePass(rules))


def _run(model: onnx.ModelProto, *passes: Callable[[Any], Any]) -> onnx.ModelProto | None:
    """The model after the passes; None when it is the same. (Passes say "modified" of what they only looked at.)"""
    import onnx_ir

    found = onnx_ir.serde.deserialize_model(model)
    for each in passes:
        found = each(found).model
    changed: onnx.ModelProto = onnx_ir.serde.serialize_model(found)
    del changed.graph.value_info[:]
    return changed if _outline(changed) != _outline(model) else None


def _outline(model: onnx.ModelProto) -> object:
    nodes = [(node.op_type, *node.input, "", *node.output) for node in model.graph.node]
    return (
        nodes,
        sorted(t.name for t in model.graph.initializer),
        sorted(e.domain for e in model.opset_import),
    )
