"""ONNX models as torch modules, by onnx2torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnx

from secateur.formats.errors import UnsupportedError
from secateur.formats.onnx_model import Model

if TYPE_CHECKING:
    from torch import nn

CONVERT_HINT = "`secateur convert --opset 13` may bring it into a form that can be used"


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
