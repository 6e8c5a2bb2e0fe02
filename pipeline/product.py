"""A query about several networks (or several inputs, outputs, hidden values) as one network and a plain property.

The product network has one flat input and one flat output. Inputs that the query ties together by equality (the same
image for a dense and a pruned network, say) are one input of the product: what they differ in is then bounded as a
difference, not between two boxes. For the same reason an input that is nowhere below another one (x_a ≤ x_b) becomes
that one plus a step. Verifiers that know only VNN-LIB 1.0 can take the result.

    X [1, n] ── Gather ── Reshape ── f ── Reshape ──┐
            └── Gather ── Reshape ── g ── Reshape ──┴─ Concat ── Y [1, m]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from secateur.formats import onnx_model, vnnlib
from secateur.formats.errors import CheckFailed, InputError, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.formats.query import NO_BOUNDS, Network, Query, Variable
from secateur.formats.vnnlib_joint import equal_inputs, ordered_inputs, renamed, stepped
from secateur.formats.vnnlib_normalise import regions
from secateur.pipeline import onnxrt
from secateur.pipeline.convert import opset

_TOLERANCE = 1e-5
_SAMPLES = 8


@dataclass(frozen=True)
class Product:
    """The product network, the query over it, and how its inputs stand for those of the original query."""

    model: Model
    query: Query
    layout: Layout

    def expand(self, x: NDArray[np.floating]) -> NDArray[np.floating]:
        """The original query's inputs [n_in] of the product's inputs [n]."""
        return self.layout.expand(x, np.float64)


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


def plain(query: Query) -> bool:
    """Whether VNN-LIB 1.0 can say which network the query is about: one, with one input and one output."""
    return len(query.networks) == 1 and all(
        len(variables) == expected
        for network in query.networks
        for variables, expected in (
            (network.input_variables, 1),
            (network.output_variables, 1),
            (network.hidden, 0),
        )
    )


def declared_as(query: Query, model: Model) -> Query:
    """A plain query with its network's input and output declared as `model` has them.

    Raises:
        InputError: the query is not plain, or the counts do not fit.
    """
    if not plain(query) or len(model.inputs) != 1 or len(model.graph.output) != 1:
        raise InputError("expected one network with one input and one output", where=query.name or model.name)
    vnnlib.fits(query, onnxrt.count_inputs(model), onnxrt.count_outputs(model), query.name)
    [network] = query.networks
    [x], [y] = network.input_variables, network.output_variables
    found = declared(model, network.name, x.name, y.name)
    [[own_x], [own_y]] = found.input_variables, found.output_variables
    own_x, own_y = replace(own_x, onnx_name=x.onnx_name), replace(own_y, onnx_name=y.onnx_name)
    return replace(query, networks=(replace(network, input_variables=(own_x,), output_variables=(own_y,)),))


def declared(model: Model, name: str, x: str, y: str) -> Network:
    """The declaration of a model with one input, called `x`, and one output `y`: their shapes and types."""
    sides = []
    for called, value, size in (
        (x, model.inputs[0], onnxrt.count_inputs(model)),
        (y, model.graph.output[0], onnxrt.count_outputs(model)),
    ):
        shape = tuple(_shape(value))
        kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
        dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
        fits = prod(shape) == size  # an output may leave a length open
        sides.append((Variable(called, shape if fits else (1, size), dtype),))
    return Network(name, sides[0], sides[1])


def models_of(query: Query, given: Mapping[str, Model], where: str) -> list[Model]:
    """The model of each of the query's networks, in order; `equal_to` takes another network's.

    Raises:
        InputError: a network without a model, a model without a network, or counts that do not fit.
    """
    found: dict[str, Model] = {}
    for network in query.networks:
        model = given.get(network.name) or found.get(network.equal_to)
        if model is None:
            names = ", ".join(sorted(given)) or "none"
            raise InputError(
                f"no model for the network '{network.name}': given {names}",
                where=where,
                hint=f"name it, as {network.name}=FILE.onnx",
            )
        found[network.name] = model
        _check_fits(network, model, where)
    unknown = sorted(set(given) - set(found))
    if unknown:
        names = ", ".join(found)
        raise InputError(f"the property has no network '{unknown[0]}': it declares {names}", where=where)
    return [found[network.name] for network in query.networks]


def compile(query: Query, models: Sequence[Model]) -> Product:
    """One network and a property over it that mean the same as `query` over `models` (one a network, in order).

    The networks' values in the product are compared with the networks' own in onnxruntime.

    Raises:
        UnsupportedError: inputs that are not all of one floating-point type, a hidden value that no model has.
        CheckFailed: the product computes something else.
    """
    places = equal_inputs(query.formula, query.inputs)
    count = int(places.max(initial=-1)) + 1
    formula = renamed(query.formula, places)
    known = regions(NO_BOUNDS, [formula], count, query.outputs, query.name)
    steps = ordered_inputs(formula) if known else {}
    if steps:
        lower, upper = (np.stack([getattr(r, side) for r in known]) for side in ("lower", "upper"))
        formula = stepped(formula, steps, lower.min(axis=0), upper.max(axis=0))
        known = regions(NO_BOUNDS, [formula], count, query.outputs, query.name)
    kind = _input_type(query, models)
    bases = np.array([steps.get(place, place) for place in places.tolist()], np.intp)
    layout = Layout(places, bases, count, helper.tensor_dtype_to_np_dtype(kind).type)
    proto = _product(query, models, layout, kind)
    model = onnx_model.from_proto(
        proto, "product of " + ", ".join(network.name for network in query.networks)
    )
    _compare(query, models, model, layout)
    flat = replace(
        query,
        version="1.0",
        networks=(Network.flat(count, query.outputs),),
        bounds=NO_BOUNDS,
        others=(formula,),
        regions=known,
    )
    return Product(model, flat, layout)


def _check_fits(network: Network, model: Model, where: str) -> None:
    declared, found = len(network.input_variables), len(model.inputs)
    if declared != found:
        raise InputError(
            f"the network '{network.name}' declares {declared} inputs, {model.name} has {found}", where=where
        )
    for variable, value in zip(network.input_variables, model.inputs, strict=True):
        _check_size(variable, prod(_shape(value)), network, model, where)
    outputs = model.graph.output
    if len(network.output_variables) != len(outputs):
        raise InputError(
            f"the network '{network.name}' declares {len(network.output_variables)} outputs, "
            f"{model.name} has {len(outputs)}",
            where=where,
        )


def _check_size(variable: Variable, size: int, network: Network, model: Model, where: str) -> None:
    if variable.size != size:
        raise InputError(
            f"'{variable.name}' of the network '{network.name}' has {variable.size} elements, {model.name} {size}",
            where=where,
        )


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """A graph input's shape, symbolic dimensions as 1."""
    return [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]


