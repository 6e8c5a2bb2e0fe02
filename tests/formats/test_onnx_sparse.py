"""Sparse initializers: onnxruntime reads them as they are meant, and so do we."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from factories import cnn, mlp
from secateur.formats import onnx_model, onnx_parts, onnx_sparse
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import initializers
from secateur.pipeline import onnxrt


def half_zero(proto: onnx.ModelProto, share: float = 0.9) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    for name, array in initializers(proto).items():
        onnx_model.set_initializer(proto, name, array * (random.random(array.shape) > share))
    return proto


@pytest.mark.parametrize("proto", [cnn(channels=8), mlp([20, 30, 4])], ids=["cnn", "mlp"])
def test_sparse_initializers_run_in_onnxruntime_and_come_back(proto):
    dense = half_zero(proto)
    sparse = onnx.ModelProto.FromString(dense.SerializeToString())
    names = onnx_sparse.sparsify(sparse)
    assert names and {tensor.values.name for tensor in sparse.graph.sparse_initializer} == set(names)
    assert sparse.ByteSize() < dense.ByteSize()
    onnx_parts.check(sparse)
    assert onnxrt.compare(dense, sparse, tolerance=0) == 0
    read = onnx_model.from_bytes(sparse.SerializeToString(), "sparse.onnx").proto
    assert not read.graph.sparse_initializer
    back, before = initializers(read), initializers(dense)
    assert back.keys() == before.keys()
    assert all(
        np.array_equal(back[name], array) and back[name].dtype == array.dtype
        for name, array in before.items()
    )


def test_what_would_not_be_smaller_stays_dense():
    assert onnx_sparse.sparsify(half_zero(mlp([20, 30, 4]), share=0.5)) == []


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("flat", [True, False])
def test_places_flat_or_by_axis_of_any_type(dtype, flat):
    """What other tools write, against onnxruntime's own reading."""
    whole = np.zeros((6, 5), dtype)
    whole[1, 2], whole[4, 4] = 3, 2
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shape = ["x", kind, [6, 5]], ["y", kind, [6, 5]]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "graph",
        *([helper.make_tensor_value_info(*value)] for value in shape),
    )
    places = np.flatnonzero(whole) if flat else np.argwhere(whole)
    graph.sparse_initializer.add(
        values=numpy_helper.from_array(whole[whole != 0], "w"),
        indices=numpy_helper.from_array(places.astype(np.int64)),
        dims=whole.shape,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"x": np.zeros_like(whole)})[0], whole)
    assert onnx_sparse.densify(proto) == ["w"]
    assert np.array_equal(initializers(proto)["w"], whole)


def test_places_beyond_the_end_are_refused():
    proto = mlp([3, 2])
    proto.graph.sparse_initializer.add(
        values=numpy_helper.from_array(np.ones(1, np.float32), "extra"),
        indices=numpy_helper.from_array(np.array([9])),
        dims=[4],
    )
    with pytest.raises(
        InputError, match=r"net\.onnx: sparse initializer 'extra' of shape \(4,\): its places"
    ):
        onnx_sparse.densify(proto, "net.onnx")
