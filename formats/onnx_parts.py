"""Large models in parts, so that their weights lie in memory as few times as possible: none, one, or one tensor.

protobuf holds a message as a whole, gives its bytes out as copies, and takes twice its size to serialise it; ONNX's
checker and onnxruntime start from serialised bytes. For a model of hundreds of megabytes that would be most of what
pruning it takes. So the values of large initializers lie apart from the proto, by name, and may be made (read from a
file, masked) whenever somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from math import prod

import numpy as np
import onnx
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[np.generic]
Arrays = Mapping[str, Array]

LARGE = 16 * 2**20
"""Bytes of weights from which it pays to keep them apart."""

SMALL = 1024
"""Elements up to which a tensor stays in the proto: scales, slopes, …, which operators want to be constant."""

DTYPES: dict[int, np.dtype[np.generic]] = {
    onnx.TensorProto.FLOAT: np.dtype("<f4"),
    onnx.TensorProto.DOUBLE: np.dtype("<f8"),
    onnx.TensorProto.FLOAT16: np.dtype("<f2"),
}
"""The types of weights, as `raw_data` holds them."""

_NONE: Arrays = {}


class Lazy(Arrays):
    """Arrays by name, each made anew whenever it is asked for."""

    def __init__(self, makers: Mapping[str, Callable[[], Array]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Array:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers


def values(proto: onnx.ModelProto, weights: Arrays = _NONE) -> Lazy:
    """All initializers by name; `weights` are those that `proto` has without their values."""

    def maker(tensor: onnx.TensorProto) -> Callable[[], Array]:
        name = tensor.name
        return (lambda: weights[name]) if name in weights else (lambda: numpy_helper.to_array(tensor))

    return Lazy({tensor.name: maker(tensor) for tensor in proto.graph.initializer})


def whole(proto: onnx.ModelProto, weights: Arrays) -> onnx.ModelProto:
    """A copy of the model with these values of its initializers inside."""

    def filled(tensor: onnx.TensorProto) -> onnx.TensorProto:
        if tensor.name not in weights:
            return tensor
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.raw_data = weights[tensor.name].tobytes()
        return copy

    return with_initializers(proto, map(filled, proto.graph.initializer))


def apart(proto: onnx.ModelProto, weights: Arrays = _NONE) -> tuple[onnx.ModelProto, Arrays]:
    """The model with its large float initializers turned into graph inputs, and their values by name.

    It computes the same when it is fed these values. `weights` are those that lie apart already; without any, a model
    that has less than `LARGE` bytes of them comes back as it is, with no values.
    """
    if not weights:
        wanted = {
            tensor.name: DTYPES[tensor.data_type].itemsize * elements
            for tensor in proto.graph.initializer
            if tensor.data_type in DTYPES and (elements := prod(tensor.dims)) > SMALL
        }
        if sum(wanted.values()) < LARGE:
            return proto, {}
        everything = values(proto)
        weights = {name: everything[name] for name in wanted}
    rest = with_initializers(
        proto, (tensor for tensor in proto.graph.initializer if tensor.name not in weights)
    )
    listed = {value.name for value in rest.graph.input}
    for tensor in proto.graph.initializer:
        if tensor.name in weights and tensor.name not in listed:
            rest.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return rest, weights


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


def check(proto: onnx.ModelProto, weights: Arrays = _NONE) -> None:
    """ONNX's checker: initializers one by one, then the rest, with empty ones in their place. Of `weights`, which lie
    apart, type and shape are known to be right.

    Raises:
        onnx.checker.ValidationError: what is wrong.
    """
    for tensor in proto.graph.initializer:
        if tensor.name not in weights:
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


def pieces(proto: onnx.ModelProto, weights: Arrays = _NONE) -> Iterator[bytes]:
    """`SerializeToString(deterministic=True)` of the whole model, piece by piece, an initializer each.

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
    lengths = [_length(tensor, weights) for tensor in proto.graph.initializer]
    leads = [lead(tensor_field, length) for length in lengths]
    total = len(inner_before) + sum(lengths) + sum(map(len, leads)) + len(inner_after)
    yield before + (lead(graph_field, total) if proto.HasField("graph") else b"") + inner_before
    for start, tensor in zip(leads, proto.graph.initializer, strict=True):
        yield start
        yield from _tensor(tensor, weights)
    yield inner_after + after


def _tensor(tensor: onnx.TensorProto, weights: Arrays) -> Iterator[bytes]:
    if tensor.name not in weights:
        yield tensor.SerializeToString(deterministic=True)
        return
    raw = tensor.DESCRIPTOR.fields_by_name["raw_data"].number
    before, after = _fields(tensor, raw)
    array = weights[tensor.name]
    yield before + lead(raw, array.nbytes)
    yield array.tobytes()
    yield after


def _length(tensor: onnx.TensorProto, weights: Arrays) -> int:
    if tensor.name not in weights:
        return int(tensor.ByteSize())
    raw = tensor.DESCRIPTOR.fields_by_name["raw_data"].number
    size: int = prod(tensor.dims) * DTYPES[tensor.data_type].itemsize
    return int(tensor.ByteSize()) + len(lead(raw, size)) + size


def lead(field: int, length: int) -> bytes:
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
