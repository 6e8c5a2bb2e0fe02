"""The samples that criteria look at, out of a data set."""

from __future__ import annotations

import numpy as np

from secateur.formats.dataset import Dataset
from secateur.pipeline.prune.criteria import Samples


def draw(data: Dataset, count: int | None = None, seed: int = 0) -> Samples:
    """`count` of the data's samples (all, when there are not more), drawn without replacement and in file order:
    files are often sorted by class."""
    if count is None or count >= len(data):
        return Samples(data.images, data.labels)
    chosen = np.sort(np.random.default_rng(seed).choice(len(data), count, replace=False))
    return Samples(data.images[chosen], data.labels[chosen])
