"""HYDRA: scores that are learned, by training which weights stay while the weights themselves stand still."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.formats.errors import CheckFailed
from secateur.pipeline.prune.criteria.context import Context, Criterion, Option, Saliency
from secateur.pipeline.prune.criteria.gradients import LOSS


def hydra(context: Context) -> Saliency:
    """The rank of |s| in its layer, in (0, 1]: s starts at √(6/fan-in) · w / max |w| (the maximum over the layer) and
    is trained with Adam, its rate falling as a cosine, so that the network with each layer's top |s| (as many as the
    sparsity leaves) has a small loss; the gradient passes straight through the choice. Sehwag et al. 2020
    (2002.10509), section 4.

    The weights, and the statistics of normalisations, stand still; what is gone already stays so. Ranks instead of
    |s| itself: so a threshold over all layers, too, chooses the network that was trained.
    """
    import torch

    from secateur.pipeline.prune.criteria import differentiable

    arrays = context.arrays()
    share = context.options["kept"] or 1 - context.sparsity
    epochs, size = context.options["epochs"], context.options["batch"]
    with differentiable.network(context) as graph:
        batches = differentiable.Batches.of(context, graph, "HYDRA")
        weights, scores, gone = [], [], []
        for layer in context.layers:
            weight = graph.parameters[layer.weight].detach().clone()
            start = _start(arrays[layer.weight].astype(np.float64), layer.channel_axis)
            keep = context.keep.get(layer.weight, np.ones(start.shape, bool))
            weights.append(weight)
            scores.append(torch.tensor(np.where(keep, start, 0.0), dtype=weight.dtype, device=weight.device))
            gone.append(torch.tensor(~keep, device=weight.device))
        counts = [round(share * weight.numel()) for weight in weights]
        names = [layer.weight for layer in context.layers]
        optimizer = torch.optim.Adam(scores, lr=context.options["rate"])
        steps = max(1, epochs * -(-len(batches) // size))
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generator = torch.Generator().manual_seed(context.seed)

        def choose() -> None:
            with torch.no_grad():
                for name, weight, score, count in zip(names, weights, scores, counts, strict=True):
                    mask = torch.zeros(weight.numel(), dtype=weight.dtype, device=weight.device)
                    order = torch.argsort(score.abs().flatten(), descending=True, stable=True)
                    mask[order[:count]] = 1.0
                    graph.parameters[name].copy_(weight * mask.view(weight.shape))

        for _ in range(epochs):
            order = torch.randperm(len(batches), generator=generator)
            choose()  # the attack, too, is on the pruned network
            for x, y in batches.split(size, order):
                found = differentiable.gradients(graph, names, x, y)
                for weight, score, gradient, never in zip(weights, scores, found, gone, strict=True):
                    score.grad = (gradient * weight * score.sign()).masked_fill(never, 0.0)
                optimizer.step()
                scheduler.step()
                choose()
    if not all(score.isfinite().all() for score in scores):
        raise CheckFailed("HYDRA's scores diverged", where=context.model.name, hint="lower the option rate")
    return {name: _ranks(score.abs().cpu().numpy()) for name, score in zip(names, scores, strict=True)}


def _ranks(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """1/n for the least to 1 for the largest of n values, the first of equals above the others, as it is chosen."""
    ranks = np.empty(values.size)
    ranks[np.argsort(-values.reshape(-1), kind="stable")] = np.arange(values.size, 0, -1) / values.size
    return ranks.reshape(values.shape)


def _start(weight: NDArray[np.float64], channel_axis: int) -> NDArray[np.float64]:
    fan_in = weight.size // weight.shape[channel_axis]
    largest = float(np.abs(weight).max(initial=0.0))
    return weight * (np.sqrt(6 / max(fan_in, 1)) / largest) if largest else weight


CRITERIA = {
    "hydra": Criterion(
        hydra,
        "weight",
        "rank of the learned score |s|: which weights stay is trained, the weights stand still",
        "Sehwag et al. 2020 (2002.10509)",
        frozenset({"data", "gradients"}),
        (
            *LOSS,
            Option("epochs", 20, "passes over the data"),
            Option("rate", 3e-3, "Adam's initial learning rate"),
            Option("batch", 128, "samples a step", minimum=1),
            Option(
                "kept", 0.0, "share of each layer's weights that stay in training; 0: as the sparsity says"
            ),
        ),
        normaliser="layer",
    ),
}
