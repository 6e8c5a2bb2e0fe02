"""The checker's own reading of an ONNX file."""

from __future__ import annotations

from math import prod

from onnx import TensorProto, helper, numpy_helper

from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.pipeline.certificate.call import Builder, Call, Value, Variable
from secateur.pipeline.certificate.network import Network
from secateur.pipeline.certificate.operators import apply


def read(model: Model) -> Network:
    """The network of a file with one input and one output.

    Raises:
        UnsupportedError: several inputs or outputs, a free dimension but the batch, a node that is neither affine nor
            a ReLU (named).
        InputError: a node that does not fit its inputs.
    """
    graph = model.graph
    if len(model.inputs) != 1 or len(graph.output) != 1:
        raise UnsupportedError(
            f"expected one input and one output, found {len(model.inputs)} and {len(graph.output)}",
            where=model.name,
        )
    (source,) = model.inputs
    shape = tuple(dimension.dim_value for dimension in source.type.tensor_type.shape.dim)
    if (
        source.type.tensor_type.elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE)
        or min((1, *shape[1:])) < 1
    ):
        raise UnsupportedError(f"input '{source.name}': expected floats of a fixed shape", where=model.name)
    builder = Builder(model)
    first = Variable(0, (max(1, shape[0]), *shape[1:]) if shape else ())
    builder.sizes.append(prod(first.shape))
    values: dict[str, Value] = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    values[source.name] = first
    for node in graph.node:
        missing = [name for name in node.input if name and name not in values]
        if missing:
            raise UnsupportedError(
                f"node '{node.name}' ({node.op_type}) reads '{missing[0]}', an output that is not computed here",
                where=model.name,
            )
        call = Call(
            node,
            tuple(values[name] if name else None for name in node.input),
            {each.name: helper.get_attribute_value(each) for each in node.attribute},
            list(model.proto.opset_import),
            builder,
        )
        try:
            results = apply(call)
        except (ValueError, IndexError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"node '{node.name}' ({node.op_type}) does not fit its inputs: {reason}", where=model.name
            ) from None
        values.update((name, value) for name, value in zip(node.output, results, strict=False) if name)
    output = values[graph.output[0].name]
    if not isinstance(output, Variable):
        raise UnsupportedError("its output does not depend on its input", where=model.name)
    return builder.needed(output.node)
