"""What rewriting passes share: a copy of a model, with constants and shapes at hand and nodes to change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from secateur.formats import onnx_parts
from secateur.pipeline import onnxgraph
from secateur.pipeline.convert.passes import dead

Shape = tuple[int | None, ...]
Array = NDArray[np.generic]


class Editor:
    """A copy of `model`, whose `nodes` may be replaced; `finish` gives the changed model.

    Constants are initializers that no caller can override. Shapes are onnx's inference on the model as it came:
    values keep their names, so that they stay true, and what is made anew is not asked for.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.nodes: list[onnx.NodeProto] = list(self.graph.node)
        inputs = {value.name for value in self.graph.input}
        self._tensors = {
            tensor.name: tensor for tensor in self.graph.initializer if tensor.name not in inputs
        }
        self._outputs = {value.name for value in self.graph.output}
        self._taken = inputs | {tensor.name for tensor in self.graph.initializer}
        self._taken |= {
            name for node in self.nodes for name in [*onnxgraph.reads(node), *node.output, node.name]
        }
        self._types: dict[str, tuple[int, Shape | None]] | None = None
        self._made: dict[str, onnx.NodeProto] | None = None
        self._read: dict[str, list[onnx.NodeProto]] = {}

    # --- questions -------------------------------------------------------------------------------------------

    def constant(self, name: str) -> Array | None:
        """The value of an initializer; None of anything else."""
        tensor = self._tensors.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def shape(self, name: str) -> Shape | None:
        """The dimensions, unknown and symbolic ones as None; None where not even the rank is known."""
        if name in self._tensors:
            return tuple(self._tensors[name].dims)
        return self._inferred().get(name, (0, None))[1]

    def kind(self, name: str) -> int:
        """The element type of a value; 0 when unknown."""
        if name in self._tensors:
            return int(self._tensors[name].data_type)
        return self._inferred().get(name, (0, None))[0]

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a value."""
        return self._index()[0].get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a value, one for each time they do."""
        return self._index()[1].get(name, [])

    def is_output(self, name: str) -> bool:
        """Whether the graph's caller reads a value."""
        return name in self._outputs

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The node that reads a value, when nothing else does."""
        found = self.readers(name)
        return found[0] if len(found) == 1 and not self.is_output(name) else None

    def is_only_reader(self, node: onnx.NodeProto, name: str) -> bool:
        """Whether `node` is all that reads a value, once."""
        return any(node is reader for reader in (self.only_reader(name),))

    # --- changes ---------------------------------------------------------------------------------------------

    def add_constant(self, wish: str, array: Array) -> str:
        """A new initializer; its name."""
        name = self.fresh(wish)
        tensor = self.graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
        self._tensors[name] = tensor
        return name

    def with_values(self, name: str, array: Array) -> str:
        """An initializer that holds `array` in the place of `name`, which is changed when nothing else reads it."""
        if len(self.readers(name)) <= 1 and not self.is_output(name):
            self._tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
            return name
        return self.add_constant(name, array)

    def fresh(self, wish: str) -> str:
        """`wish`, with a number behind it when it is taken."""
        name, number = wish, 1
        while name in self._taken:
            name, number = f"{wish}_{number}", number + 1
        self._taken.add(name)
        return name

    def node(
        self, kind: str, inputs: Sequence[str], output: str | None = None, wish: str = "", **attributes: Any
    ) -> onnx.NodeProto:
        """A new node, not yet among the nodes; its output is `output`, or named after `wish`."""
        result = output or self.fresh(wish or kind.lower())
        made: onnx.NodeProto = helper.make_node(kind, list(inputs), [result], **attributes)
        made.name = self.fresh(f"{result}/{kind}")
        return made

    def replace(self, old: onnx.NodeProto, new: Sequence[onnx.NodeProto] = ()) -> None:
        """Put `new` where `old` was among the nodes."""
        place = next(i for i, node in enumerate(self.nodes) if node is old)
        self.nodes[place : place + 1] = new
        self.changed()

    def changed(self) -> None:
        """To be called after names that nodes read or make were changed."""
        self._made = None

    def finish(self) -> onnx.ModelProto:
        """The changed model, without what nothing reads any more and without shapes of values inside."""
        onnxgraph.replace_nodes(self.graph, self.nodes)
        del self.graph.value_info[:]
        dead.sweep(self.graph)
        return self.model

    # --- inside ----------------------------------------------------------------------------------------------

    def _index(self) -> tuple[dict[str, onnx.NodeProto], dict[str, list[onnx.NodeProto]]]:
        if self._made is None:
            self._made, self._read = {}, {}
            for node in self.nodes:
                self._made.update((name, node) for name in node.output if name)
                for name in onnxgraph.reads(node):
                    self._read.setdefault(name, []).append(node)
        return self._made, self._read

    def _inferred(self) -> dict[str, tuple[int, Shape | None]]:
        if self._types is None:
            graph = shape_inference.infer_shapes(onnx_parts.apart(self.model)[0], data_prop=True).graph
            self._types = {
                value.name: (value.type.tensor_type.elem_type, _shape(value.type.tensor_type))
                for value in [*graph.input, *graph.value_info, *graph.output]
            }
        return self._types


def _shape(kind: onnx.TypeProto.Tensor) -> Shape | None:
    if not kind.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)


def is_float(array: Array | None) -> bool:
    """Whether it is an array of floating-point numbers."""
    return array is not None and array.dtype.kind == "f"
