"""Constant parts of a graph, and maps that only move numbers: by onnxruntime, which judges the file anyway."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from secateur.formats.errors import UnsupportedError
from secateur.pipeline import onnxgraph, onnxrt

Array = NDArray[np.generic]

EXACT = 2**24
"""float32 holds every whole number up to here."""


def evaluate(node: onnx.NodeProto, arguments: Sequence[Array | None], opset: int) -> list[Array]:
    """The outputs of a node whose arguments are all constant; where an output has no name, an empty array.

    Raises:
        UnsupportedError: onnxruntime cannot evaluate it, or its value is not a function of its arguments.
    """
    if node.op_type in onnxgraph.RANDOM:
        raise UnsupportedError("its value is random")
    if any(True for _ in onnxgraph.subgraphs(node)):
        raise UnsupportedError("graphs inside a node are not supported")
    tensor = onnxgraph.constant_tensor(node)
    if tensor is not None:
        return [numpy_helper.to_array(tensor)]
    known = {name: value for name, value in zip(node.input, arguments, strict=True) if value is not None}
    names = [name for name in node.output if name]
    graph = helper.make_graph(
        [node],
        "constant",
        [],
        [onnx.ValueInfoProto(name=name) for name in names],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in known.items()],
    )
    domain = helper.make_opsetid(node.domain, opset if node.domain in ("", "ai.onnx") else 1)
    session = onnxrt.session(helper.make_model(graph, opset_imports=[domain], ir_version=8))
    found = dict(zip(names, session.run(names, {}), strict=True))
    return [np.asarray(found[name]) if name else np.empty(0) for name in node.output]


def moved(
    node: onnx.NodeProto, shape: tuple[int, ...], others: Sequence[Array | None], opset: int
) -> NDArray[np.int64]:
    """Where an operator that only moves numbers takes each number of its output from: flat positions, -1 for none.

    The operator is applied to the positions 1, 2, … in place of its first input, of `shape`; what it fills in by
    itself must be 0. How it rounds coordinates (Resize) or counts its axes is then onnxruntime's, not ours.

    Raises:
        UnsupportedError: more numbers than float32 can count, or see `evaluate`.
    """
    count = int(np.prod(shape))
    if count >= EXACT:
        raise UnsupportedError(f"{count} numbers are too many to be moved (at most {EXACT})")
    numbers = np.arange(1, count + 1, dtype=np.float32).reshape(shape)
    (result,) = evaluate(node, [numbers, *others], opset)[:1]
    return result.astype(np.int64) - 1
