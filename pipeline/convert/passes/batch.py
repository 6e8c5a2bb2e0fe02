"""Pass: a batch fixed to one sample becomes a symbolic dimension, where the graph allows it.

Cases: the leading dimension of inputs and outputs is replaced by the symbol `batch`; where a Reshape's constant
target begins with that 1, the entry is replaced by 0 (copy the input's dimension), or by −1 when the target has
none yet. Whether a graph allows it is found by trial: three samples together must give what they give singly.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from secateur.formats.errors import CheckFailed, UnsupportedError
from secateur.pipeline import onnxgraph, onnxrt

SAMPLES = 3


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass does not apply, or None."""
    return _attempt(model)[1]


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with a dynamic batch.

    Raises:
        UnsupportedError: `check` names a reason.
    """
    changed, reason = _attempt(model)
    if changed is None:
        raise UnsupportedError(f"no dynamic batch: {reason}")
    return changed


def _attempt(model: onnx.ModelProto) -> tuple[onnx.ModelProto | None, str | None]:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        if len(dims) < 2:
            return None, f"input '{value.name}' has no batch dimension: it is of rank {len(dims)}"
        if dims[0].WhichOneof("value") == "dim_value" and dims[0].dim_value > 1:
            return None, f"input '{value.name}' has a batch of {dims[0].dim_value}"
    if all(value.type.tensor_type.shape.dim[0].dim_param for value in inputs):
        return None, "the batch is dynamic already"
    for candidate in (onnxrt.free_batch(model), *_with_free_reshapes(model)):
        if _works(model, candidate):
            return candidate, None
    return None, "a node inside fixes the batch"


def _with_free_reshapes(model: onnx.ModelProto) -> list[onnx.ModelProto]:
    """The model with Reshape targets [1, …] made [0, …], and made [−1, …] where that is allowed."""
    results = []
    for wish in (0, -1):
        copy = onnxrt.free_batch(model)
        tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
        changed = False
        for node in copy.graph.node:
            tensor = tensors.get(node.input[1]) if node.op_type == "Reshape" else None
            if tensor is None:
                continue
            target = numpy_helper.to_array(tensor).copy()
            if len(target) and target[0] == 1:
                target[0] = 0 if -1 in target else wish
                name = onnxgraph.unused_name(copy.graph, f"{tensor.name}_batch")
                copy.graph.initializer.append(numpy_helper.from_array(target, name))
                node.input[1] = name
                changed = True
        if changed:
            results.append(copy)
    return results


def _works(model: onnx.ModelProto, candidate: onnx.ModelProto) -> bool:
    x = onnxrt.sample_inputs(onnxrt.count_inputs(model), seed=0, samples=SAMPLES)
    try:
        together = onnxrt.run_together(candidate, x)
        singles = np.concatenate([onnxrt.run(model, row[None]) for row in x])
        alone = onnxrt.run(candidate, x[:1])
    except (UnsupportedError, CheckFailed):
        return False
    return (
        onnxrt.difference(singles, together) <= onnxrt.BATCH_TOLERANCE
        and onnxrt.difference(singles[:1], alone) <= onnxrt.BATCH_TOLERANCE
    )
