"""A node of an ONNX file while it is read, with the values of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from secateur.formats.errors import UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Floats
from secateur.pipeline.certificate.maps import Map
from secateur.pipeline.certificate.network import Affine, Network, Relu

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Variable:
    """A value that depends on the input: its node, and its shape in the file (the batch as 1)."""

    node: int
    shape: tuple[int, ...]


Value = Variable | Array


class Builder:
    """Nodes while a file is read."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.nodes: list[Affine | Relu | None] = [None]
        self.sizes: list[int] = []

    def affine(
        self,
        parts: list[tuple[Variable, Map]],
        shape: tuple[int, ...],
        bias: Array | float = 0.0,
        *,
        size: Array | float | None = None,
    ) -> Variable:
        """Append an affine node. `size`: see `Affine.bias_size`; |bias| where the bias is exact."""
        flat, sizes = (
            np.broadcast_to(np.asarray(each, np.float64), shape).reshape(-1)
            for each in (bias, np.abs(np.asarray(bias, np.float64)) if size is None else size)
        )
        terms = len(parts) + max((each.terms for _, each in parts), default=0) + 8
        self.nodes.append(Affine(tuple((v.node, each) for v, each in parts), flat, sizes, terms))
        return self._appended(shape)

    def relu(self, value: Variable) -> Variable:
        self.nodes.append(Relu(value.node))
        return self._appended(value.shape)

    def _appended(self, shape: tuple[int, ...]) -> Variable:
        self.sizes.append(prod(shape))
        return Variable(len(self.nodes) - 1, shape)

    def needed(self, output: int) -> Network:
        """The network of those nodes that the output is made of (and the input), renumbered."""
        used = {0, output}
        for position in range(output, 0, -1):
            if position in used:
                used.update(_sources(self.nodes[position]))
        order = sorted(used)
        number = {old: new for new, old in enumerate(order)}
        nodes: list[Affine | Relu | None] = []
        for old in order:
            node = self.nodes[old]
            if isinstance(node, Relu):
                node = Relu(number[node.source])
            elif isinstance(node, Affine):
                parts = tuple((number[source], each) for source, each in node.parts)
                node = Affine(parts, node.bias, node.bias_size, node.terms)
            nodes.append(node)
        return Network(tuple(nodes), tuple(self.sizes[old] for old in order))


def _sources(node: Affine | Relu | None) -> list[int]:
    if isinstance(node, Relu):
        return [node.source]
    return [] if node is None else [source for source, _ in node.parts]


@dataclass(frozen=True)
class Call:
    """One node of the file with the values of its inputs (None: left out)."""

    node: onnx.NodeProto
    arguments: tuple[Value | None, ...]
    attributes: dict[str, object]
    opsets: list[onnx.OperatorSetIdProto]
    builder: Builder

    def refuse(self, reason: str) -> UnsupportedError:
        name = self.node.name or (self.node.output[0] if self.node.output else "")
        return UnsupportedError(
            f"node '{name}' ({self.node.op_type}): {reason}",
            where=self.builder.model.name,
            hint="certificates are of ReLU networks whose other nodes are affine",
        )

    def variable(self, position: int) -> Variable:
        value = self.arguments[position]
        if not isinstance(value, Variable):
            raise self.refuse(f"expected input {position} to depend on the network's input")
        return value

    def constant(self, position: int, default: Array | float | None = None) -> Floats:
        """A constant argument in float64."""
        value = self.arguments[position] if position < len(self.arguments) else None
        if isinstance(value, Variable) or (value is None and default is None):
            raise self.refuse(f"expected input {position} to be constant")
        return np.asarray(default if value is None else value, np.float64)

    def number(self, name: str, default: float) -> float:
        return float(self.attributes.get(name, default))  # type: ignore[arg-type]

    def numbers(self, name: str, default: list[int]) -> list[int]:
        return [int(v) for v in self.attributes.get(name, default)]  # type: ignore[attr-defined]

    def evaluate(self, arguments: tuple[Array | None, ...]) -> list[Array]:
        """The node's outputs at other arguments, by ONNX's reference implementation."""
        from onnx.reference import ReferenceEvaluator  # takes a while to import

        names = [
            name if given is not None else "" for name, given in zip(self.node.input, arguments, strict=True)
        ]
        inputs = {name: given for name, given in zip(names, arguments, strict=True) if given is not None}
        node = onnx.NodeProto()
        node.CopyFrom(self.node)
        del node.input[:]
        node.input.extend(names)
        outputs = [name for name in self.node.output if name]
        graph = helper.make_graph(
            [node],
            "node",
            [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs],
        )
        model = helper.make_model(graph, opset_imports=self.opsets)
        results: list[Array] = [np.asarray(each) for each in ReferenceEvaluator(model).run(None, inputs)]
        return results
