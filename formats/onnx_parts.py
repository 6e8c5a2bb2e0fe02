"""Large models in parts, so that their weights lie in memory as few times as possible.

protobuf takes twice a message's size to serialise it, and ONNX's checker and onnxruntime start from serialised bytes:
for a model of hundreds of megabytes that is most of what pruning it would need.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from math import prod

import numpy as np
import onnx
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Arrays = dict[str, NDArray[np.generic]]

LARGE = 16 * 2**20
"""Bytes of weights from which it pays to keep them apart."""

_SMALL = 1024  # elements up to which a tensor may be a scale, a slope, …: what operators want to be constant
_BYTES = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.DOUBLE: 8, onnx.TensorProto.FLOAT16: 2}


def apart(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Arrays]:
    """The model with its large float initializers turned into graph inputs, and their values by name.

    It computes the same when it is fed these values. A model that has less than `LARGE` bytes of them comes back as it
    is, with no values.
    """
    wanted = {
        tensor.name: _BYTES[tensor.data_type] * elements
        for tensor in proto.graph.initializer
        if tensor.data_type in _BYTES and (elements := prod(tensor.dims)) > _SMALL
    }
    if sum(wanted.values()) < LARGE:
        return proto, {}
    rest = with_initializers(
        proto, (tensor for tensor in proto.graph.initializer if tensor.name not in wanted)
    )
    listed = {value.name for value in rest.graph.input}
    arrays: Arrays = {}
    for tensor in proto.graph.initializer:
        if tensor.name in wanted:
            arrays[tensor.name] = numpy_helper.to_array(tensor)
            if tensor.name not in listed:
                value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                rest.graph.input.append(value)
    return rest, arrays


def rejoined(rest: onnx.ModelProto, whole: onnx.ModelProto, names: Container[str]) -> onnx.ModelProto:
    """`rest`, which came from `apart(whole)` and may have been rewritten, with the initializers `names` of `whole`."""
    own = {tensor.name: tensor for tensor in rest.graph.initializer}
    listed = {value.name for value in whole.graph.input}
    tensors = [
        tensor if tensor.name in names else own.pop(tensor.name)
        for tensor in whole.graph.initializer
        if tensor.name in names or tensor.name in own
    ]
    joined = with_initializers(rest, [*tensors, *own.values()])
    inputs = [value for value in rest.graph.input if value.name not in names or value.name in listed]
    del joined.graph.input[:]
    joined.graph.input.extend(inputs)
    return joined


def check(proto: onnx.ModelProto) -> None:
    """ONNX's checker: initializers one by one, then the rest, with empty ones in their place.

    Raises:
        onnx.checker.ValidationError: what is wrong.
    """
    for tensor in proto.graph.initializer:
        onnx.checker.check_tensor(tensor)
    kind = onnx.TensorProto.FLOAT
    empty = (
        onnx.TensorProto(name=tensor.name, data_type=kind, dims=[0]) for tensor in proto.graph.initializer
    )
    onnx.checker.check_model(with_initializers(proto, empty))


def with_initializers(proto: onnx.ModelProto, tensors: Iterable[onnx.TensorProto]) -> onnx.ModelProto:
    """A copy of the model with these initializers instead of its own.

    (To copy first and then set them would take the memory of both: a message never gives any back.)
    """
    copy = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            _set(copy, field.name, value)
    for field, value in proto.graph.ListFields():
        if field.name != "initializer":
            _set(copy.graph, field.name, value)
    for tensor in tensors:
        copy.graph.initializer.add().CopyFrom(tensor)
    return copy


def pieces(proto: onnx.ModelProto) -> Iterator[bytes]:
    """`proto.SerializeToString(deterministic=True)`, piece by piece, an initializer each.

    A message's bytes are its fields' in the order of their numbers; a message in a message leads with its length. So
    the fields before and after the graph, and before and after its initializers, are serialised by themselves.
    """
    unknown = len(UnknownFieldSet(proto)) + len(UnknownFieldSet(proto.graph))
    if unknown:  # fields of a later ONNX come last, and cannot be copied apart
        yield proto.SerializeToString(deterministic=True)
        return
    graph_field = proto.DESCRIPTOR.fields_by_name["graph"].number
    tensor_field = proto.graph.DESCRIPTOR.fields_by_name["initializer"].number
    before, after = _fields(proto, graph_field)
    inner_before, inner_after = _fields(proto.graph, tensor_field)
    lengths = [len(_tensor(tensor)) for tensor in proto.graph.initializer]
    leads = [_lead(tensor_field, length) for length in lengths]
    total = len(inner_before) + sum(lengths) + sum(map(len, leads)) + len(inner_after)
    yield before + (_lead(graph_field, total) if proto.HasField("graph") else b"") + inner_before
    for lead, tensor in zip(leads, proto.graph.initializer, strict=True):
        yield lead
        yield _tensor(tensor)
    yield inner_after + after


def _tensor(tensor: onnx.TensorProto) -> bytes:
    data: bytes = tensor.SerializeToString(deterministic=True)
    return data


def _lead(field: int, length: int) -> bytes:
    """Tag and length of an embedded message (wire type 2), as varints."""
    return _varint(field << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _fields(message: Message, middle: int) -> tuple[bytes, bytes]:
    """The fields with numbers below and above `middle`, serialised."""
    parts = (type(message)(), type(message)())
    for field, value in message.ListFields():
        if field.number != middle:
            _set(parts[field.number > middle], field.name, value)
    before, after = (part.SerializeToString(deterministic=True) for part in parts)
    return before, after


def _set(message: Message, name: str, value: object) -> None:
    if isinstance(value, Message):
        getattr(message, name).CopyFrom(value)
    elif isinstance(value, str | bytes | int | float):
        setattr(message, name, value)
    else:
        getattr(message, name).extend(value)
