"""What one run of a network costs: multiply-adds, node by node.

The convention: one multiply-add (MAC) is one product added to a sum, and counts as two floating-point operations
(FLOPs). Counted are convolutions and matrix products, of weights and of activations alike, as if dense: zeros count.
Biases, normalisations, activations, pooling and resizing are not counted, as is usual (torch's FlopCounterMode leaves
them out, too); operators that may hold products but have no rule here are named instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import onnx

from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxgraph, onnxrt

Shape = tuple[int, ...]


@dataclass(frozen=True)
class NodeCost:
    """A node by name (its first output where it has none), its operator, and its multiply-adds."""

    name: str
    operator: str
    multiply_adds: int


@dataclass(frozen=True)
class Cost:
    """The multiply-adds of one sample, and the operators (with their domain, if not ONNX's) that were not counted
    although they may multiply."""

    multiply_adds: int
    nodes: tuple[NodeCost, ...]
    uncounted: tuple[str, ...]

    @property
    def flops(self) -> int:
        """Floating-point operations: twice the multiply-adds."""
        return 2 * self.multiply_adds

    def lines(self) -> list[str]:
        """For people: the sum, then each node."""
        total = f"cost: {self.multiply_adds:,} multiply-adds a sample ({self.flops:,} FLOPs)"
        if self.uncounted:
            total += f", not counting {', '.join(self.uncounted)}"
        return [total] + [
            f"cost: {node.operator} {node.name}, {node.multiply_adds:,} multiply-adds" for node in self.nodes
        ]


def count(model: Model | onnx.ModelProto) -> Cost:
    """The cost of one sample (symbolic dimensions as 1), with the shapes of a run on zeros.

    Raises:
        UnsupportedError: onnxruntime does not run the model.
    """
    shapes = onnxrt.value_shapes(model)
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {tensor.values.name: tuple(tensor.dims) for tensor in model.graph.sparse_initializer}
    nodes, uncounted = [], set()
    for node in model.graph.node:
        known = _RULES.get(node.op_type) if node.domain in _ONNX else None
        if known is not None:
            rule, first, second = known
            cost = rule(node, shapes[node.input[first]], shapes[node.input[second]], shapes[node.output[0]])
            nodes.append(NodeCost(node.name or node.output[0], node.op_type, cost))
        elif node.domain not in _ONNX or node.op_type in _UNCOUNTED:
            uncounted.add(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
    total = sum(node.multiply_adds for node in nodes)
    return Cost(total, tuple(nodes), tuple(sorted(uncounted)))


def _convolution(_: onnx.NodeProto, __: Shape, weight: Shape, result: Shape) -> int:
    """Each output element sums over its group's input channels and the kernel: weight [C_out, C_in/group, ...]."""
    return prod(result) * prod(weight[1:])


def _transposed(_: onnx.NodeProto, data: Shape, weight: Shape, __: Shape) -> int:
    """Each input element is spread over its group's output channels and the kernel: weight [C_in, C_out/group, ...]."""
    return prod(data) * prod(weight[1:])


def _gemm(node: onnx.NodeProto, a: Shape, _: Shape, result: Shape) -> int:
    return prod(result) * a[0 if onnxgraph.attribute(node, "transA", 0) else 1]


def _matmul(_: onnx.NodeProto, a: Shape, __: Shape, result: Shape) -> int:
    return prod(result) * a[-1]


Rule = Callable[[onnx.NodeProto, Shape, Shape, Shape], int]

_RULES: dict[str, tuple[Rule, int, int]] = {
    "Conv": (_convolution, 0, 1),
    "ConvInteger": (_convolution, 0, 1),
    "QLinearConv": (_convolution, 0, 3),
    "ConvTranspose": (_transposed, 0, 1),
    "Gemm": (_gemm, 0, 1),
    "MatMul": (_matmul, 0, 1),
    "MatMulInteger": (_matmul, 0, 1),
    "QLinearMatMul": (_matmul, 0, 3),
}
"""Operator → rule, and which inputs are the operands."""

_ONNX = ("", "ai.onnx")
_UNCOUNTED = {"Attention", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan"}
