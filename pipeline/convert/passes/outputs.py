"""Pass (on request): graph outputs that are not wanted go, and what only they needed.

Cases: `outputs=a+b` keeps the outputs a and b, in the model's order. For models whose exporter kept features or
logits as further outputs, which VNN-LIB 1.0 would number with the others.
"""

from __future__ import annotations

import onnx

from secateur.formats.errors import InputError
from secateur.pipeline.convert.passes import dead


def check(model: onnx.ModelProto, names: str) -> str | None:
    """Why the pass has nothing to do, or None.

    Raises:
        InputError: an output that the model does not have.
    """
    wanted, found = names.split("+"), [value.name for value in model.graph.output]
    for name in wanted:
        if name not in found:
            raise InputError(f"there is no output '{name}': expected some of {', '.join(found)}")
    return None if set(found) - set(wanted) else "the model has no other outputs"


def rewrite(model: onnx.ModelProto, names: str) -> onnx.ModelProto:
    """A copy with the outputs in `names`, joined by `+`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [value for value in copy.graph.output if value.name in names.split("+")]
    del copy.graph.output[:]
    copy.graph.output.extend(kept)
    dead.sweep(copy.graph)
    return copy
