"""Verifiers to dispatch to: small programs that say what they are told to, and an instance for them."""

from __future__ import annotations

import shlex
import sys
import textwrap
from pathlib import Path

from factories import box_property, mlp
from secateur.formats import onnx_model, vnnlib
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline.dispatch import generic
from secateur.pipeline.dispatch.protocol import Tool


def instance(folder: Path, condition: str = "(>= Y_0 -1000.0)") -> tuple[Path, Path, Model, Query]:
    """Two inputs in [0, 1], and a condition that is always true unless another is given."""
    onnx, prop = folder / "net.onnx", folder / "prop.vnnlib"
    onnx_model.write(mlp([2, 3, 1]), str(onnx))
    prop.write_text(box_property([0.0, 0.0], [1.0, 1.0], 1, condition))
    return onnx, prop, onnx_model.read(str(onnx)), vnnlib.read(str(prop))


def program(folder: Path, body: str) -> Tool:
    """A verifier that runs `body` (Python) with sys.argv = [_, onnx, vnnlib, timeout, result]."""
    script = folder / "tool.py"
    script.write_text(textwrap.dedent(body))
    return generic.template(
        f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} {{onnx}} {{vnnlib}} {{timeout}} {{result}}"
    )


def says(folder: Path, text: str) -> Tool:
    """A verifier that writes `text` as its result file."""
    return program(folder, f"import sys; open(sys.argv[4], 'w').write({text!r})")


TWINS = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,2]) (declare-output Y float32 [1,2]))
(declare-network g (isomorphic-to f) (declare-input U float32 [1,2]) (declare-output V float32 [1,2]))
(assert (and (>= X[0,0] 0.0) (<= X[0,0] 1.0) (== X[0,0] U[0,0])))
(assert (and (>= X[0,1] 0.0) (<= X[0,1] 1.0) (== X[0,1] U[0,1])))
(assert (>= (- Y[0,0] V[0,0]) {}))
"""
"""A query about two networks of two inputs and outputs; to be filled in: by how much they differ."""
