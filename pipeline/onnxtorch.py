"""ONNX models as torch modules, by onnx2torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnx

from secateur.formats import onnx_model
from secateur.formats.errors import UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.pipeline.convert import batch, constants, downward, opset

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
    return onnx_model.from_proto(downward.lower(proto, target), model.name)


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
