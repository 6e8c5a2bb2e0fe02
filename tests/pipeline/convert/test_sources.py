"""Sources told by their bytes: torch archives, pickles (only when trusted), ONNX, and what is none of these."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from factories import mlp
from secateur.formats import onnx_model
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import initializers
from secateur.pipeline import onnxrt
from secateur.pipeline.convert import conversion, sources
from secateur.pipeline.convert.sources import Options

torch = pytest.importorskip("torch")


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(4 * 36, 3),
    )
    module[1].running_mean.uniform_(-1, 1)
    return module.eval()


def trusted(*shape: int) -> Options:
    return Options(trust_pickle=True, input_shape=shape)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    torch.export.save(torch.export.export(network(), (torch.zeros(1, 1, 8, 8),)), path)
    return path


def altered(archive: Path, target: Path, ending: str, content: bytes) -> Path:
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(target, "w") as after:
        for name in before.namelist():
            after.writestr(name, content if name.endswith(ending) else before.read(name))
    return target


def test_an_exported_program_becomes_a_clean_model(archive):
    result = conversion.convert(str(archive))
    proto = result.proto
    assert [n.op_type for n in proto.graph.node] == ["Conv", "BatchNormalization", "Relu", "Flatten", "Gemm"]
    assert {"0.weight", "1.running_mean", "5.bias"} <= set(initializers(proto))
    assert result.passes["batch"] == "done"
    x = onnxrt.sample_inputs(64, seed=5, samples=4)
    with torch.no_grad():
        expected = network()(torch.from_numpy(x.reshape(4, 1, 8, 8))).numpy()
    assert np.allclose(onnxrt.run(proto, x), expected, atol=1e-5)
    assert os.fsencode(os.getcwd()) not in proto.SerializeToString()
    assert b"/site-packages/" not in proto.SerializeToString()


def test_a_pickled_module_is_loaded_only_when_trusted(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(network(), path)
    with pytest.raises(InputError, match="--trust-pickle"):
        sources.read(str(path))
    with pytest.raises(InputError, match="--input-shape"):
        sources.read(str(path), Options(trust_pickle=True))
    with pytest.raises(InputError, match="does not take inputs of shape"):
        sources.read(str(path), trusted(3, 8, 8))
    result = conversion.convert(str(path), options=trusted(1, 8, 8))
    assert onnxrt.input_shape(result.proto) == (1, 1, 8, 8)
    assert result.difference < 1e-5


def test_an_archive_with_a_pickle_inside_runs_nothing(archive, tmp_path):
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "was_run"),)

    evil = altered(archive, tmp_path / "evil.pt2", "sample_inputs/model.pt", pickle.dumps(Payload()))
    with pytest.raises(InputError, match="holds a pickled object"):
        sources.read(str(evil))
    assert not (tmp_path / "was_run").exists()


def test_malformed_sources_give_one_clear_line(archive, tmp_path):
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as file:
        file.writestr("readme.txt", "hello")
    cases = {
        "cut.pt2": (archive.read_bytes()[:2000], "damaged archive"),
        "other.zip": (plain.getvalue(), "none of the known kinds"),
        "cut.pkl": (b"\x80\x02garbage", "cannot be unpickled"),
        "text.onnx": (b"hello world", "not an ONNX model|invalid ONNX"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            sources.read(str(path), trusted(1))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    broken = altered(archive, tmp_path / "broken.pt2", "models/model.json", b"{")
    with pytest.raises(InputError, match=r"not a readable \.pt2"):
        sources.read(str(broken))


def test_onnx_is_read_as_it_is(tmp_path):
    path = tmp_path / "net.onnx.gz"
    onnx_model.write(mlp([3, 4, 2]), str(path))
    source = sources.read(str(path))
    assert source.kind == "onnx"
    assert source.proto == mlp([3, 4, 2])
    assert source.sha256 == onnx_model.from_proto(mlp([3, 4, 2])).sha256
