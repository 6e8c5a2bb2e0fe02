"""Architectures and their export: the graph is as designed, and says what the torch module says."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from secateur.formats import onnx_model
from secateur.formats.errors import InputError, UnsupportedError
from secateur.pipeline import onnxrt
from secateur.pipeline.train.architectures import ARCHITECTURES, build
from secateur.pipeline.train.export import export

SHAPES = {
    "digits_mlp": (1, 8, 8),
    "digits_cnn": (1, 8, 8),
    "conv_small": (1, 28, 28),
    "mnist_mlp": (1, 28, 28),
    "mnist_lenet": (1, 28, 28),
    "cifar_model_deep": (3, 32, 32),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_export_computes_what_the_module_computes(name: str) -> None:
    module = build(name, SHAPES[name], 10, seed=1)
    x = np.random.default_rng(0).random((5, *SHAPES[name]), np.float32)
    module.train()(torch.from_numpy(x))  # moves the BatchNorm statistics away from 0 and 1
    model = export(module, SHAPES[name])
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    assert np.abs(onnxrt.run(model, x) - expected).max() < 1e-5
    state = {key for key in module.state_dict() if not key.endswith("num_batches_tracked")}
    assert set(onnx_model.initializers(model.proto)) == state


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    def digest(seed: int) -> str:
        return export(build("digits_cnn", (1, 8, 8), 10, seed), (1, 8, 8)).sha256

    assert digest(0) == digest(0) != digest(1)


@pytest.mark.parametrize(
    ("shape", "relus", "flat"),
    [((3, 32, 32), 75_876, 2048), ((1, 28, 28), None, 1152), ((1, 32, 32), 75_876, 2048)],
)
def test_cifar_model_deep_is_the_papers(shape: tuple[int, ...], relus: int | None, flat: int) -> None:
    module = build("cifar_model_deep", shape, 10)
    fc1 = module.get_submodule("fc1")
    assert isinstance(fc1, nn.Linear) and (fc1.in_features, fc1.out_features) == (flat, 100)
    kinds = [type(layer).__name__ for layer in module]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * 5 + ["Flatten", "Linear", "ReLU", "Linear"]
    if relus is not None:
        counted, value = 0, torch.zeros(1, *shape)
        for layer in module.eval():
            value = layer(value)
            counted += value.numel() if isinstance(layer, nn.ReLU) else 0
        assert counted == relus


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="no architecture 'resnet'"):
        build("resnet", (1, 8, 8), 10)
    with pytest.raises(InputError, match="needs images"):
        build("digits_cnn", (64,), 10)
    with pytest.raises(InputError, match="too small"):
        build("cifar_model_deep", (1, 4, 4), 10)
    with pytest.raises(UnsupportedError, match="Sigmoid"):
        export(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()), (2,))


@settings(max_examples=20, deadline=None)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_convolution_is_exported_faithfully(
    kernel: int, stride: int, padding: int, groups: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(2, 4, kernel, stride=stride, padding=padding, groups=groups, bias=bias)
    module = nn.Sequential(conv, nn.ReLU(), nn.Flatten())
    x = torch.rand(3, 2, 7, 6)
    with torch.no_grad():
        expected = module(x).numpy()
    assert np.abs(onnxrt.run(export(module, (2, 7, 6)), x.numpy()) - expected).max() < 1e-5
