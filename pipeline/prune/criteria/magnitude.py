"""Criteria that look at single weights: noise and size."""

from __future__ import annotations

import numpy as np

from secateur.pipeline.prune.criteria.context import Context, Criterion, Saliency


def random(context: Context) -> Saliency:
    """Uniform noise on [0, 1), by seed."""
    generator = np.random.default_rng(context.seed)
    shapes = context.shapes()
    return {layer.weight: generator.random(shapes[layer.weight]) for layer in context.layers}


def magnitude(context: Context) -> Saliency:
    """|w|: Han et al. 2015 (1506.02626); a filter's mean |w|: Li et al. 2017 (1608.08710)."""
    from secateur.formats import onnx_model

    # in the weights' own precision: a large network's in another would be many bytes
    arrays = onnx_model.values(context.model)
    return {name: np.abs(arrays[name]) for name in dict.fromkeys(layer.weight for layer in context.layers)}


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
