"""How often a network is right, how evenly over the classes, and how well it knows: from its outputs alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Labels = NDArray[np.int64]
BINS = 15


def per_class(right: NDArray[np.bool_], labels: Labels, classes: int) -> list[float | None]:
    """The share of each class's images that are `right`; None for a class without images."""
    totals = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[right], minlength=classes)
    return [float(hit / total) if total else None for hit, total in zip(hits, totals, strict=True)]


def spread(shares: Sequence[float | None]) -> dict[str, float]:
    """The least, the largest and the standard deviation (over classes with images) of the classes' shares."""
    known = np.array([share for share in shares if share is not None])
    return {"min": float(known.min()), "max": float(known.max()), "std": float(known.std())}


def probabilities(outputs: Array, *, ends_in_softmax: bool) -> Array:
    """What the network gives each class [n, classes]: the softmax of its outputs, or these where they are one."""
    if ends_in_softmax:
        return outputs
    values = outputs.astype(np.float64)
    raised = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def calibration_error(probabilities: Array, labels: Labels, bins: int = BINS) -> float:
    """The expected calibration error: over bins of equal width of the confidence (the largest probability), the mean
    |accuracy − confidence|, weighted by their shares of images.

    Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017, equation 3; bin m is
    ((m − 1)/M, m/M].
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(place, right.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))
