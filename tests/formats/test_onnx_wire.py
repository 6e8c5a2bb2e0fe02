"""Large files: their weights stay there, and all else is as if they had been read as a whole."""

from __future__ import annotations

import gzip
import io
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from factories import cnn, mlp
from secateur.formats import onnx_model, onnx_parts, streams
from secateur.formats.errors import InputError, SecateurError


@pytest.fixture(autouse=True, scope="module")
def everything_is_large():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_parts, "LARGE", 1)
        patch.setattr(streams, "_IN_MEMORY", 64)
        yield


def network() -> onnx.ModelProto:
    """Two weights to be left in the file, one too small, one of integers, one with typed data."""
    proto = mlp([40, 50, 60, 3])
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(2000), "whole numbers"))
    proto.graph.initializer.add(name="typed", data_type=1, dims=[1100], float_data=[0.5] * 1100)
    proto.graph.initializer[0].doc_string = "before"
    onnx_model.add_provenance(proto, "test", {})
    return proto


def written(proto: onnx.ModelProto, path: Path) -> str:
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return str(path)


def test_a_large_model_is_read_without_its_weights(tmp_path):
    proto = network()
    read = onnx_model.read(written(proto, tmp_path / "net.onnx"))
    assert list(read.weights) == ["fc0.weight", "fc1.weight"]
    assert all(not tensor.raw_data for tensor in read.light.graph.initializer if tensor.name in read.weights)
    assert "proto" not in vars(read)
    assert read.sha256 == onnx_model.from_proto(proto).sha256
    for name, array in onnx_model.initializers(proto).items():
        assert np.array_equal(onnx_model.values(read)[name], array)
    assert read.proto == proto
    assert onnx_model.to_bytes(read) == onnx_model.to_bytes(proto)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_streams_and_compressed_files_are_read_alike(compress, stream, tmp_path, monkeypatch):
    proto = network()
    data = proto.SerializeToString(deterministic=True)
    path = tmp_path / "net.onnx"
    path.write_bytes(gzip.compress(data) if compress else data)
    if stream:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    read = onnx_model.read("-" if stream else str(path))
    assert read.weights
    assert read.proto == proto


def test_another_file_may_take_its_place(tmp_path):
    path = tmp_path / "net.onnx"
    read = onnx_model.read(written(network(), path))
    onnx_model.write(mlp([2, 2]), str(path))
    assert read.proto == network()


def test_a_file_that_changes_meanwhile_is_refused(tmp_path):
    path = tmp_path / "net.onnx"
    read = onnx_model.read(written(network(), path))
    os.truncate(path, 5000)
    with pytest.raises(InputError, match=r"net\.onnx: it was changed while it was in use"):
        _ = read.proto


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(bad, tmp_path):
    proto = network()
    array = np.array(onnx_model.initializers(proto)["fc1.weight"])
    array[3, 4] = bad
    onnx_model.set_initializer(proto, "fc1.weight", array)
    with pytest.raises(InputError, match=r"initializer 'fc1\.weight' has (NaN|infinite) weights"):
        onnx_model.read(written(proto, tmp_path / "net.onnx"))


def test_what_cannot_lie_apart_is_read_as_a_whole(tmp_path):
    unknown = b"\xa0\x1f\x07"  # field 500
    later = network()
    later.graph.MergeFromString(unknown)
    read = onnx_model.read(written(later, tmp_path / "later.onnx"))
    assert not read.weights
    assert read.proto == later
    odd = network()
    odd.graph.initializer[0].MergeFromString(unknown)
    odd.graph.initializer[2].dims[0] += 1  # fewer data than the shape has room for: for the checker to say
    with pytest.raises(InputError, match="invalid ONNX"):
        onnx_model.read(written(odd, tmp_path / "odd.onnx"))


def same(path: Path) -> None:
    """That reading a file in parts gives what reading it as a whole gives: the same model, or the same complaint."""
    found = []
    for read in (onnx_model.read, lambda name: onnx_model.from_bytes(Path(name).read_bytes(), name)):
        try:
            found.append((read(str(path)).proto.SerializeToString(deterministic=True), ""))
        except SecateurError as error:
            found.append((b"", str(error)))
    assert found[0] == found[1]


KINDS = [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64]
DATA = cnn(channels=12, side=16).SerializeToString()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(0, 255)), max_size=4),
    st.integers(1, len(DATA)),
)
def test_damaged_files_get_the_complaint_of_a_whole_reading(tmp_path_factory, changes, length):
    data = bytearray(DATA)
    for place, value in changes:
        data[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(data[:length] if length % 3 == 0 else data)
    same(path)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_tensor_survives(tmp_path_factory, data):
    """Shapes, types and fields of all kinds, twice the same name among them."""
    proto = mlp([2, 2])
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(
            st.sampled_from([TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64])
        )
        shape = data.draw(st.sampled_from([(1100,), (33, 40), (3,), (), (0, 5), (2, 7, 90)]))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        tensor = proto.graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(np.ones(shape, dtype), data.draw(st.sampled_from("abc"))))
        change = data.draw(st.sampled_from(["", "doc", "short", "typed", "location", "metadata"]))
        if change == "doc":
            tensor.doc_string = "behind its data"
        elif change == "short":
            tensor.raw_data = tensor.raw_data[:-1]
        elif change == "typed":
            tensor.float_data.append(1)
        elif change == "location":
            tensor.data_location = TensorProto.DEFAULT
        elif change == "metadata":
            tensor.metadata_props.add(key="k", value="v")
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(proto.SerializeToString())
    same(path)
