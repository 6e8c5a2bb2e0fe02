"""What adapters share: the graph that is rewritten, its shapes and types, and where new nodes and constants go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike, NDArray
from onnx import helper, numpy_helper

from secateur.formats.errors import UnsupportedError
from secateur.pipeline import onnxgraph, onnxrt
from secateur.pipeline.onnxgraph import attribute, label


@dataclass
class Rewriter:
    """One step down: `model` is written as in the opset above `version`, which its nodes are to be written as; `target`
    is where the steps lead."""

    model: onnx.ModelProto
    version: int
    target: int

    def __post_init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        for node in self.model.graph.node:
            tensor = onnxgraph.constant_tensor(node)
            if tensor is not None:
                self.constants[node.output[0]] = tensor

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every value, by a run of one sample. Raises UnsupportedError when onnxruntime cannot run the model."""
        fixed = {tensor.name: tuple(tensor.dims) for tensor in self.constants.values()}
        return fixed | onnxrt.value_shapes(self.model)

    @cached_property
    def makers(self) -> dict[str, onnx.NodeProto]:
        """The node that computes a value."""
        return onnxgraph.producers(self.model.graph)

    def rank(self, name: str) -> int:
        return len(self.shapes[name])

    @cached_property
    def types(self) -> dict[str, int]:
        """The element type of every value that has one."""
        return onnxgraph.element_types(self.model)

    def values(self, name: str) -> NDArray[np.generic] | None:
        """A constant's value, or None."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def integers(self, node: onnx.NodeProto, index: int, what: str) -> list[int] | None:
        """The integers of a constant input; None where it is left out.

        Raises:
            UnsupportedError: they are computed.
        """
        values = self.known(node, index, what)
        return None if values is None else [int(value) for value in values.reshape(-1)]

    def known(self, node: onnx.NodeProto, index: int, what: str) -> NDArray[np.generic] | None:
        """The value of a constant input; None where it is left out.

        Raises:
            UnsupportedError: it is computed.
        """
        name = optional(node, index)
        if not name:
            return None
        values = self.values(name)
        if values is None:
            raise self.refuse(node, f"computed {what}")
        return values

    def constant(self, near: onnx.NodeProto, values: ArrayLike, dtype: DTypeLike = np.int64) -> str:
        """The name of a new initializer."""
        name = onnxgraph.unused_name(self.model.graph, f"{near.output[0]}_constant")
        tensor = numpy_helper.from_array(np.asarray(values, dtype), name)
        self.model.graph.initializer.append(tensor)
        self.constants[name] = tensor
        return name

    def like(self, near: onnx.NodeProto, values: ArrayLike) -> str:
        """A new initializer of the type of the node's first input."""
        return self.constant(near, values, self.dtype(near))

    def dtype(self, node: onnx.NodeProto) -> DTypeLike:
        """The type of the node's first input."""
        found = self.types.get(node.input[0]) or onnx.TensorProto.FLOAT
        dtype: DTypeLike = helper.tensor_dtype_to_np_dtype(found)
        return dtype

    def keep(self, node: onnx.NodeProto) -> None:
        """The node itself, as the adapter has changed it."""
        self.nodes.append(node)

    def emit(self, operator: str, inputs: Sequence[str], near: onnx.NodeProto, **attributes: object) -> str:
        """A new node that computes a part of `near`; the name of its output."""
        wish = f"{near.output[0]}_{operator.lower()}{len(self.nodes)}"
        output = onnxgraph.unused_name(self.model.graph, wish)
        self.nodes.append(helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    def close(self, operator: str, inputs: Sequence[str], node: onnx.NodeProto, **attributes: object) -> None:
        """The node that gives `near`'s own output."""
        self.nodes.append(helper.make_node(operator, list(inputs), [node.output[0]], node.name, **attributes))

    def refuse(self, node: onnx.NodeProto, what: str) -> UnsupportedError:
        return UnsupportedError(f"{label(node)}: {what} has no form in opset {self.target}")


Adapter = Callable[[Rewriter, onnx.NodeProto], None]
"""Appends the older form of a node (a copy, which it may change) to the rewriter's nodes."""


def optional(node: onnx.NodeProto, index: int) -> str:
    """The name of an input that may be left out; empty where it is."""
    return node.input[index] if index < len(node.input) else ""


def without(node: onnx.NodeProto, *names: str) -> onnx.NodeProto:
    """The node without these attributes."""
    kept = [entry for entry in node.attribute if entry.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)
    return node


def dropping(**plain: object) -> Adapter:
    """For attributes that an older operator lacks, where they say what it does (or change nothing of floats: `...`)."""

    def adapter(rewriter: Rewriter, node: onnx.NodeProto) -> None:
        for name, value in plain.items():
            found = attribute(node, name, value)
            if value is not ... and found != value and found != []:
                raise rewriter.refuse(node, f"{name}={found}")
        rewriter.keep(without(node, *plain))

    return adapter
