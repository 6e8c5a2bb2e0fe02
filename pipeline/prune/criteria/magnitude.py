"""Criteria that look at single weights: noise and size."""

from __future__ import annotations

import numpy as np

from secateur.pipeline.prune import layers
from secateur.pipeline.prune.criteria.context import Context, Criterion, Saliency


def random(context: Context) -> Saliency:
    """Uniform noise on [0, 1), by seed."""
    generator = np.random.default_rng(context.seed)
    arrays = layers.values(context.model.proto)
    return {layer.weight: generator.random(arrays[layer.weight].shape) for layer in context.layers}


def magnitude(context: Context) -> Saliency:
    """|w|: Han et al. 2015 (1506.02626); a filter's mean |w|: Li et al. 2017 (1608.08710)."""
    arrays = layers.values(context.model.proto)
    # float64 holds every smaller float exactly, so single weights are ordered as they are written
    return {layer.weight: np.abs(arrays[layer.weight].astype(np.float64)) for layer in context.layers}


CRITERIA = {
    "random": Criterion(
        random,
        "weight",
        "uniform noise; the baseline of every comparison",
        "—",
        reduction="first",
        normaliser="none",
    ),
    "magnitude": Criterion(
        magnitude, "weight", "|w|", "Han et al. 2015 (1506.02626); Li et al. 2017 (1608.08710)"
    ),
}
