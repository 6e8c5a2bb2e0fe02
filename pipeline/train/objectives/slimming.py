"""Network slimming (Liu et al., "Learning efficient convolutional networks through network slimming", ICCV 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.pipeline.train.graph import TrainableGraph


def bn_l1(graph: TrainableGraph) -> Tensor:
    """mean |γ| over the scales of all BatchNormalizations (equation 1 of that paper has their sum; the mean is what
    2206.07311 weighs with 1e-4). A network without any has γ = 1 everywhere: 1, without a gradient."""
    scales = [graph.parameters[name] for name in graph.scales]
    if not scales:
        return torch.ones((), device=graph.device)
    return torch.cat([scale.abs().flatten() for scale in scales]).mean()
