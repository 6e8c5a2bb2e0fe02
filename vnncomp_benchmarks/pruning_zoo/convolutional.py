"""Convolutional classifiers in miniature, one a family: the ways in which channels get tied together.

Each is named after the network whose structure it borrows; widths and depths are small, inputs 3 × 32 × 32 unless said
otherwise, ten classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 10


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (but for the stride), and its batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def mlp() -> nn.Module:
    """Input 64: three fully connected layers."""
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.Tanh(), nn.Linear(128, CLASSES)
    )


def lenet() -> nn.Module:
    """Input 1 × 28 × 28 (LeCun et al., 1998): channels flattened into neurons."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES),
    )  # fmt: skip


def vgg() -> nn.Module:
    """Simonyan and Zisserman, 2015, with batch normalisation: a plain chain."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 32, 0, 64, 64, 0, 128, 128, 0):
        if width:
            layers += [conv_bn(channels, width), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    flat = channels * 16
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(flat, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, CLASSES)
    )


class Residual(nn.Module):
    """Two convolutions (the second grouped by `groups` in ResNeXt's way) beside the identity, or a projection."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        if groups == 1:
            body = [conv_bn(inputs, outputs, 3, stride), nn.ReLU(), conv_bn(outputs, outputs)]
        else:
            body = [conv_bn(inputs, outputs, 1), nn.ReLU(), conv_bn(outputs, outputs, 3, stride, groups)]
            body += [nn.ReLU(), conv_bn(outputs, outputs, 1)]
        self.body = nn.Sequential(*body)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet(groups: int = 1) -> nn.Module:
    """He et al., 2016: stages of tied spines, projection shortcuts between them."""
    stages = [(32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    blocks = [Residual(*stage, groups=groups) for stage in stages]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, CLASSES)]
    return nn.Sequential(conv_bn(3, 32), nn.ReLU(), *blocks, *head)


def resnext() -> nn.Module:
    """Xie et al., 2017: convolutions in 8 groups inside the blocks."""
    return resnet(groups=8)


class Dense(nn.Module):
    """A layer whose output is put behind its input's channels."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet() -> nn.Module:
    """Huang et al., 2017: concatenations, normalised before they are convolved."""
    growth, channels = 16, 32
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for stage in range(3):
        for _ in range(3):
            layers.append(Dense(channels, growth))
            channels += growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if stage < 2:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


class Gate(nn.Module):
    """Squeeze and excitation (Hu et al., 2018): channels scaled by what the whole image says about them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x * nn.functional.hardsigmoid(self.excite(scale))


class Inverted(nn.Module):
    """Expand, convolve each channel by itself, gate, project; with a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = 4 * inputs
        self.body = nn.Sequential(
            conv_bn(inputs, hidden, 1), nn.ReLU6(), conv_bn(hidden, hidden, 3, stride, groups=hidden),
            nn.Hardswish(), Gate(hidden), conv_bn(hidden, outputs, 1),
        )  # fmt: skip
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet() -> nn.Module:
    """Howard et al., 2019: depthwise convolutions and gates."""
    stages = [(16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 40, 2), (40, 40, 1)]
    head = [conv_bn(40, 160, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(
        conv_bn(3, 16), nn.Hardswish(), *(Inverted(*s) for s in stages), *head, nn.Linear(160, CLASSES)
    )


class Shuffle(nn.Module):
    """Half the channels pass (all of them, downsampled, where `stride` is 2), then the halves are interleaved."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        start = inputs if stride == 2 else inputs // 2
        self.stride = stride
        self.main = nn.Sequential(
            conv_bn(start, half, 1), nn.ReLU(), conv_bn(half, half, 3, stride, groups=half),
            conv_bn(half, half, 1), nn.ReLU(),
        )  # fmt: skip
        self.side = nn.Sequential(
            conv_bn(inputs, inputs, 3, stride, groups=inputs), conv_bn(inputs, half, 1), nn.ReLU()
        ) if stride == 2 else nn.Identity()  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        first, second = (x, x) if self.stride == 2 else x.chunk(2, 1)
        both = torch.cat([self.side(first), self.main(second)], 1)
        batch, channels, height, width = both.shape
        split = both.reshape(batch, 2, channels // 2, height, width).transpose(1, 2)
        return split.reshape(batch, channels, height, width)


def shufflenet() -> nn.Module:
    """Ma et al., 2018: split, concatenation, and channel shuffle by Reshape and Transpose."""
    stages = [(24, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1)]
    head = [conv_bn(96, 192, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, CLASSES)]
    return nn.Sequential(conv_bn(3, 24), nn.ReLU(), *(Shuffle(*stage) for stage in stages), *head)
