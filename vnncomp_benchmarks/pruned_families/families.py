"""The families of networks that this benchmark consists of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from secateur.formats import dataset
from secateur.formats.dataset import Dataset


@dataclass(frozen=True)
class Family:
    """A dense network and its pruned relatives: `radius` is that of adversarial training and of properties, `images`
    how many test images have properties; `enlarged`: see `enlarged`."""

    name: str
    architecture: str
    radius: Fraction
    epochs: int
    images: int
    enlarged: bool = False


@dataclass(frozen=True)
class Variant:
    """One way of pruning the dense network."""

    name: str
    criterion: str
    sparsity: float
    granularity: str = "weight"


FAMILIES = (
    Family("digits_mlp", "digits_mlp", Fraction(1, 16), 30, 4),
    Family("digits_cnn", "digits_cnn", Fraction(1, 16), 20, 4),
    Family("digits28_mlp", "digits_mlp", Fraction(1, 16), 30, 4, enlarged=True),
)
VARIANTS = (
    Variant("magnitude50", "magnitude", 0.5),
    Variant("magnitude80", "magnitude", 0.8),
    Variant("magnitude90", "magnitude", 0.9),
    Variant("random80", "random", 0.8),
    Variant("nrs50", "nrs", 0.5, "channel"),
    Variant("channels50", "magnitude", 0.5, "channel"),
)


def data_of(family: Family, split: str) -> Dataset:
    """The family's images: scikit-learn's digits, as they are or at MNIST's size."""
    data = dataset.load(dataset.DIGITS, split)
    return enlarged(data) if family.enlarged else data


def enlarged(data: Dataset) -> Dataset:
    """Images [n, 1, 8, 8] as [n, 1, 28, 28]: every pixel three by three, and a black frame of two, as MNIST has one."""
    images = data.images.repeat(3, axis=2).repeat(3, axis=3)
    return replace(data, images=np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2))))
