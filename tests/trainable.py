"""Small random networks to train, as torch modules and as the graphs that are made of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.pipeline.train.export import export
from secateur.pipeline.train.graph import TrainableGraph

SIDE = 4
CLASSES = 4


def network(seed: int) -> nn.Sequential:
    """[N, 1, 4, 4] → [N, 4], float64: convolutions with and without BatchNormalization, or dense layers alone."""
    generator = torch.Generator().manual_seed(seed)
    layers: dict[str, nn.Module] = {}
    features = SIDE * SIDE
    if seed % 3:
        channels, side = 1, SIDE
        for index in range(1, 1 + seed % 3):
            layers[f"conv{index}"] = nn.Conv2d(channels, 3, 3, stride=index, padding=1)
            if seed % 2:
                layers[f"bn{index}"] = nn.BatchNorm2d(3)
            layers[f"relu{index}"] = nn.ReLU()
            channels, side = 3, -(-side // index)
        features = channels * side * side
    layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(features, 7), "relu": nn.ReLU()}
    layers["fc2"] = nn.Linear(7, CLASSES)
    module = nn.Sequential()
    for name, layer in layers.items():
        module.add_module(name, layer)
    module.double()
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                drawn = torch.randn(value.shape, generator=generator)  # numbers that float32 holds
                value.copy_(drawn.abs() + 0.2 if name.endswith("running_var") else 0.5 * drawn)
    return module


def graph_of(module: nn.Sequential) -> TrainableGraph:
    """The graph whose parameters are those of `module`, in float64."""
    graph = TrainableGraph(export(module.float(), (1, SIDE, SIDE)))
    graph.double()
    module.double()
    return graph


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pixels [count, 1, 4, 4] and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, CLASSES, (count,), generator=generator)
