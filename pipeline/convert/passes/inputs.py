"""Pass: initializers stop being graph inputs.

Cases: files of IR version 3 list every initializer as an input too, which makes it a default that a caller may
override, and so keeps it from being folded, pruned or trusted. They leave the inputs; the IR version becomes 4
where it was lower, since only from there may an initializer not be an input.
"""

from __future__ import annotations

import onnx


def check(model: onnx.ModelProto) -> str | None:
    """Why the pass has nothing to do, or None."""
    constants = {tensor.name for tensor in model.graph.initializer}
    if model.ir_version < 4 or any(value.name in constants for value in model.graph.input):
        return None
    return "no initializer is an input"


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose inputs are its real inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {tensor.name for tensor in copy.graph.initializer}
    real = [value for value in copy.graph.input if value.name not in constants]
    del copy.graph.input[:]
    copy.graph.input.extend(real)
    copy.ir_version = max(copy.ir_version, 4)
    return copy
