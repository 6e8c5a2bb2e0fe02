"""Reading a large ONNX file without its weights, which stay in the file until they are asked for.

Protobuf's format (https://protobuf.dev/programming-guides/encoding): a message is a sequence of fields, each a tag (its
number and how it is written, a varint) and a value: a varint, 4 or 8 bytes, or a length and so many bytes, which for
an embedded message are a message again.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from math import prod

import numpy as np
import onnx
from google.protobuf.unknown_fields import UnknownFieldSet

from secateur.formats.errors import InputError
from secateur.formats.onnx_parts import DTYPES, SMALL, Array, Lazy, lead

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # how a value is written
_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_PLAIN = {"dims", "data_type", "name", "doc_string", "metadata_props"}  # fields of a tensor besides its data


@dataclass(frozen=True)
class _Field:
    """A field of a message in a file: its bytes are [start, end), those of an embedded message [inner, end)."""

    number: int
    kind: int
    start: int
    inner: int
    end: int

    def holds(self, number: int) -> bool:
        """Whether it is the field of this number, and a message or bytes."""
        return (self.number, self.kind) == (number, _BYTES)


def split(file: BufferedReader, name: str) -> tuple[onnx.ModelProto, Lazy]:
    """The model in `file` (a real one) without the values of its large float initializers, and these, read anew
    whenever they are asked for, from the file as it was opened: another one may take its place.

    Raises:
        ValueError: not the wire format, or no model in it.
        InputError: (later, when values are asked for) the file has changed meanwhile.
    """
    content = _Content(file.fileno(), name)
    weights: dict[str, partial[Array]] = {}

    def initializer(place: _Field) -> bytes:
        tensor, data = _tensor(file, place)
        if data is None:
            return _read(file, place.start, place.end)
        weights[tensor.name] = partial(
            content.array, data.inner, DTYPES[tensor.data_type], tuple(tensor.dims)
        )
        light: bytes = tensor.SerializeToString()
        return lead(_INITIALIZER, len(light)) + light

    def graph(place: _Field) -> bytes:
        parts = [
            initializer(part) if part.holds(_INITIALIZER) else _read(file, part.start, part.end)
            for part in _fields(file, place.inner, place.end)
        ]
        return b"".join([lead(_GRAPH, sum(map(len, parts))), *parts])

    parts = [
        graph(field) if field.holds(_GRAPH) else _read(file, field.start, field.end)
        for field in _fields(file, 0, content.size)
    ]
    try:
        proto = onnx.ModelProto.FromString(b"".join(parts))
    except Exception as error:
        raise ValueError(str(error)) from None
    if len({tensor.name for tensor in proto.graph.initializer}) < len(proto.graph.initializer):
        raise ValueError("two initializers have one name")
    if len(UnknownFieldSet(proto)) or len(UnknownFieldSet(proto.graph)):
        raise ValueError("it has fields of a later ONNX")
    return proto, Lazy(weights)


def _tensor(file: BufferedReader, whole: _Field) -> tuple[onnx.TensorProto, _Field | None]:
    """The tensor without its data and where these are; None where they are to stay."""
    fields = list(_fields(file, whole.inner, whole.end))
    data = [field for field in fields if field.holds(_RAW)]
    if len(data) != 1 or data[0].end - data[0].inner <= SMALL:
        return onnx.TensorProto(), None
    rest = b"".join(_read(file, field.start, field.end) for field in fields if field is not data[0])
    try:
        tensor = onnx.TensorProto.FromString(rest)
    except Exception as error:
        raise ValueError(str(error)) from None
    dtype = DTYPES.get(tensor.data_type)
    plain = {field.name for field, _ in tensor.ListFields()} <= _PLAIN and not len(UnknownFieldSet(tensor))
    if dtype is None or not plain or prod(tensor.dims) <= SMALL:
        return tensor, None
    return tensor, data[0] if prod(tensor.dims) * dtype.itemsize == data[0].end - data[0].inner else None


def _fields(file: BufferedReader, start: int, end: int) -> Iterator[_Field]:
    while start < end:
        file.seek(start)
        tag, at = _read_varint(file, start)
        number, kind = tag >> 3, tag & 7
        inner = at
        if kind == _VARINT:
            at = _read_varint(file, at)[1]
        elif kind == _BYTES:
            length, inner = _read_varint(file, at)
            at = inner + length
        elif kind in (_EIGHT, _FOUR):
            at += 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"wire type {kind} at byte {start}")
        if at > end:
            raise ValueError(f"a field at byte {start} ends beyond its message")
        yield _Field(number, kind, start, inner, at)
        start = at


def _read_varint(file: BufferedReader, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = shift = 0
    while shift < 70:
        byte = file.read(1)
        if not byte:
            break
        number |= (byte[0] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte[0] < 0x80:
            return number, at
    raise ValueError(f"no varint at byte {at}")


def _read(file: BufferedReader, start: int, end: int) -> bytes:
    file.seek(start)
    data = file.read(end - start)
    if len(data) < end - start:
        raise ValueError(f"it ends at byte {start + len(data)}")
    return data


class _Content:
    """A file's content, open as long as anybody may ask for it."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self._descriptor)
        self._name = name
        status = os.fstat(descriptor)
        self.size, self._time = status.st_size, status.st_mtime_ns

    def array(self, start: int, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
        array: Array = np.empty(shape, dtype)
        wanted, found = array.reshape(-1).view(np.uint8).data, 0
        while found < len(wanted):
            count = os.preadv(self._descriptor, [wanted[found:]], start + found)
            if not count:
                break
            found += count
        if found < len(wanted) or os.fstat(self._descriptor).st_mtime_ns != self._time:
            raise InputError("it was changed while it was in use", where=self._name, hint="try again")
        return array
