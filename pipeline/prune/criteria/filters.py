"""Criteria that look at a layer's filters as vectors, or at the normalisation behind them. No data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secateur.pipeline.prune.criteria.behind import behind, by_channel
from secateur.pipeline.prune.criteria.context import Context, Criterion, Saliency
from secateur.pipeline.prune.criteria.reduce import lamp as lamp_scores

if TYPE_CHECKING:
    from secateur.pipeline.prune.layers import Layer

Floats = NDArray[np.float64]
_ROWS = 1024  # filters whose distances to all others are held at once


def lamp(context: Context) -> Saliency:
    """Layer-adaptive magnitude, w² / Σ v² over the layer's weights v with |v| ≥ |w|: Lee et al. 2021 (2010.07611)."""
    arrays = context.arrays()
    return {
        layer.weight: lamp_scores(np.abs(arrays[layer.weight].astype(np.float64)).reshape(-1)).reshape(
            arrays[layer.weight].shape
        )
        for layer in context.layers
    }


def bn_scale(context: Context) -> Saliency:
    """|γ| of the BatchNormalization behind a layer, channel by channel ("network slimming"): Liu et al. 2017
    (1708.06519). The source trains with an ℓ1 penalty on γ first."""
    arrays = context.arrays()
    found = behind(context.model.proto, context.layers)
    result: Saliency = {}
    for layer in context.layers:
        norm = found[layer.weight].batchnorm
        scale = arrays.get(norm.input[1]) if norm is not None else None
        if scale is not None:
            channels = arrays[layer.weight].shape[layer.channel_axis]
            result[layer.weight] = by_channel(layer, np.abs(scale.astype(np.float64)), channels)
    return result


def fpgm(context: Context) -> Saliency:
    """Σ_j ‖F_i − F_j‖₂ over the filters F_j of the layer: the filter nearest to the geometric median, which the others
    can stand in for, scores lowest. He et al. 2019 (1811.00250), eq. 7."""
    arrays = context.arrays()
    return {layer.weight: _distances(_filters(arrays[layer.weight], layer)) for layer in context.layers}


def cosine(context: Context) -> Saliency:
    """1 − max_j cos(F_i, F_j) over the longer filters F_j of the layer (of equally long ones, those behind): a filter
    scores near 0 when a longer one has its direction, so that of two alike one stays; the longest scores 1, a filter
    of zeros 0. Redundancy by cosine similarity: Ayinde, Inanc and Zurada 2019 (Neural Networks 118)."""
    arrays = context.arrays()
    return {layer.weight: _novelty(_filters(arrays[layer.weight], layer)) for layer in context.layers}


def _filters(weight: NDArray[np.generic], layer: Layer) -> Floats:
    """[output channels, weights a channel], float64."""
    rows = np.moveaxis(weight.astype(np.float64), layer.channel_axis, 0)
    return rows.reshape(len(rows), -1)


def _distances(rows: Floats) -> Floats:
    """For each row the sum of its distances to all rows, by ‖a − b‖² = ‖a‖² + ‖b‖² − 2⟨a, b⟩ on centred rows."""
    rows = rows - rows.mean(axis=0)
    square = np.square(rows).sum(axis=1)
    result = np.empty(len(rows))
    for first in range(0, len(rows), _ROWS):
        part = slice(first, first + _ROWS)
        squares = square[part, None] + square - 2 * rows[part] @ rows.T
        result[part] = np.sqrt(np.maximum(squares, 0)).sum(axis=1)
    return result


def _novelty(rows: Floats) -> Floats:
    length = np.sqrt(np.square(rows).sum(axis=1))
    order = np.argsort(length, kind="stable")
    unit = np.divide(rows[order], length[order, None], out=np.zeros_like(rows), where=length[order, None] > 0)
    highest = np.zeros(len(rows))  # of the cosines to the rows behind in `order`; the last has none
    for first in range(0, len(rows) - 1, _ROWS):
        last = min(first + _ROWS, len(rows) - 1)
        cosines = unit[first:last] @ unit.T
        cosines[np.arange(len(rows)) <= np.arange(first, last)[:, None]] = -1
        highest[first:last] = cosines.max(axis=1)
    result = np.empty(len(rows))
    result[order] = np.where(length[order] > 0, 1 - highest, 0.0)
    return result


CRITERIA = {
    "lamp": Criterion(
        lamp,
        "weight",
        "layer-adaptive magnitude: w² over the layer's weights that are no smaller",
        "Lee et al. 2021 (2010.07611)",
        normaliser="none",
    ),
    "bn-scale": Criterion(
        bn_scale,
        "channel",
        "|γ| of the BatchNormalization behind the layer (network slimming)",
        "Liu et al. 2017 (1708.06519)",
        normaliser="none",
        without="no BatchNormalization stands behind it",
    ),
    "fpgm": Criterion(
        fpgm,
        "channel",
        "sum of a filter's distances to the layer's other filters (geometric median)",
        "He et al. 2019 (1811.00250)",
    ),
    "cosine": Criterion(
        cosine,
        "channel",
        "1 − the cosine similarity to the most alike of the layer's longer filters",
        "Ayinde et al. 2019 (Neural Networks 118)",
        normaliser="none",
    ),
}
