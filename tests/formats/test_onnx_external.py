"""Models whose weights lie in a second file: read, written when they are too large for one, refused by name."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from factories import mlp
from secateur.formats import onnx_external, onnx_model
from secateur.formats.errors import InputError


@pytest.fixture
def model() -> onnx.ModelProto:
    return mlp([20, 30, 4])


def outside(model: onnx.ModelProto, path: Path) -> Path:
    """`model` as another tool would write it in two files."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.save(copy, path, save_as_external_data=True, location="w.data", size_threshold=0)
    return path


def values(proto: onnx.ModelProto) -> dict[str, bytes]:
    return {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in proto.graph.initializer}


def test_weights_beside_the_model_are_read(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = outside(model, tmp_path / "net.onnx")
    read = onnx_model.read(str(path))
    assert values(read.proto) == values(model)
    assert all(not tensor.external_data for tensor in read.graph.initializer)
    onnx_model.write(read, str(tmp_path / "one.onnx"))
    assert values(onnx.load(tmp_path / "one.onnx")) == values(model)
    (tmp_path / "w.data").write_bytes((tmp_path / "w.data").read_bytes()[:-4] + b"\0\0\0\0")
    assert onnx_model.read(str(path)).sha256 != read.sha256


def test_weights_in_attributes_are_read(tmp_path: Path) -> None:
    proto = mlp([3, 2])
    tensor = proto.graph.initializer.pop(0)
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    path = tmp_path / "net.onnx"
    onnx.save(proto, path, save_as_external_data=True, size_threshold=0, convert_attribute=True)
    constant = onnx_model.read(str(path)).graph.node[0].attribute[0].t
    assert numpy_helper.to_array(constant).tobytes() == numpy_helper.to_array(tensor).tobytes()


@pytest.mark.parametrize("name", ["net.onnx", "net.onnx.gz"])
def test_a_large_model_is_written_in_two_files(
    name: str, model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_external, "LIMIT", 1000)
    path = tmp_path / name
    onnx_model.write(model, str(path))
    assert (tmp_path / "net.onnx.data").stat().st_size == 20 * 30 * 4
    again = onnx_model.read(str(path))
    assert again.proto == model
    first = path.read_bytes(), (tmp_path / "net.onnx.data").read_bytes()
    onnx_model.write(again, str(path))
    assert (path.read_bytes(), (tmp_path / "net.onnx.data").read_bytes()) == first
    if name.endswith(".onnx"):
        assert values(onnx.load(path)) == values(model)
        onnx.checker.check_model(str(path))


def test_a_large_model_does_not_go_through_a_stream(
    model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_external, "LIMIT", 1000)
    with pytest.raises(InputError, match="more than 2 GB"):
        onnx_model.write(model, "-")


def test_what_cannot_be_found_is_named(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = outside(model, tmp_path / "net.onnx")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        with pytest.raises(InputError, match=r"standard input: tensor 'fc0.weight' lies in another file"):
            onnx_model.read("-")
    data = (tmp_path / "w.data").read_bytes()
    (tmp_path / "w.data").write_bytes(data[:100])
    with pytest.raises(InputError, match=r"fc0\.weight"):
        onnx_model.read(str(path))
    (tmp_path / "w.data").unlink()
    with pytest.raises(InputError, match=r"'fc0.weight' lies in 'w.data', which cannot be read"):
        onnx_model.read(str(path))


def test_no_file_outside_of_the_folder_is_read(model: onnx.ModelProto, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(20 * 30 * 4))
    folder = tmp_path / "model"
    folder.mkdir()
    path = outside(model, folder / "net.onnx")
    proto = onnx.load(path, load_external_data=False)
    for place in ("../secret", str(secret)):
        proto.graph.initializer[0].external_data[0].value = place
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(InputError, match="cannot be read"):
            onnx_model.read(str(path))
    (folder / "link").symlink_to(secret)
    proto.graph.initializer[0].external_data[0].value = "link"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="cannot be read"):
        onnx_model.read(str(path))
