"""The product network as an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from secateur.formats.errors import UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Network, Query
from secateur.pipeline.convert.passes import opset
from secateur.pipeline.product.declarations import shape_of


@dataclass(frozen=True)
class Layout:
    """Input i of the original query is the product's input `bases[i]`; plus the step `places[i]` where that is another.

    `places` and `bases` are [n_in]; `count` is the number of the product's inputs, `dtype` their type.
    """

    places: NDArray[np.intp]
    bases: NDArray[np.intp]
    count: int
    dtype: type[np.floating]

    def expand(self, x: NDArray[np.floating], result: type[np.floating]) -> NDArray[np.floating]:
        """[…, n_in] of [..., n]: sums as the product rounds them."""
        steps = self.places != self.bases
        whole = x[..., self.bases].astype(result)
        sums = x[..., self.bases].astype(self.dtype) + x[..., self.places].astype(self.dtype)
        return np.asarray(np.where(steps, sums.astype(result), whole), result)


def input_type(query: Query, models: Sequence[Model]) -> int:
    kinds = {value.type.tensor_type.elem_type for model in models for value in model.inputs}
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
    if len(kinds) != 1 or not kinds <= floats:
        names = ", ".join(sorted(onnx.TensorProto.DataType.Name(kind).lower() for kind in kinds))
        raise UnsupportedError(
            f"the networks' inputs are {names}: expected one floating-point type", where=query.name or None
        )
    [kind] = kinds
    return int(kind)


def build(query: Query, models: Sequence[Model], layout: Layout, kind: int) -> onnx.ModelProto:
    version = max(13, *(opset.current(model.proto) for model in models))
    builder = _Builder(layout)
    for network, model in zip(query.networks, models, strict=True):
        same = opset.check(model.proto, version) is not None
        builder.add(
            network, model if same else Model(opset.rewrite(model.proto, version), model.sha256, model.name)
        )
    graph = helper.make_graph(
        [*builder.nodes, helper.make_node("Concat", builder.results, ["Y"], "join", axis=1)],
        "product",
        [helper.make_tensor_value_info("X", kind, [1, layout.count])],
        [helper.make_tensor_value_info("Y", kind, [1, query.outputs])],
        list(builder.tensors.values()),
    )
    imports = {entry.domain: entry.version for model in models for entry in model.proto.opset_import}
    imports = {domain: v for domain, v in imports.items() if domain not in ("", "ai.onnx")} | {"": version}
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, v) for domain, v in sorted(imports.items())],
        ir_version=max(8, *(model.proto.ir_version for model in models)),
        producer_name="secateur",
    )


class _Builder:
    """Gathers the networks' nodes under names of their own; what two of them share is there once."""

    def __init__(self, layout: Layout) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}
        self.results: list[str] = []
        self._layout = layout
        self._inputs = 0
        self._owners: dict[str, str] = {}
        self._made: dict[tuple[str, bytes], str] = {}

    def add(self, network: Network, model: Model) -> None:
        """The nodes of one network, and its results; none anew where the same network reads the same inputs."""
        chosen, bases = (
            side[self._inputs :][: network.inputs] for side in (self._layout.places, self._layout.bases)
        )
        self._inputs += network.inputs
        known = self._made.setdefault((model.sha256, chosen.tobytes()), network.name)
        prefix = f"{known}/"
        constants = self._tensors(model)
        if known == network.name:
            self._feed(network, model, chosen, bases)
            for node in model.graph.node:
                copy = onnx.NodeProto()
                copy.CopyFrom(node)
                copy.name = prefix + node.name if node.name else ""
                _rename(copy, prefix, constants)
                self.nodes.append(copy)
        made = {name for node in model.graph.node for name in node.output}
        outputs = [value.name for value in model.graph.output]
        for variable in network.hidden:
            if variable.onnx_name not in made:
                raise UnsupportedError(
                    f"hidden '{variable.name}' stands for '{variable.onnx_name}', which no node of "
                    f"{model.name} computes"
                )
            outputs.append(variable.onnx_name)
        flat = self._constant("flat", np.array([1, -1]))
        for number, name in enumerate(outputs):
            result = f"{network.name}/result{number}"
            self._node("Reshape", [constants.get(name, prefix + name), flat], result)
            self.results.append(result)

    def _tensors(self, model: Model) -> dict[str, str]:
        """The names of the model's weights in the product; they are added when it comes the first time."""
        first = len(self._owners)
        prefix = self._owners.setdefault(model.sha256, f"weights{first}/")
        names = {tensor.name: prefix + tensor.name for tensor in model.graph.initializer}
        for tensor in model.graph.initializer if len(self._owners) > first else ():
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = names[tensor.name]
            self.tensors[copy.name] = copy
        return names

    def _feed(
        self, network: Network, model: Model, chosen: NDArray[np.intp], bases: NDArray[np.intp]
    ) -> None:
        """Nodes that make the network's inputs out of the product's."""
        first = 0
        for variable, value in zip(network.input_variables, model.inputs, strict=True):
            name, flat = f"{network.name}/{value.name}", "X"
            own, base = (side[first : first + variable.size] for side in (chosen, bases))
            first += variable.size
            if not np.array_equal(base, np.arange(self._layout.count)):
                flat = f"{name}.flat"
                self._node("Gather", ["X", self._constant(f"{name}.places", base)], flat, axis=1)
            if not np.array_equal(own, base):
                mask = self._constant(f"{name}.stepped", (own != base).astype(self._layout.dtype))
                self._node("Gather", ["X", self._constant(f"{name}.steps", own)], f"{name}.all", axis=1)
                self._node("Mul", [f"{name}.all", mask], f"{name}.step")
                self._node("Add", [flat, f"{name}.step"], f"{name}.moved")
                flat = f"{name}.moved"
            shape = self._constant(f"{name}.shape", np.array(shape_of(value)))
            self._node("Reshape", [flat, shape], name)

    def _constant(self, name: str, array: NDArray[np.integer] | NDArray[np.floating]) -> str:
        stored = array.astype(np.int64) if np.issubdtype(array.dtype, np.integer) else array
        self.tensors.setdefault(name, numpy_helper.from_array(stored, name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: int) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))


def _rename(node: onnx.NodeProto, prefix: str, constants: Mapping[str, str]) -> None:
    """Give every value of the node (and of its sub-graphs) its name in the product."""
    for names in (node.input, node.output):
        for i, name in enumerate(names):
            if name:
                names[i] = constants.get(name, prefix + name)
    for entry in node.attribute:
        for graph in (entry.g, *entry.graphs) if entry.type in (entry.GRAPH, entry.GRAPHS) else ():
            own = {tensor.name: prefix + tensor.name for tensor in graph.initializer}
            for tensor in graph.initializer:
                tensor.name = own[tensor.name]
            for value in (*graph.input, *graph.output):
                value.name = prefix + value.name
            for inner in graph.node:
                _rename(inner, prefix, {**constants, **own})
