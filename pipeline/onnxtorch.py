"""ONNX models as torch modules, by onnx2torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnx

from secateur.formats import onnx_model
from secateur.formats.errors import UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt
from secateur.pipeline.convert.passes import batch, constants, downward, opset

if TYPE_CHECKING:
    from torch import nn

CONVERT_HINT = "`secateur convert --opset 13` may bring it into a form that can be used"


_OPSETS = (13, 17)
"""onnx2torch knows few operators as they were before 9, and lacks what was new or rewritten from 18 on."""


def prepared(model: Model) -> Model:
    """The model as onnx2torch takes it: in an opset between 13 and 17, each node written in its older way, the batch
    free where the graph allows it. Initializers keep their names and values; the caller compares what comes of it.

    Raises:
        UnsupportedError: a node has no form in that opset.
    """
    proto = model.proto
    for clean in (constants, batch):  # Reshape targets in Constant nodes would hide a fixed batch
        if clean.check(proto) is None:
            proto = clean.rewrite(proto)
    target = min(max(opset.current(proto), _OPSETS[0]), _OPSETS[1])
    if opset.check(proto, target) is None:
        proto = opset.rewrite(proto, target)
    result = onnx_model.from_proto(downward.lower(proto, target), model.name)
    _note_ranks(result)
    return result


def _note_ranks(model: Model) -> None:
    """Declare of what rank each BatchNormalization's input is, which onnx2torch wants to know, where onnx cannot infer
    it (behind a computed Reshape)."""
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    inferred = onnx.shape_inference.infer_shapes(model.proto).graph if norms else model.graph
    known = {
        value.name
        for value in [*inferred.value_info, *inferred.input]
        if value.type.tensor_type.HasField("shape")
    }
    unknown = {node.input[0] for node in norms} - known
    shapes = onnxrt.value_shapes(model) if unknown else {}
    kept = [value for value in model.graph.value_info if value.name not in unknown]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    for name in sorted(unknown):
        rank: list[None] = [None] * len(shapes[name])
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, rank))


def module(model: Model) -> nn.Module:
    """The model as a torch module whose submodule `n{i}` is node i: told apart whatever their names are.

    Raises:
        UnsupportedError: an operator, or a way of using it, that onnx2torch does not know.
    """
    from onnx2torch import convert

    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for index, node in enumerate(proto.graph.node):
        node.name = f"n{index}"
        node.domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        result: nn.Module = convert(proto)
    except (NotImplementedError, KeyError, RuntimeError, ValueError) as error:
        missing = re.search(r"operation_type='(\w+)'", str(error))
        reason = f"operator '{missing[1]}' of its opset has no torch form" if missing else str(error)
        raise UnsupportedError(
            f"cannot become a torch module: {reason}", where=model.name, hint=CONVERT_HINT
        ) from None
    return result
