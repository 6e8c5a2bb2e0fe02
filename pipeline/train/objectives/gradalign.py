"""GradAlign (Andriushchenko & Flammarion, "Understanding and improving fast adversarial training", NeurIPS 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from secateur.pipeline.train.graph import TrainableGraph


def misalignment(
    graph: TrainableGraph, x: Tensor, y: Tensor, epsilon: float, generator: torch.Generator
) -> Tensor:
    """1 − mean cos(∇ₓ ℓ(x, y), ∇ₓ ℓ(x + η, y)), η uniform on [−ε, ε]ⁿ (equation 5 of that paper), ℓ the cross-entropy.

    FGSM fails where gradients turn within the ball ("catastrophic overfitting"); this keeps them aligned. The mean is
    over images where neither gradient vanishes (0 without any). The graph's statistics stay as they are.
    """
    noise = (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1).to(x.device) * epsilon
    with graph.statistics_kept():
        here, there = (_gradient(graph, images, y) for images in (x, x + noise))
    turning = (here.norm(dim=1) > 0) & (there.norm(dim=1) > 0)
    if not turning.any():
        return here.sum() * 0
    return 1 - cosine_similarity(here[turning], there[turning], dim=1).mean()


def _gradient(graph: TrainableGraph, images: Tensor, y: Tensor) -> Tensor:
    """[N, inputs], itself a function of the weights."""
    images = images.detach().requires_grad_()
    loss = cross_entropy(graph(images).flatten(1), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
    return gradient.flatten(1)
