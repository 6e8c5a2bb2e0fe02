"""Sparse initializers: ONNX `SparseTensorProto`, which stores the non-zeros and where they are.

Each non-zero costs its value and 8 bytes of place, so that float32 tensors grow smaller from two thirds of zeros on.
onnxruntime (tried: 1.32, on float16, float32, float64 and integers) makes them dense while it loads them: the file is
smaller, the network neither smaller in memory nor faster. Initializers of sub-graphs (If, Loop, Scan) stay dense here.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from secateur.formats.errors import InputError

_PLACE = 8  # bytes of an int64 index
_TYPES = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16}


def sparsify(proto: onnx.ModelProto) -> list[str]:
    """Store, in place, the floating-point initializers sparse that are smaller so; their names."""
    graph = proto.graph
    taken, dense = [], []
    inputs = {value.name for value in graph.input}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor) if tensor.data_type in _TYPES and tensor.dims else None
        if array is None or tensor.name in inputs:
            dense.append(tensor)
            continue
        places = np.flatnonzero(array)
        if len(places) * (array.itemsize + _PLACE) >= array.nbytes:
            dense.append(tensor)
            continue
        graph.sparse_initializer.add(
            values=numpy_helper.from_array(array.reshape(-1)[places], tensor.name),
            indices=numpy_helper.from_array(places.astype(np.int64)),
            dims=tensor.dims,
        )
        taken.append(tensor.name)
    kept = [TensorProto.FromString(tensor.SerializeToString()) for tensor in dense]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return taken


def densify(proto: onnx.ModelProto, where: str | None = None) -> list[str]:
    """Store all sparse initializers dense again, in place; their names.

    Raises:
        InputError: places beyond a tensor's end, or of another count than its values.
    """
    graph = proto.graph
    names = []
    for sparse in graph.sparse_initializer:
        name = sparse.values.name
        graph.initializer.append(numpy_helper.from_array(_dense(sparse, name, where), name))
        names.append(name)
    del graph.sparse_initializer[:]
    return names


def _dense(sparse: onnx.SparseTensorProto, name: str, where: str | None) -> NDArray[np.generic]:
    values = numpy_helper.to_array(sparse.values).reshape(-1)
    places = numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    whole = np.zeros(shape, values.dtype)
    try:
        if places.ndim == 2:
            places = np.ravel_multi_index(tuple(places.T), shape)
        if len(places) != len(values) or (places < 0).any():
            raise ValueError
        whole.reshape(-1)[places] = values
    except (ValueError, IndexError):
        raise InputError(
            f"sparse initializer '{name}' of shape {shape}: its places do not fit its {len(values)} values",
            where=where,
        ) from None
    return whole
