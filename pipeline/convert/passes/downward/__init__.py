"""Nodes rewritten for an older opset, where an operator or its way of being written was new: a table of adapters.

`ADAPTERS` maps an operator and the version that brought the change to a function that writes such a node the way of the
version before. What has no older form is refused by name; versions that merely allow more types need no adapter. onnx's
own version converter goes down for few operators, and gives up on the whole graph for one.
"""

from __future__ import annotations

import onnx

from secateur.pipeline import onnxgraph
from secateur.pipeline.convert.passes.downward import composed, moved
from secateur.pipeline.convert.passes.downward.rewriter import Adapter, Rewriter, dropping

__all__ = ["ADAPTERS", "lower"]

ALWAYS = 0
"""In place of a version: what is rewritten whatever the target, since the older form says the same."""

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_WITH_AXES = (
    "Concat",
    "Flatten",
    "Gather",
    "Softmax",
    "LogSoftmax",
    "Split",
    "Squeeze",
    "Unsqueeze",
)
ADAPTERS: dict[tuple[str, int], Adapter] = {
    ("Swish", 24): composed.swish,
    ("Cast", 24): dropping(round_mode=...),
    ("CastLike", 24): dropping(round_mode=...),
    ("RMSNormalization", 23): composed.rms_norm,
    ("GroupNormalization", 21): composed.group_norm,
    ("Gelu", 20): composed.gelu,
    ("Resize", 19): moved.resize_symmetric,
    ("Pad", 19): moved.pad_wrap,
    ("AveragePool", 19): moved.pooling,
    ("Cast", 19): dropping(saturate=...),
    ("CastLike", 19): dropping(saturate=...),
    **{(f"Reduce{name}", 18): moved.reduction for name in _REDUCTIONS},
    ("Split", 18): moved.split_in_parts,
    ("Pad", 18): moved.pad_axes,
    ("Resize", 18): moved.resize_axes,
    ("LpPool", 18): moved.pooling,
    ("Mish", 18): composed.mish,
    ("LayerNormalization", 17): composed.layer_norm,
    ("CastLike", 15): composed.cast_like,
    ("Shape", 15): moved.shape_part,
    ("HardSwish", 14): composed.hard_swish,
    ("Trilu", 14): composed.trilu,
    ("Reshape", 14): moved.reshape,
    ("Reshape", ALWAYS): moved.reshape,
    ("BatchNormalization", 14): dropping(training_mode=0),
    ("ReduceSum", 13): moved.reduction,
    ("Squeeze", 13): moved.axes_attribute,
    ("Unsqueeze", 13): moved.axes_attribute,
    ("Split", 13): moved.split_attribute,
    **{(name, 13): moved.softmax for name in ("Softmax", "LogSoftmax")},
    ("Resize", 13): moved.resize_region,
    ("Celu", 12): composed.celu,
    ("Constant", 12): moved.initializer,
    ("Dropout", 12): moved.dropout,
    ("GreaterOrEqual", 12): composed.negated("Less"),
    ("LessOrEqual", 12): composed.negated("Greater"),
    **{(f"Arg{name}", 12): dropping(select_last_index=0) for name in ("Max", "Min")},
    **{(name, 11): moved.positive_axes for name in (*_WITH_AXES, "ArgMax", "ArgMin")},
    **{(f"Reduce{name}", 11): moved.positive_axes for name in (*_REDUCTIONS, "Sum")},
    ("Clip", 11): moved.clip,
    ("Pad", 11): moved.pad_attributes,
    ("Gemm", 11): moved.gemm_summand,
    ("Resize", 11): moved.resize_scales,
    ("DepthToSpace", 11): dropping(mode="DCR"),
    ("Slice", 10): moved.slice_attributes,
    ("Resize", 10): moved.upsample,
    **{(f"{name}Pool", 10): moved.floor_pooling for name in ("Max", "Average")},
    ("Constant", 9): moved.initializer,
    ("Upsample", 9): moved.upsample_attribute,
    **{(name, 8): composed.added for name in ("Sum", "Mean")},
    **{(name, 8): moved.unbroadcast for name in ("Max", "Min")},
}


def lower(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """A copy written as in opset `target`, version by version; one that is there already is rewritten by what is done
    `ALWAYS`. Nodes without an adapter stay: whether the target has them is for onnx's checker to say.

    Raises:
        UnsupportedError: a node has no form there, and why.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    current = onnxgraph.opset(proto)
    while current > target:
        operators = {node.op_type for node in proto.graph.node}
        steps = [v for name, v in ADAPTERS if name in operators and target < v <= current]
        current = max(steps, default=target + 1) - 1
        proto = _step(proto, current + 1, current, target)
    return _step(proto, ALWAYS, target, target)


def _step(model: onnx.ModelProto, brought: int, version: int, target: int) -> onnx.ModelProto:
    """The model with the adapters for what the opset `brought` applied, declared to be of opset `version`."""
    rewriter = Rewriter(model, version, target)
    for node in model.graph.node:
        adapter = ADAPTERS.get((node.op_type, brought))
        if adapter is not None and node.domain in ("", "ai.onnx"):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            adapter(rewriter, copy)
        else:
            rewriter.keep(node)
    onnxgraph.replace_nodes(model.graph, rewriter.nodes)
    onnxgraph.declare_opset(model, version)
    return model
