"""The small named architectures that `secateur train ARCH` builds, as plain torch modules.

Every one is an `nn.Sequential` of named layers, so that its state_dict names (`conv1.weight`, `bn1.running_mean`)
become the initializer names of the exported ONNX graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from secateur.formats.errors import InputError


@dataclass(frozen=True)
class Architecture:
    """A named architecture: `build(input_shape, classes)` takes the shape of one input without batch, [C, H, W]
    (or [F] for the fully connected ones)."""

    name: str
    summary: str
    build: Callable[[tuple[int, ...], int], nn.Sequential]


class _Stack:
    """Collects named layers while following the shape [C, H, W] or [F] that flows through them."""

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        self.shape = input_shape
        self.layers: dict[str, nn.Module] = {}
        self.convolutions = 0
        self.dense_layers = 0

    def conv(self, channels: int, kernel: int, stride: int, padding: int, *, norm: bool = True) -> None:
        """Conv, BatchNorm (unless `norm` is false), ReLU."""
        self.convolutions += 1
        index = self.convolutions
        layer = nn.Conv2d(self.shape[0], channels, kernel, stride=stride, padding=padding)
        height, width = ((size + 2 * padding - kernel) // stride + 1 for size in self.shape[1:])
        if height < 1 or width < 1:
            raise InputError(
                f"images of {self.shape[1]}×{self.shape[2]} are too small for convolution {index} of this architecture",
                hint="choose a smaller one: secateur train --list",
            )
        self.layers[f"conv{index}"] = layer
        if norm:
            self.layers[f"bn{index}"] = nn.BatchNorm2d(channels)
        self.layers[f"relu{index}"] = nn.ReLU()
        self.shape = (channels, height, width)

    def dense(self, features: int, *, relu: bool = True) -> None:
        """Linear (after a Flatten where needed), ReLU (unless `relu` is false)."""
        if len(self.shape) > 1:
            self.layers["flatten"] = nn.Flatten()
            self.shape = (prod(self.shape),)
        self.dense_layers += 1
        index = self.dense_layers
        self.layers[f"fc{index}"] = nn.Linear(self.shape[0], features)
        if relu:
            self.layers[f"relu{self.convolutions + index}"] = nn.ReLU()
        self.shape = (features,)

    def done(self) -> nn.Sequential:
        module = nn.Sequential()
        for name, layer in self.layers.items():
            module.add_module(name, layer)
        return module


def _image_stack(input_shape: tuple[int, ...]) -> _Stack:
    if len(input_shape) != 3:
        raise InputError(
            f"a convolutional architecture needs images [channels, height, width], found {list(input_shape)}",
            hint="use a fully connected one: secateur train --list",
        )
    return _Stack(input_shape)


def _mlp(*widths: int) -> Callable[[tuple[int, ...], int], nn.Sequential]:
    def build(input_shape: tuple[int, ...], classes: int) -> nn.Sequential:
        stack = _Stack(input_shape)
        for width in widths:
            stack.dense(width)
        stack.dense(classes, relu=False)
        return stack.done()

    return build


def _digits_cnn(input_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    stack = _image_stack(input_shape)
    stack.conv(16, 3, 1, 1)
    stack.conv(32, 3, 2, 1)
    stack.conv(32, 3, 2, 1)
    stack.dense(32)
    stack.dense(classes, relu=False)
    return stack.done()


def _mnist_lenet(input_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    stack = _image_stack(input_shape)
    stack.conv(6, 5, 2, 2, norm=False)
    stack.conv(16, 5, 2, 0, norm=False)
    stack.dense(120)
    stack.dense(84)
    stack.dense(classes, relu=False)
    return stack.done()


def _conv_small(input_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """The front and the end of `cifar_model_deep`, an eighth as wide: for studies on a few cores."""
    stack = _image_stack(input_shape)
    stack.conv(8, 4, 2, 1)
    stack.conv(16, 4, 2, 1)
    stack.dense(32)
    stack.dense(classes, relu=False)
    return stack.done()


def _cifar_model_deep(input_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Li et al., "Can pruning improve certified robustness of neural networks?" (arXiv 2206.07311), section 4.1."""
    stack = _image_stack(input_shape)
    stack.conv(32, 3, 1, 1)
    stack.conv(64, 4, 2, 1)
    stack.conv(64, 3, 1, 1)
    stack.conv(128, 4, 2, 1)
    stack.conv(128, 4, 2, 1)
    stack.dense(100)
    stack.dense(classes, relu=False)
    return stack.done()


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture("digits_mlp", "fully connected 32-32, for 8×8 digits", _mlp(32, 32)),
        Architecture("digits_cnn", "3 Conv-BN-ReLU (16, 32, 32) + fully connected 32", _digits_cnn),
        Architecture("mnist_mlp", "LeNet-300-100: fully connected 300-100", _mlp(300, 100)),
        Architecture("mnist_lenet", "LeNet-5 with strided convolutions in place of pooling", _mnist_lenet),
        Architecture("conv_small", "2 Conv-BN-ReLU (8, 16) + fully connected 32; any images", _conv_small),
        Architecture(
            "cifar_model_deep",
            "5 Conv-BN-ReLU (32, 64, 64, 128, 128) + fully connected 100; 1 or 3 input channels",
            _cifar_model_deep,
        ),
    )
}


def build(name: str, input_shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Sequential:
    """The architecture `name` with torch's default initialisation drawn from `seed`.

    Raises:
        InputError: no such architecture, or one that the input shape does not fit.
    """
    if name not in ARCHITECTURES:
        raise InputError(
            f"no architecture '{name}': expected one of {', '.join(ARCHITECTURES)}",
            hint="or give an ONNX file that exists",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[name].build(input_shape, classes)
