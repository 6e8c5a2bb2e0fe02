"""Models in parts: the same bytes, the same function, the same complaints."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from factories import cnn, mlp
from secateur.formats import onnx_model, onnx_parts
from secateur.formats.errors import InputError

# --- pieces --------------------------------------------------------------------------------------------------


def awkward() -> onnx.ModelProto:
    """Every kind of field around the initializers: functions, metadata, sparse and external-looking tensors."""
    proto = cnn()
    onnx_model.add_provenance(proto, "test", {"a": 1})
    proto.doc_string = "before and after the graph"
    proto.graph.doc_string = "ü" * 200
    proto.graph.metadata_props.add(key="k", value="v")
    values = numpy_helper.from_array(np.ones(2, np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([1, 5]), "")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9]))
    node = helper.make_node("Relu", ["a"], ["b"])
    proto.functions.append(
        helper.make_function("own", "f", ["a"], ["b"], [node], [helper.make_opsetid("", 17)])
    )
    return proto


@pytest.mark.parametrize(
    "proto",
    [
        cnn(),
        awkward(),
        onnx.ModelProto(),
        onnx.ModelProto(ir_version=8),
        onnx.ModelProto(graph=onnx.GraphProto()),
    ],
    ids=["cnn", "awkward", "empty", "no graph", "empty graph"],
)
def test_pieces_are_the_serialised_model(proto: onnx.ModelProto) -> None:
    whole = proto.SerializeToString(deterministic=True)
    assert b"".join(onnx_parts.pieces(proto)) == whole
    assert onnx_model.from_proto(proto).sha256 == hashlib.sha256(whole).hexdigest()


def test_fields_of_a_later_onnx_survive() -> None:
    """Field 500, a varint: unknown to this protobuf schema, in the model and in its graph."""
    unknown = b"\xa0\x1f\x07"
    data = cnn().SerializeToString() + unknown
    proto = onnx.ModelProto.FromString(data)
    assert b"".join(onnx_parts.pieces(proto)) == proto.SerializeToString(deterministic=True)
    proto = cnn()
    proto.graph.MergeFromString(unknown)
    assert unknown in b"".join(onnx_parts.pieces(proto))


@pytest.mark.parametrize("name", ["net.onnx", "net.onnx.gz"])
def test_written_files_are_the_serialised_model(name: str, tmp_path: Path) -> None:
    proto = awkward()
    del proto.graph.sparse_initializer[:]
    onnx_model.write(proto, str(tmp_path / name))
    data = (tmp_path / name).read_bytes()
    assert (gzip.decompress(data) if name.endswith("gz") else data) == onnx_model.to_bytes(proto)


def test_a_copy_with_other_initializers_shares_the_rest() -> None:
    proto = awkward()
    before = proto.SerializeToString(deterministic=True)
    new = [numpy_helper.from_array(np.zeros((2, 3, 1), np.float32), "other")]
    copy = onnx_parts.with_initializers(proto, new)
    assert proto.SerializeToString(deterministic=True) == before
    expected = onnx.ModelProto.FromString(before)
    del expected.graph.initializer[:]
    expected.graph.initializer.extend(new)
    assert copy == expected
    assert onnx_parts.with_initializers(proto, proto.graph.initializer) == proto


def test_check_finds_what_the_checker_finds() -> None:
    onnx_parts.check(awkward())
    for spoil in (_missing_input, _short_data, _twice, _no_type):
        proto = mlp([4, 3])
        spoil(proto)
        for judge in (onnx.checker.check_model, onnx_parts.check):
            with pytest.raises(onnx.checker.ValidationError):
                judge(proto)


def _missing_input(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = "nobody"


def _short_data(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].raw_data = b"\0"


def _twice(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(proto.graph.node[0])


def _no_type(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].data_type = 0


# --- apart ---------------------------------------------------------------------------------------------------


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """A network that counts as large: its widest weight alone has 2,048 elements."""
    monkeypatch.setattr(onnx_parts, "LARGE", 4096)
    return mlp([64, 32, 3])


def test_apart_feeds_the_large_weights(large: onnx.ModelProto) -> None:
    rest, arrays = onnx_parts.apart(large)
    assert list(arrays) == ["fc0.weight"]
    assert [tensor.name for tensor in rest.graph.initializer] == ["fc0.bias", "fc1.weight", "fc1.bias"]
    assert [value.name for value in rest.graph.input] == ["x", "fc0.weight"]
    onnx.checker.check_model(rest, full_check=True)
    assert np.array_equal(arrays["fc0.weight"], onnx_model.initializers(large)["fc0.weight"])


def test_an_initializer_that_is_an_input_already_is_listed_once(large: onnx.ModelProto) -> None:
    large.graph.input.append(helper.make_tensor_value_info("fc0.weight", TensorProto.FLOAT, [32, 64]))
    rest, arrays = onnx_parts.apart(large)
    assert [value.name for value in rest.graph.input] == ["x", "fc0.weight"]
    assert list(arrays) == ["fc0.weight"]


def test_a_small_model_stays_whole() -> None:
    proto = cnn()
    rest, arrays = onnx_parts.apart(proto)
    assert rest is proto
    assert arrays == {}


def test_too_many_data_are_named() -> None:
    """The checker lets them pass."""
    proto = mlp([4, 3])
    proto.graph.initializer[0].raw_data += b"\0" * 4
    with pytest.raises(InputError, match=r"net\.onnx: invalid ONNX: initializer 'fc0\.weight'"):
        onnx_model.from_bytes(proto.SerializeToString(), "net.onnx")
