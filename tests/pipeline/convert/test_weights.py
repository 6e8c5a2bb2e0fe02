"""Weights with an architecture, and TorchScript archives, compute what their modules compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from secateur.formats.errors import InputError
from secateur.pipeline import architecture, onnxrt
from secateur.pipeline.convert import convert
from secateur.pipeline.convert.sources import Options
from secateur.pipeline.train import architectures

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
SHAPE = (1, 8, 8)


class Two(nn.Module):
    """A network that no Sequential is: its branches meet again, and it asks for its input's size."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 1)
        self.norm, self.last = nn.BatchNorm2d(2), nn.Linear(128, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.relu(self.norm(self.left(x))) + self.right(x)
        return self.last(both.view(x.size(0), -1))


def two() -> nn.Module:
    torch.manual_seed(0)
    module = Two()
    module.norm.running_mean.uniform_(-1, 1)
    return module.eval()


FILE = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

nothing = 3

def broken(size):
    pass
"""


def same(proto: object, module: nn.Module) -> bool:
    x = onnxrt.sample_inputs(64, seed=5, samples=4)
    with torch.no_grad():
        expected = module(torch.from_numpy(x.reshape(4, *SHAPE))).numpy()
    return np.allclose(onnxrt.run_together(proto, x), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["state_dict", "checkpoint", "old", "safetensors"])
def test_weights_of_our_architectures(kind: str, tmp_path: Path) -> None:
    module = architectures.build("digits_mlp", SHAPE, 7, seed=4)
    state, path = module.state_dict(), tmp_path / "weights"
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "checkpoint":
        inner = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"epoch": 3, "state_dict": inner, "optimizer": {"lr": 0.1}}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind != "old")
    with pytest.raises(InputError, match="--architecture"):
        convert(str(path))
    build = architecture.find("digits_mlp")
    with pytest.raises(InputError, match="--input-shape"):
        convert(str(path), options=Options(architecture=build))
    result = convert(str(path), options=Options(architecture=build, input_shape=SHAPE))
    assert same(result.proto, module)
    other = Options(architecture=architecture.find("mnist_mlp"), input_shape=SHAPE)
    with pytest.raises(InputError, match="the weights do not fit the architecture: size mismatch"):
        convert(str(path), options=other)


def test_an_architecture_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secateur_test_nets.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    for place in (f"{tmp_path}/secateur_test_nets.py:build", "secateur_test_nets:build"):
        options = Options(architecture=architecture.find(place), input_shape=SHAPE)
        assert same(convert(str(tmp_path / "weights.pt"), options=options).proto, module)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("resnet_9000", "no architecture 'resnet_9000': expected one of digits_mlp"),
        ("nets.py:nothing", "'nets.py:nothing' gives a int: expected a torch module"),
        ("nets.py:broken", "'nets.py:broken' fails: TypeError"),
        ("nets.py:absent", "'nets.py' has no 'absent'"),
        ("missing.py:build", "cannot import 'missing.py': FileNotFoundError"),
        ("no.such.package:build", "cannot import 'no.such.package': ModuleNotFoundError"),
    ],
)
def test_architectures_that_are_none_are_named(
    place: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        architecture.find(place)({}, SHAPE)


@pytest.mark.parametrize("how", ["script", "trace", "freeze"])
def test_torchscript(how: str, tmp_path: Path) -> None:
    module, path = two(), str(tmp_path / "net.pt")
    if how == "trace":
        torch.jit.save(torch.jit.trace(module, torch.zeros(3, *SHAPE)), path)
        result = convert(path)
    else:
        script = torch.jit.script(module)
        torch.jit.save(torch.jit.freeze(script) if how == "freeze" else script, path)
        with pytest.raises(InputError, match="--input-shape"):
            convert(path)
        result = convert(path, options=Options(input_shape=SHAPE))
    assert same(result.proto, module)
    assert result.difference < 1e-5
    folded = how == "freeze"
    assert any(node.op_type == "BatchNormalization" for node in result.proto.graph.node) != folded
    with pytest.raises(InputError, match=r"does not take inputs of shape \(1, 5, 5\)"):
        convert(path, options=Options(input_shape=(1, 5, 5)))


def test_a_script_that_fixes_its_batch_is_read_one_by_one(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x.reshape(1, 64)[:, :5])

    path = str(tmp_path / "net.pt")
    torch.jit.save(torch.jit.script(Fixed()), path)
    result = convert(path, options=Options(input_shape=SHAPE))
    assert onnxrt.count_outputs(result.proto) == 5


def test_a_script_that_reaches_files_is_refused(tmp_path: Path) -> None:
    class Reader(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.from_file("weights.bin", False, 64)

    path = str(tmp_path / "net.pt")
    torch.jit.save(torch.jit.script(Reader()), path)
    with pytest.raises(InputError, match=r"calls 'from_file'.*--trust-pickle"):
        convert(path, options=Options(input_shape=SHAPE))
    damaged = tmp_path / "cut.pt"
    damaged.write_bytes(Path(path).read_bytes()[:300])
    with pytest.raises(InputError, match="damaged archive"):
        convert(str(damaged))
