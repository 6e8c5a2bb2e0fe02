"""The families of networks that this benchmark consists of."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from secateur.formats import dataset
from secateur.formats.dataset import Dataset


@dataclass(frozen=True)
class Family:
    """A dense network and its pruned relatives: `radius` is that of adversarial training and of properties, `images`
    how many test images have properties, `limit` how many training images are used."""

    name: str
    data: str
    architecture: str
    radius: Fraction
    epochs: int
    images: int
    limit: int


@dataclass(frozen=True)
class Variant:
    """One way of pruning the dense network."""

    name: str
    criterion: str
    sparsity: float
    granularity: str = "weight"


FAMILIES = (
    Family("digits_mlp", "digits", "digits_mlp", Fraction(1, 16), 30, 4, 1400),
    Family("digits_cnn", "digits", "digits_cnn", Fraction(1, 16), 20, 4, 1400),
    Family("mnist_mlp", "mnist", "digits_mlp", Fraction(3, 100), 10, 4, 20_000),
)
VARIANTS = (
    Variant("magnitude50", "magnitude", 0.5),
    Variant("magnitude80", "magnitude", 0.8),
    Variant("magnitude90", "magnitude", 0.9),
    Variant("random80", "random", 0.8),
    Variant("nrs50", "nrs", 0.5, "channel"),
    Variant("channels50", "magnitude", 0.5, "channel"),
)


def data_of(family: Family, split: str) -> Dataset | None:
    """The family's images; None where they are not at hand (only scikit-learn's digits always are)."""
    limit = family.limit if split == "train" else None
    if family.data == dataset.DIGITS:
        return dataset.load(dataset.DIGITS, split, limit)
    path = Path(os.environ.get("SECATEUR_DATA", ""), "datasets", f"{family.data}.npz")
    return dataset.load(str(path), split, limit) if path.is_file() else None
