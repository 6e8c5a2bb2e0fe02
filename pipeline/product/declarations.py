"""Queries and models held together: which query is about one plain network, which model each of its networks is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import onnx

from secateur.formats import vnnlib
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Network, Query, Variable
from secateur.pipeline import onnxrt


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
        shape = tuple(shape_of(value))
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


def _check_fits(network: Network, model: Model, where: str) -> None:
    declared, found = len(network.input_variables), len(model.inputs)
    if declared != found:
        raise InputError(
            f"the network '{network.name}' declares {declared} inputs, {model.name} has {found}", where=where
        )
    for variable, value in zip(network.input_variables, model.inputs, strict=True):
        _check_size(variable, prod(shape_of(value)), network, model, where)
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


def shape_of(value: onnx.ValueInfoProto) -> list[int]:
    """A graph input's shape, symbolic dimensions as 1."""
    return [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
