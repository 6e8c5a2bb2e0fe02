"""Input boxes: balls around data, and boxes that somebody gives.

A ball holds the inputs within ε (L∞, on raw pixels; a radius for all, or one a pixel) of an image. Its box is computed
exactly from the float32 pixels, clipped to the data's range [0, 1], normalised where the network wants normalised
inputs ((pixel − mean) / std, a channel), and only then rounded outward to float32, the type that networks are fed. So
a proof covers the whole ball, the box can be represented exactly, and an image at its edge can reach past ε by at most
one float32 step.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from secateur.formats import streams
from secateur.formats.dataset import Dataset
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model
from secateur.formats.query import And, Atom
from secateur.pipeline import onnxrt
from secateur.pipeline.properties.numbers import Number, at_least_zero, exact, float32, in_name, listed
from secateur.pipeline.train.evaluate import predictions

ZERO, ONE = Fraction(0), Fraction(1)
Radius = Number | NDArray[np.generic]
"""ε: a number, or an array of an image's shape."""


@dataclass(frozen=True)
class Box:
    """Inputs from `lower` to `upper` (flat, exact); `name` stands in file names, `about` in comments.

    A ball has the `index` and `label` of its image, and the image as the network is fed it, `centre` (flat).
    """

    name: str
    about: str
    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]
    index: int | None = None
    label: int | None = None
    centre: NDArray[np.float32] | None = None

    @property
    def inputs(self) -> int:
        return len(self.lower)

    def formula(self, offset: int = 0) -> And:
        """That the inputs from number `offset` on lie in the box."""
        return And(tuple(atom for i in range(self.inputs) for atom in self.ends(i, offset + i)))

    def ends(self, i: int, number: int) -> tuple[Atom, Atom]:
        """That input `number` lies where the box's i-th does."""
        return (
            Atom({number: -ONE}, {}, self.lower[i]),
            Atom({number: ONE}, {}, -self.upper[i]),
        )


