"""Random small networks for the conversion passes: each case of a pass, with what must be gone afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """A network that grows node by node from its input `x`; `value` is the last result."""

    def __init__(self, shape: Sequence[int | str], seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.shape, self.value = list(shape), "x"
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def number(self, *shape: int, low: float | None = None) -> str:
        """A random constant; its name."""
        array = self.random.normal(size=shape)
        array = array if low is None else low + np.abs(array)
        return self.constant(array.astype(np.float32))

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def add(self, kind: str, *names: str, **attributes: Any) -> Net:
        """A node that reads the last result where a name is `.`; `.` alone when none is given."""
        inputs = [self.value if name == "." else name for name in names or (".",)]
        self.value = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [self.value], f"n{len(self.nodes)}", **attributes))
        return self

    def model(self, opset: int = 17) -> onnx.ModelProto:
        nodes = list(self.nodes)
        last = nodes.pop()
        nodes.append(helper.make_node(last.op_type, list(last.input), ["y"], last.name))
        nodes[-1].attribute.extend(last.attribute)
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [onnx.ValueInfoProto(name="y")],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        proto = onnx.shape_inference.infer_shapes(proto)
        del proto.graph.value_info[:]
        onnx.checker.check_model(proto, full_check=True)
        return proto


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]
