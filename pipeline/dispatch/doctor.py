"""Is a verifier there, does it run, is it right? Two questions about |x₀ − x₁| with known answers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from secateur.formats import onnx_model, vnnlib
from secateur.formats.errors import SecateurError
from secateur.pipeline import dispatch
from secateur.pipeline.dispatch import homes
from secateur.pipeline.dispatch.foreign import Runner
from secateur.pipeline.verify import api
from secateur.pipeline.verify.replay import Replay

_ANSWERS = {"1.5": "unsat", "0.5": "sat"}
"""Can |x₀ − x₁| be as large as this, for inputs in [0, 1]?"""


@dataclass(frozen=True)
class Health:
    """Whether a verifier answers rightly, and its version or what is wrong."""

    healthy: bool
    message: str


def examine(name: str, timeout: float = 60.0) -> Health:
    """Ask the verifier `name` both questions, each for at most `timeout` seconds.

    A verifier that never says `sat` is well when it says `unknown` instead.
    """
    said = []
    try:
        tool = dispatch.tool(name)
        version = ""
        if tool is not None and (tool.requirements or tool.source_file):
            version = homes.version(tool, homes.find(tool))
        with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
            for limit, expected in _ANSWERS.items():
                onnx_file, prop = Path(folder, "net.onnx"), Path(folder, "property.vnnlib")
                onnx_model.write(_network(), str(onnx_file))
                prop.write_text(_property(limit))
                model, query = onnx_model.read(str(onnx_file)), vnnlib.read(str(prop))
                if tool is None:
                    result = api.verify(model, query, timeout=timeout, verifier=name)
                else:
                    if tool.restate is not None:
                        prop.write_text(tool.restate(query))
                    result = Runner(tool, Replay(model)).decide(onnx_file, prop, query, timeout=timeout)
                said.append(result.verdict)
                right = result.verdict == expected or (expected == "sat" and result.verdict == "unknown")
                if not right:
                    reason = f": {result.message}" if result.message else ""
                    return Health(False, f"{version} said {result.verdict}, not {expected}{reason}".strip())
    except SecateurError as error:
        return Health(False, str(error))
    return Health(True, f"{version} said {' and '.join(said)}".strip())


def _network() -> onnx.ModelProto:
    """|x₀ − x₁| = relu(x₀ − x₁) + relu(x₁ − x₀), in the plainest operators."""
    constants = {
        "difference": np.array([[1, -1], [-1, 1]], np.float32),
        "none": np.zeros(2, np.float32),
        "sum": np.array([[1, 1]], np.float32),
        "zero": np.zeros(1, np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "difference", "none"], ["both"], "gemm0", transB=1),
        helper.make_node("Relu", ["both"], ["parts"], "relu0"),
        helper.make_node("Gemm", ["parts", "sum", "zero"], ["y"], "gemm1", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "distance",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _property(limit: str) -> str:
    lines = ["(declare-const X_0 Real)", "(declare-const X_1 Real)", "(declare-const Y_0 Real)"]
    for i in range(2):
        lines += [f"(assert (>= X_{i} 0.0))", f"(assert (<= X_{i} 1.0))"]
    return "\n".join([*lines, f"(assert (>= Y_0 {limit}))"]) + "\n"
