"""The zoo's table: name → how to build a network and what goes in, with seeded weights and lived-in statistics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pruning_zoo import convolutional, others

IMAGE = (3, 32, 32)

ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (convolutional.mlp, (64,)),
    "lenet": (convolutional.lenet, (1, 28, 28)),
    "vgg": (convolutional.vgg, IMAGE),
    "resnet": (convolutional.resnet, IMAGE),
    "resnext": (convolutional.resnext, IMAGE),
    "densenet": (convolutional.densenet, IMAGE),
    "mobilenet": (convolutional.mobilenet, IMAGE),
    "shufflenet": (convolutional.shufflenet, IMAGE),
    "unet": (others.UNet, IMAGE),
    "stylised": (others.Stylised, IMAGE),
    "vit": (others.ViT, IMAGE),
}
"""Name → (builder, input shape without the batch)."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_NORMS = (*_BATCH_NORMS, nn.InstanceNorm2d, nn.LayerNorm)


def build(name: str, seed: int = 0) -> tuple[nn.Module, tuple[int, ...]]:
    """The network `name` in evaluation mode, and its input shape.

    Fresh normalisations are the identity, fresh PReLU slopes all equal: they would hide errors and let exporters merge
    tensors, so they are drawn at random, too.
    """
    builder, shape = ZOO[name]
    torch.manual_seed(seed)
    module = builder()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, _NORMS) and part.weight is not None:
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0.0, 0.2)
            if isinstance(part, _BATCH_NORMS):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_(0.0, 0.2)
                part.running_var.uniform_(0.5, 1.5)
            if isinstance(part, nn.PReLU):
                part.weight.uniform_(0.05, 0.5)
    return module.eval(), shape
