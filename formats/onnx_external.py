"""ONNX tensors whose data lie in files beside the model: what protobuf needs beyond 2 GB, and exporters often write.

A place is relative to the model's folder; onnx follows it neither out of that folder nor through links.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import onnx
from onnx import external_data_helper

from secateur.formats import onnx_parts, streams
from secateur.formats.errors import InputError
from secateur.formats.onnx_parts import Arrays

LIMIT = 2**31 - 2**24
"""Bytes of weights from which a model goes into two files: protobuf reads 2 GiB, and the graph needs some of them."""

SUFFIX = ".data"
_SMALL = 1024  # bytes up to which a tensor stays inside: shapes and scalars
_WIDEST = 8  # bytes of an element, where `raw_data` does not tell


def load(proto: onnx.ModelProto, folder: Path | None, name: str, digest: Callable[[bytes], object]) -> None:
    """Fill in the data that lie outside; `digest` is given each tensor's.

    Raises:
        InputError: a file is missing, too short or not in `folder`, or there is no folder (a stream).
    """
    for tensor in _tensors(proto.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        if folder is None:
            raise InputError(
                f"tensor '{tensor.name}' lies in another file, to which a stream does not lead",
                where=name,
                hint="give the model's path",
            )
        place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            message = f"tensor '{tensor.name}' lies in '{place}', which cannot be read: {reason}"
            raise InputError(message, where=name, hint="copy it beside the model") from None
        tensor.ClearField("data_location")
        del tensor.external_data[:]
        digest(tensor.raw_data)


def needed(proto: onnx.ModelProto, weights: Arrays) -> bool:
    """Whether the model, whose initializers have the values `weights` where `proto` has none, is too large for one
    file."""
    sizes = (_size(tensor, weights) or _WIDEST * prod(tensor.dims) for tensor in proto.graph.initializer)
    return sum(sizes) > LIMIT


def write(proto: onnx.ModelProto, weights: Arrays, destination: str) -> None:
    """Write the model to the path `destination` with its weights in a second file, `destination` + `.data`, which
    comes first, so that a model that is there is whole.

    Raises:
        InputError: the destination is a stream, or cannot be written.
    """
    if destination == streams.STREAM:
        raise InputError(
            "the model has more than 2 GB, which ONNX cannot hold in one stream",
            where=streams.display_name(destination),
            hint="write it with -o FILE: its weights go to a second file",
        )
    path = Path(destination.removesuffix(".gz") + SUFFIX)
    sizes = [_size(tensor, weights) for tensor in proto.graph.initializer]
    chosen = [tensor for tensor, size in zip(proto.graph.initializer, sizes, strict=True) if size > _SMALL]
    data = (weights[t.name].tobytes() if t.name in weights else t.raw_data for t in chosen)
    streams.write_pieces(str(path), data)
    rest = onnx_parts.with_initializers(proto, _stubs(proto, sizes, path.name))
    streams.write_pieces(destination, onnx_parts.pieces(rest))


def _size(tensor: onnx.TensorProto, weights: Arrays) -> int:
    """Bytes of `raw_data`."""
    if tensor.name in weights:
        return int(prod(tensor.dims) * onnx_parts.DTYPES[tensor.data_type].itemsize)
    return len(tensor.raw_data)


def _stubs(proto: onnx.ModelProto, sizes: list[int], place: str) -> Iterator[onnx.TensorProto]:
    """The initializers, those outside without their data but with where they are."""
    start = 0
    for tensor, size in zip(proto.graph.initializer, sizes, strict=True):
        if size <= _SMALL:
            yield tensor
            continue
        stub = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        stub.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", place), ("offset", start), ("length", size)):
            stub.external_data.add(key=key, value=str(value))
        yield stub
        start += size


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All tensors, also those of attributes and of graphs inside nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from _tensors(inner)
