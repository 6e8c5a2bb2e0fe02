"""Test images made ready for measuring: as networks take them, with the balls around them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secateur.formats.dataset import Dataset
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline import onnxrt, properties

Floats = NDArray[np.float32]
Number = Fraction | float | int | str


@dataclass(frozen=True)
class Images:
    """The images of `data`, raw pixels in [0, 1], which networks take as (pixel − mean) / std, a channel.

    `chosen`: the places of those whose robustness is to be certified, in balls of radius `epsilon` (ℓ∞, raw pixels).
    """

    data: Dataset
    epsilon: Fraction
    chosen: tuple[int, ...]
    mean: tuple[Fraction, ...] = ()
    std: tuple[Fraction, ...] = ()
    _queries: dict[int, list[Query]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def inputs(self) -> Dataset:
        """The data as networks take them."""
        return replace(
            self.data, images=self._normalised(self.data.images.astype(np.float64)).astype(np.float32)
        )

    def ball(self, first: int, last: int) -> tuple[Floats, Floats]:
        """The ends [n, inputs] of the balls about images `first` to `last`, clipped to [0, 1], as networks take them.

        Rounded inwards to float32: every float32 between them lies in the box of the image's property.
        """
        pixels, radius = self.data.images[first:last].astype(np.float64), float(self.epsilon)
        low = self._normalised(np.maximum(pixels - radius, 0.0))
        high = self._normalised(np.minimum(pixels + radius, 1.0))
        lower, upper = low.astype(np.float32), high.astype(np.float32)
        lower = np.where(lower < low, np.nextafter(lower, np.float32(np.inf)), lower)
        upper = np.where(upper > high, np.nextafter(upper, np.float32(-np.inf)), upper)
        count = last - first
        # A ball narrower than two float32 numbers holds the image alone.
        middle = self.inputs.images[first:last].reshape(count, -1)
        lower, upper = lower.reshape(count, -1), upper.reshape(count, -1)
        empty = lower > upper
        return np.where(empty, middle, lower), np.where(empty, middle, upper)

    @cached_property
    def radius(self) -> Floats:
        """How far each input may move, [inputs]: ε, divided by its channel's std."""
        zero = np.zeros((1, *self.data.images.shape[1:]))
        moved = self._normalised(zero + float(self.epsilon)) - self._normalised(zero)
        return np.asarray(moved.reshape(-1), np.float32)

    def queries(self, model: Model) -> list[Query]:
        """The robustness property of each chosen image, right or wrong (see `properties.robust`); kept, since models
        of a study share them."""
        classes = onnxrt.count_outputs(model)
        if classes not in self._queries:
            made = properties.robust(
                model, self.data, self.chosen, self.epsilon, only_correct=False, mean=self.mean, std=self.std
            )
            self._queries[classes] = [prop.query for prop in made.properties]
        return self._queries[classes]

    @cached_property
    def sha256(self) -> str:
        """Of everything here."""
        settings = [self.epsilon, self.chosen, self.mean, self.std, self.data.images.shape]
        digest = hashlib.sha256(repr(settings).encode())
        digest.update(self.data.images.tobytes() + self.data.labels.tobytes())
        return digest.hexdigest()

    def _normalised(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """As networks take them: in float64, as accurate as it can be rounded to float32 later."""
        if not self.mean and not self.std:
            return pixels
        channels = (1, -1) + (1,) * (pixels.ndim - 2)
        mean, std = (
            np.array([float(number) for number in numbers]).reshape(channels)
            for numbers in (self.mean or (Fraction(0),), self.std or (Fraction(1),))
        )
        normalised: NDArray[np.float64] = (pixels - mean) / std
        return normalised


def choose(
    data: Dataset,
    epsilon: Number,
    *,
    count: int,
    start: int = 0,
    seed: int | None = None,
    mean: Sequence[Number] = (),
    std: Sequence[Number] = (),
) -> Images:
    """The `count` images from place `start` on (fewer where the data end), in file order; with a `seed` in an order
    drawn by it, so that several counts are nested.

    Raises:
        InputError: a place outside of the data, an ε or a std that cannot be, other numbers of channels.
    """
    radius, channels = properties.exact(epsilon), data.images.shape[1]
    if radius < 0:
        raise InputError(f"epsilon is {epsilon}: expected 0 or more")
    if not 0 <= start < len(data):
        raise InputError(f"there is no image {start}: expected 0 to {len(data) - 1}", where=data.name)
    shift, scale = (tuple(properties.exact(number) for number in numbers) for numbers in (mean, std))
    for numbers, what in ((shift, "mean"), (scale, "std")):
        if len(numbers) not in (0, 1, channels):
            raise InputError(f"{len(numbers)} numbers for {what}: expected 1 or {channels}, one a channel")
    if min(scale, default=1) <= 0:
        raise InputError("a std that is not positive: expected numbers above 0")
    order = np.arange(len(data)) if seed is None else np.random.default_rng(seed).permutation(len(data))
    return Images(data, radius, tuple(order[start : start + count].tolist()), shift, scale)
