"""Images that the network being trained gets wrong."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from secateur.pipeline.train.bounds.propagate import ball
from secateur.pipeline.train.graph import TrainableGraph


def attack_images(
    graph: TrainableGraph,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    steps: int,
    generator: torch.Generator,
    size: float | None = None,
) -> Tensor:
    """Images within ε (ℓ∞, raw pixels, clipped to [0, 1]) of `x` that raise the cross-entropy, from a random start.

    One step is FGSM (Wong et al., "Fast is better than free", ICLR 2020), more are PGD (Madry et al., ICLR 2018). Steps
    are of `size` · ε (None: 1.25, and 2.5 / steps). Uses the graph in evaluation mode, so that its statistics do not
    move.
    """
    graph.eval()
    lower, upper = ball(x, epsilon)
    noise = torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    moved = lower + noise * (upper - lower)
    if size is None:
        size = 1.25 if steps == 1 else 2.5 / steps
    for _ in range(steps):
        moved.requires_grad_(True)
        (gradient,) = torch.autograd.grad(cross_entropy(graph(moved).flatten(1), y, reduction="sum"), moved)
        moved = torch.clamp(moved.detach() + size * epsilon * gradient.sign(), lower, upper)
    return moved