class Pixels:
    """From raw pixels in [0, 1] to a network's inputs, (pixel − mean) / std, a channel.

    Args:
        shape: an image's, [C, H, W] or [F]: of a channel C are all its pixels, of tabular data F has no channels, and
            every column is one.

    Raises:
        InputError: means or standard deviations that do not fit.
    """

    def __init__(self, mean: Sequence[Number], std: Sequence[Number], shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        channels = self.shape[0]
        shift, scale = [exact(number) for number in mean or (0,)], [exact(number) for number in std or (1,)]
        for numbers, what in ((shift, "mean"), (scale, "std")):
            if len(numbers) not in (1, channels):
                raise InputError(
                    f"{len(numbers)} numbers for {what}: expected 1 or {channels}, one a channel"
                )
        if min(scale) <= 0:
            raise InputError("a std that is not positive: expected numbers above 0")
        self.plain = not mean and not std
        self.mean, self.std = (n * channels if len(n) == 1 else n for n in (shift, scale))
        self._known: dict[tuple[float, Fraction, int], tuple[Fraction, Fraction]] = {}

    @property
    def about(self) -> str:
        if self.plain:
            return "raw pixels in [0, 1]"
        return f"raw pixels in [0, 1], mean {listed(self.mean)}, std {listed(self.std)}"

    def normalised(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images [n, …] as the network is fed them."""
        if self.plain:
            return images
        channels = (1, -1) + (1,) * (images.ndim - 2)
        mean, std = (np.array([float(v) for v in n]).reshape(channels) for n in (self.mean, self.std))
        return np.asarray((images - mean) / std, dtype=np.float32)

    def ends(self, pixel: float, radius: Fraction, index: int) -> tuple[Fraction, Fraction]:
        """Exact values of the float32 bounds of the pixel with that flat index; images repeat few pixel values."""
        channel = index // (int(np.prod(self.shape)) // self.shape[0])
        key = pixel, radius, channel
        found = self._known.get(key)
        if found is None:
            lower, upper = max(Fraction(pixel) - radius, ZERO), min(Fraction(pixel) + radius, ONE)
            lower, upper = ((side - self.mean[channel]) / self.std[channel] for side in (lower, upper))
            found = self._known[key] = float32(lower, up=False), float32(upper, up=True)
        return found


@dataclass(frozen=True)
class Balls:
    """The boxes around some images, and the images left out because the network gets them wrong."""

    boxes: tuple[Box, ...]
    misclassified: tuple[int, ...]


def chosen(data: Dataset, indices: Iterable[int]) -> list[int]:
    """`indices` without repetitions.

    Raises:
        InputError: one is outside of the data.
    """
    found = list(dict.fromkeys(indices))
    for index in found:
        if not 0 <= index < len(data):
            raise InputError(f"there is no image {index}: expected 0 to {len(data) - 1}", where=data.name)
    return found


def around(
    model: Model,
    data: Dataset,
    indices: Iterable[int],
    epsilon: Radius,
    *,
    only_correct: bool = True,
    mean: Sequence[Number] = (),
    std: Sequence[Number] = (),
) -> Balls:
    """The balls of radius ε around the images `indices` of `data`, in that order.

    Args:
        epsilon: radius on raw pixels, L∞: one for all (a float stands for the decimal it prints as: 0.02 is exactly
            1/50), or an array of an image's shape (or [H, W], for all channels).
        only_correct: leave out images that `model` gets wrong.
        mean, std: one number a channel (or one for all), when the network expects (pixel − mean) / std.

    Raises:
        InputError: an index outside of the data, a negative ε, images, classes or channels that do not fit.
    """
    picked = chosen(data, indices)
    images = data.images[picked]
    radii, called, said = _radii(epsilon, data.images.shape[1:])
    pixels = Pixels(mean, std, data.images.shape[1:])
    subset = Dataset(data.name, pixels.normalised(images), data.labels[picked], data.classes)
    given = predictions(model, subset)
    boxes, misclassified = [], []
    for index, image, fed, label, guess in zip(
        picked, images, subset.images, subset.labels.tolist(), given.tolist(), strict=True
    ):
        if only_correct and guess != label:
            misclassified.append(index)
            continue
        ends = [
            pixels.ends(p, r, i) for i, (p, r) in enumerate(zip(image.ravel().tolist(), radii, strict=True))
        ]
        about = f"{data.name}, image {index}, class {label}: epsilon {said} on {pixels.about}"
        lower, upper = zip(*ends, strict=True)
        boxes.append(Box(f"idx{index}_eps{called}", about, lower, upper, index, label, fed.ravel()))
    return Balls(tuple(boxes), tuple(misclassified))


def _radii(epsilon: Radius, shape: tuple[int, ...]) -> tuple[list[Fraction], str, str]:
    """A radius for each pixel, its name, and what comments say of it."""
    count = int(np.prod(shape))
    if not isinstance(epsilon, np.ndarray):
        radius = at_least_zero(epsilon, "epsilon")
        return [radius] * count, in_name(radius), in_name(radius, "/")
    if epsilon.shape not in (shape, shape[1:], (count,)):
        raise InputError(f"epsilons have shape {epsilon.shape}: expected that of an image, {shape}")
    if not (np.issubdtype(epsilon.dtype, np.floating) or np.issubdtype(epsilon.dtype, np.integer)):
        raise InputError(f"epsilons are {epsilon.dtype}: expected numbers")
    wide = epsilon.astype(np.float64)
    if not (np.isfinite(wide).all() and (wide >= 0).all()):
        raise InputError("an epsilon that is negative or not finite: expected 0 or more")
    same = epsilon.dtype.type  # its shortest decimal: of a float32 0.1 it is 0.1
    known = {value: Fraction(str(same(value))) for value in np.unique(epsilon).tolist()}
    spread = epsilon if epsilon.size == count else np.broadcast_to(epsilon, shape)
    radii = [known[value] for value in spread.ravel().tolist()]
    return radii, "map", f"{in_name(min(radii), '/')} to {in_name(max(radii), '/')}, one a pixel,"


def given(model: Model, lower: Sequence[Number], upper: Sequence[Number], name: str = "box") -> Box:
    """The box of `model`'s inputs between `lower` and `upper` (a number an input, or one for all).

    Raises:
        InputError: counts that do not fit, a lower end above the upper one.
    """
    count = onnxrt.count_inputs(model)
    sides = []
    for numbers, what in ((lower, "lower"), (upper, "upper")):
        side = [exact(number) for number in numbers]
        if len(side) not in (1, count):
            raise InputError(
                f"{len(side)} {what} ends: expected 1 or {count}, one an input", where=model.name
            )
        sides.append(tuple(side * count if len(side) == 1 else side))
    for i, (low, high) in enumerate(zip(*sides, strict=True)):
        if low > high:
            raise InputError(f"input {i} would lie between {float(low):g} and {float(high):g}: an empty box")
    return Box(name, f"inputs in a given box ({name})", sides[0], sides[1])


def read_array(source: str, name: str | None = None) -> NDArray[np.generic]:
    """The array in an .npy file, or the one called `name` (or the only one) in an .npz file.

    Raises:
        InputError: missing or malformed file, no such array.
    """
    data = streams.read_bytes(source)
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        names = list(found.files)
        key = name if name in names else names[0] if len(names) == 1 else None
        if key is not None:
            return np.asarray(found[key])
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"not an .npy or .npz file: {error}", where=source) from None
    raise InputError(f"holds the arrays {', '.join(names)}: expected one, or '{name}'", where=source)
