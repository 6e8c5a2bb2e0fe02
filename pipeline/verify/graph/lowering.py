"""From an ONNX graph to the bound graph: constants are evaluated, everything else becomes a primitive operation.

Weights are taken as stored and held in float64, where they are exact: what is proved of the bound graph is proved of
the file, in real arithmetic.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import onnx
from onnx import numpy_helper

from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, Node
from secateur.pipeline.verify.graph.call import Builder, Call, Value, node_name
from secateur.pipeline.verify.graph.constants import evaluate
from secateur.pipeline.verify.graph.operations import Input, Operation, Reshape, Select
from secateur.pipeline.verify.graph.operators import RULES


def input_shape(model: Model) -> tuple[int, ...]:
    """The shape of the model's one input, its batch dimension (free or 1) as 1.

    Raises:
        UnsupportedError: several inputs, another free dimension, a batch larger than one, a type that is no float.
    """
    if len(model.inputs) != 1:
        names = ", ".join(value.name for value in model.inputs) or "none"
        raise UnsupportedError(f"expected one input, found {len(model.inputs)}: {names}", where=model.name)
    (value,) = model.inputs
    kind = value.type.tensor_type
    if kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        found = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise UnsupportedError(
            f"input '{value.name}': expected float32 or float64, found {found}", where=model.name
        )
    shape = []
    for axis, dimension in enumerate(kind.shape.dim):
        fixed = dimension.dim_value if dimension.HasField("dim_value") else 0
        if fixed <= 0 and axis > 0:
            raise UnsupportedError(
                f"input '{value.name}': dimension {axis} is free",
                where=model.name,
                hint="export it with a fixed size",
            )
        shape.append(max(fixed, 1))
    return tuple(shape)


def lower(model: Model) -> BoundGraph:
    """The bound graph (float64, CPU) of a model with one input and one output.

    Raises:
        UnsupportedError: an operator (named with its node), several inputs or outputs.
        InputError: the graph is inconsistent, for instance in its shapes.
    """
    if len(model.graph.output) != 1:
        raise UnsupportedError(f"expected one output, found {len(model.graph.output)}", where=model.name)
    return _lower(model, model.graph.output[0].name)


def lower_to_logits(model: Model) -> BoundGraph | None:
    """As `lower`, up to a last Softmax or LogSoftmax over all outputs, which keeps their order; None where there is
    none.

    Which of two outputs is larger can be asked of its argument, in which no exponentials are left.
    """
    name = model.graph.output[0].name
    last = next((node for node in model.graph.node if name in node.output), None)
    if last is None or last.op_type not in ("Softmax", "LogSoftmax"):
        return None
    graph = _lower(model, last.input[0])
    shape = graph.nodes[graph.output].shape
    modern = _opset(model) >= 13
    axis = next((a.i for a in last.attribute if a.name == "axis"), -1 if modern else 1) % len(shape)
    together = shape[axis] if modern else prod(shape[axis:])
    return graph if together == graph.nodes[graph.output].size else None


def _opset(model: Model) -> int:
    versions = [entry.version for entry in model.proto.opset_import if entry.domain in ("", "ai.onnx")]
    return max(versions, default=1)


def _lower(model: Model, wanted: str) -> BoundGraph:
    """The bound graph of the tensor `wanted`."""
    graph, opset = model.graph, _opset(model)
    builder = Builder(model.name)
    values: dict[str, Value] = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    builder.nodes.append(Node(model.inputs[0].name, Input(), (), input_shape(model)))
    values[model.inputs[0].name] = 0
    for node in graph.node:
        missing = [name for name in node.input if name and name not in values]
        if missing:
            raise UnsupportedError(
                f"node '{node_name(node)}' ({node.op_type}) reads '{missing[0]}', an output that this engine does not "
                "compute",
                where=model.name,
            )
        arguments = [values[name] if name else None for name in node.input]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        call = Call(node, arguments, attributes, opset, builder)
        if all(not isinstance(value, int) for value in arguments):
            results = _evaluated(call)
        elif node.domain not in ("", "ai.onnx") or node.op_type not in RULES:
            raise call.refuse("not supported by this engine")
        else:
            try:
                results = RULES[node.op_type].rule(call)
            except (RuntimeError, ValueError, IndexError) as error:
                reason = str(error).splitlines()[0]
                raise InputError(
                    f"node '{node_name(node)}' ({node.op_type}) does not fit its inputs: {reason}",
                    where=model.name,
                ) from None
        values.update((name, result) for name, result in zip(node.output, results, strict=False) if name)
        if wanted in node.output:
            break
    output = values[wanted]
    if not isinstance(output, int):
        raise InputError("its output does not depend on its input", where=model.name)
    return prune_unused(builder.nodes, output)


def prune_unused(nodes: list[Node], output: int) -> BoundGraph:
    """The graph of those nodes that the output needs (and the input), renumbered; numbers become vectors of one."""
    needed = {0, output}
    for position in range(output, 0, -1):
        if position in needed:
            needed.update(nodes[position].inputs)
    order = sorted(needed)
    number = {old: new for new, old in enumerate(order)}
    return BoundGraph(
        tuple(
            Node(
                nodes[i].name,
                _with_axes(nodes[i].operation),
                tuple(number[s] for s in nodes[i].inputs),
                nodes[i].shape or (1,),
            )
            for i in order
        )
    )


def _with_axes(operation: Operation) -> Operation:
    """The operation with tensors of shape (1,) in place of those without axes, which bounds are not made for."""
    if isinstance(operation, Reshape | Select):
        return replace(operation, source=operation.source or (1,), target=operation.target or (1,))
    return operation


def _evaluated(call: Call) -> list[Value]:
    """The outputs of a node whose arguments are all constant."""
    known = [call.constant(position) for position in range(len(call.arguments))]
    try:
        return list(evaluate(call.node, known, call.opset))
    except UnsupportedError as error:
        raise call.refuse(f"cannot be evaluated: {error}") from None