def check(
    query: Query, models: Sequence[Model], x: NDArray[np.floating]
) -> tuple[bool, NDArray[np.floating]]:
    """Whether inputs `x` (flat, of all networks) satisfy `query`, and the outputs that onnxruntime gives for them.

    Every network runs by itself, as its file stores it.
    """
    x = np.asarray(x, np.float64).reshape(-1)
    outputs, first = [], 0
    for network, model in zip(query.networks, models, strict=True):
        shown = model if not network.hidden else _with_outputs(model, [h.onnx_name for h in network.hidden])
        outputs.append(onnxrt.run(shown, x[None, first : first + network.inputs])[0])
        first += network.inputs
    y = np.concatenate(outputs)
    finite = bool(np.isfinite(x).all() and np.isfinite(y).all())
    return finite and query.holds(x.tolist(), y.tolist()), y


def _with_outputs(model: Model, names: Sequence[str]) -> onnx.ModelProto:
    """The model with values inside it as further outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    for name in names:
        copy.graph.output.add(name=name)
    return onnx.shape_inference.infer_shapes(copy)


# --- the graph -----------------------------------------------------------------------------------------------


def _input_type(query: Query, models: Sequence[Model]) -> int:
    kinds = {value.type.tensor_type.elem_type for model in models for value in model.inputs}
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
    if len(kinds) != 1 or not kinds <= floats:
        names = ", ".join(sorted(onnx.TensorProto.DataType.Name(kind).lower() for kind in kinds))
        raise UnsupportedError(
            f"the networks' inputs are {names}: expected one floating-point type", where=query.name or None
        )
    [kind] = kinds
    return int(kind)


def _product(query: Query, models: Sequence[Model], layout: Layout, kind: int) -> onnx.ModelProto:
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
            shape = self._constant(f"{name}.shape", np.array(_shape(value)))
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


def _compare(query: Query, models: Sequence[Model], product: Model, layout: Layout) -> None:
    """Hold the product against its networks on random inputs.

    Raises:
        CheckFailed: they differ by more than `_TOLERANCE` of the largest output.
    """
    x = onnxrt.sample_inputs(layout.count, seed=0, samples=_SAMPLES)
    whole = layout.expand(x, layout.dtype)
    found = np.asarray(onnxrt.run(product, x), np.float64)
    if found.shape[1] != query.outputs:
        raise InputError(
            f"the networks have {found.shape[1]} outputs and hidden values, the property declares {query.outputs}",
            where=query.name or None,
        )
    first = column = 0
    for network, model in zip(query.networks, models, strict=True):
        theirs = whole[:, first : first + network.inputs]
        first += network.inputs
        expected = np.asarray(onnxrt.run(model, theirs), np.float64)
        mine = found[:, column : column + expected.shape[1]]
        column += network.outputs
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
        worst = float(np.abs(mine - expected).max(initial=0)) / scale
        if not worst <= _TOLERANCE:
            raise CheckFailed(
                f"the product differs from the network '{network.name}' by {worst:.3g}: expected at most {_TOLERANCE:g}"
            )
