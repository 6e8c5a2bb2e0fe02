"""One ONNX node as the operators' lowering rules see it, and the bound graph under construction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.formats.errors import UnsupportedError
from secateur.pipeline.verify.graph.bound_graph import Node
from secateur.pipeline.verify.graph.operations import Operation, Reshape

Array = NDArray[np.generic]
Value = int | Array
"""What an ONNX tensor is while lowering: a position in the bound graph, or a constant."""

Rule = Callable[["Call"], list[Value]]


@dataclass
class Call:
    """One ONNX node being lowered: its arguments (None where left out), attributes, and the graph so far."""

    node: onnx.NodeProto
    arguments: list[Value | None]
    attributes: dict[str, object]
    opset: int
    builder: Builder

    def refuse(self, reason: str) -> UnsupportedError:
        return UnsupportedError(
            f"operator {self.node.op_type} of node '{node_name(self.node)}': {reason}",
            where=self.builder.model_name,
            hint="convert the model or choose another verifier",
        )

    def constant(self, position: int) -> Array | None:
        """The argument at `position`, which must be constant or absent."""
        value = self.arguments[position] if position < len(self.arguments) else None
        if isinstance(value, int):
            raise self.refuse(f"its input {position} must be constant here")
        return value

    def variable(self, position: int = 0) -> int:
        """The argument at `position`, which must vary with the input."""
        value = self.arguments[position]
        if not isinstance(value, int):
            raise self.refuse(f"its input {position} must not be constant here")
        return value

    def shape(self, position: int = 0) -> tuple[int, ...]:
        """The ONNX shape of the argument at `position`."""
        return self.shape_of(self.operand(position))

    def shape_of(self, value: Value) -> tuple[int, ...]:
        return self.builder.nodes[value].shape if isinstance(value, int) else value.shape

    def operand(self, position: int) -> Value:
        """The argument at `position`, constant or variable, which must be there."""
        value = self.arguments[position] if position < len(self.arguments) else None
        if value is None:
            raise self.refuse(f"its input {position} is missing")
        return value

    def emit(self, operation: Operation, *sources: int) -> int:
        constants = [value for value in vars(operation).values() if isinstance(value, Tensor)]
        if not all(bool(value.isfinite().all()) for value in constants):
            raise self.refuse("a constant is infinite or NaN")
        return self.builder.emit(self.node.output[0] or node_name(self.node), operation, *sources)

    def integer(self, name: str, default: int) -> int:
        value = self.attributes.get(name, default)
        assert isinstance(value, int)
        return value

    def number(self, name: str, default: float) -> float:
        value = self.attributes.get(name, default)
        assert isinstance(value, float | int)
        return float(value)

    def text(self, name: str, default: str) -> str:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def integers(self, name: str) -> list[int] | None:
        value = self.attributes.get(name)
        return None if value is None else [int(v) for v in value]  # type: ignore[attr-defined]


@dataclass
class Builder:
    """The bound graph under construction."""

    model_name: str
    nodes: list[Node] = field(default_factory=list)

    def emit(self, name: str, operation: Operation, *sources: int) -> int:
        examples = [torch.zeros(1, *self.nodes[source].shape, dtype=torch.float64) for source in sources]
        shape = tuple(operation.forward(*examples).shape[1:])
        if isinstance(operation, Reshape) and operation.source == operation.target:
            return sources[0]
        self.nodes.append(Node(name, operation, sources, shape))
        return len(self.nodes) - 1


def node_name(node: onnx.NodeProto) -> str:
    return node.name or next((name for name in node.output if name), "?")


def tensor(array: Array) -> Tensor:
    """A constant as a float64 tensor."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))
