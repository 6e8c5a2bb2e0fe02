"""Properties made from data: local robustness, as VNN-LIB files with their `instances.csv`.

A robustness property asks for an image within ε (L∞, on raw pixels) of a given one that the network does *not*
give its label; `unsat` means robust. The box is computed exactly from the float32 pixels, clipped to the data's
range [0, 1], normalised where the network wants normalised inputs ((pixel − mean) / std, a channel), and only then
rounded outward to float32, the type that networks are fed. So `unsat` covers the whole ball, the box
can be represented exactly, and an image at its edge can reach past ε by at most one float32 step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.formats import instances, onnx_model, vnnlib
from secateur.formats.dataset import Dataset
from secateur.formats.errors import InputError
from secateur.formats.instances import Instance
from secateur.formats.onnx_model import Model
from secateur.formats.query import And, Atom, Formula, Or, Query
from secateur.formats.vnnlib_normalise import outward
from secateur.pipeline import onnxrt
from secateur.pipeline.train.evaluate import predictions

Number = Fraction | float | int | str


@dataclass(frozen=True)
class Property:
    """One property: its file name without ending, its VNN-LIB 1.0 text, and the image it came from.

    `target` is the class the image must not be given; None when no other class is allowed.
    """

    name: str
    text: str
    index: int
    label: int
    target: int | None = None

    @cached_property
    def query(self) -> Query:
        """The property as verifiers take it: `text`, read."""
        return vnnlib.parse(self.text, f"{self.name}.vnnlib")


@dataclass(frozen=True)
class Robustness:
    """The properties of some images, and the images left out because the network gets them wrong."""

    properties: tuple[Property, ...]
    misclassified: tuple[int, ...]

    @property
    def images(self) -> int:
        """How many images were looked at."""
        return len({one.index for one in self.properties}) + len(self.misclassified)


def robust(
    model: Model,
    data: Dataset,
    indices: Iterable[int],
    epsilon: Number,
    *,
    targeted: bool = False,
    only_correct: bool = True,
    mean: Sequence[Number] = (),
    std: Sequence[Number] = (),
) -> Robustness:
    """Robustness properties of the images `indices` of `data`, in that order.

    Args:
        epsilon: radius on raw pixels, L∞. A float stands for the decimal it prints as (0.02 is exactly 1/50).
        targeted: one property for each other class, instead of one for all of them.
        only_correct: leave out images that `model` gets wrong.
        mean, std: one number a channel (or one for all), when the network expects (pixel − mean) / std.

    Raises:
        InputError: an index outside of the data, a negative ε, images, classes or channels that do not fit.
    """
    radius = exact(epsilon)
    if radius < 0:
        raise InputError(f"epsilon is {epsilon}: expected 0 or more")
    chosen = list(dict.fromkeys(indices))
    for index in chosen:
        if not 0 <= index < len(data):
            raise InputError(f"there is no image {index}: expected 0 to {len(data) - 1}", where=data.name)
    images = data.images[chosen]
    shift, scale = _normalisation(mean, std, images.shape[1])
    inputs = _normalised(images, shift, scale)
    subset = Dataset(data.name, inputs, data.labels[chosen], data.classes)
    given = predictions(model, subset)
    classes = onnxrt.count_outputs(model)
    if classes < 2:
        raise InputError(f"the network has {classes} output: expected one a class", where=model.name)
    bounds = _bounder(radius, shift, scale)
    properties: list[Property] = []
    misclassified = []
    for index, image, label, guess in zip(
        chosen, images, subset.labels.tolist(), given.tolist(), strict=True
    ):
        if only_correct and guess != label:
            misclassified.append(index)
            continue
        box = _box(image, bounds)
        others = [other for other in range(classes) if other != label]
        name = f"robust_idx{index}_eps{_in_name(radius)}"
        about = f"{data.name}, image {index}, class {label}: epsilon {_in_name(radius, '/')} on raw pixels in [0, 1]"
        if shift:
            about += f", mean {_listed(shift)}, std {_listed(scale)}"
        for target in others if targeted else [None]:
            wrong = others if target is None else [target]
            text = vnnlib.formula_text(
                And((*box, _misclassified(label, wrong))),
                image.size,
                classes,
                [about, f"sat: an input in the box is given class {' or '.join(map(str, wrong))}"],
            )
            suffix = "" if target is None else f"_to{target}"
            properties.append(Property(name + suffix, text, index, label, target))
    return Robustness(tuple(properties), tuple(misclassified))


def write(model: Model, properties: Sequence[Property], directory: str, *, timeout: float = 60.0) -> str:
    """Write a folder that stands alone, in VNN-COMP layout: `onnx/`, `vnnlib/` and `instances.csv`.

    Existing files of the same names are replaced. Returns the path of `instances.csv`; `timeout` is the
    seconds it grants each instance.

    Raises:
        InputError: no property at all, or the folder cannot be written.
    """
    if not properties:
        raise InputError("no property to write: no image was left", hint="take more images, or all of them")
    folder = Path(directory)
    file = Path(model.name).name.removesuffix(".gz").removesuffix(".onnx")
    onnx = f"onnx/{'model' if model.name == 'standard input' else file}.onnx"
    try:
        for part in ("onnx", "vnnlib"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", where=directory) from None
    onnx_model.write(model, str(folder / onnx))
    for one in properties:
        vnnlib.write(one.text, str(folder / "vnnlib" / f"{one.name}.vnnlib"))
    listing = str(folder / "instances.csv")
    instances.write([Instance(onnx, f"vnnlib/{one.name}.vnnlib", timeout) for one in properties], listing)
    return listing


def exact(number: Number) -> Fraction:
    """`number` as a rational: text as decimal or quotient ("0.02", "2/255"), a float as the decimal it prints as.

    Raises:
        InputError: not a number.
    """
    try:
        return Fraction(str(number)) if isinstance(number, float) else Fraction(number)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"'{number}' is not a number: expected such as 0.02 or 2/255") from None


def _normalisation(
    mean: Sequence[Number], std: Sequence[Number], channels: int
) -> tuple[list[Fraction], list[Fraction]]:
    """Mean and std of every channel; both empty when there is no normalisation."""
    if not mean and not std:
        return [], []
    shift, scale = [exact(number) for number in mean or (0,)], [exact(number) for number in std or (1,)]
    for numbers, what in ((shift, "mean"), (scale, "std")):
        if len(numbers) not in (1, channels):
            raise InputError(f"{len(numbers)} numbers for {what}: expected 1 or {channels}, one a channel")
    if min(scale) <= 0:
        raise InputError("a std that is not positive: expected numbers above 0")
    widened = [numbers * channels if len(numbers) == 1 else numbers for numbers in (shift, scale)]
    return widened[0], widened[1]


def _normalised(
    images: NDArray[np.float32], shift: list[Fraction], scale: list[Fraction]
) -> NDArray[np.float32]:
    if not shift:
        return images
    channels = (1, -1) + (1,) * (images.ndim - 2)
    mean, std = (np.array([float(v) for v in numbers]).reshape(channels) for numbers in (shift, scale))
    return np.asarray((images - mean) / std, dtype=np.float32)


def _bounder(
    radius: Fraction, shift: list[Fraction], scale: list[Fraction]
) -> Callable[[float, int], tuple[Fraction, Fraction]]:
    """The function (pixel, channel) -> exact values of the float32 bounds; images repeat few pixel values."""
    known: dict[tuple[float, int], tuple[Fraction, Fraction]] = {}

    def bounds(pixel: float, channel: int) -> tuple[Fraction, Fraction]:
        found = known.get((pixel, channel))
        if found is None:
            lower = max(Fraction(pixel) - radius, Fraction(0))
            upper = min(Fraction(pixel) + radius, Fraction(1))
            if shift:
                lower, upper = ((side - shift[channel]) / scale[channel] for side in (lower, upper))
            found = _float32(lower, up=False), _float32(upper, up=True)
            known[pixel, channel] = found
        return found

    return bounds


def _float32(value: Fraction, *, up: bool) -> Fraction:
    """The nearest float32 that is not below `value` (`up`), or not above it."""
    wide = outward(value, up=up)
    nearest = np.float32(wide)
    if float(nearest) < wide if up else float(nearest) > wide:  # numpy would compare in float32
        nearest = np.nextafter(nearest, np.float32(np.inf if up else -np.inf))
    return Fraction(float(nearest))


def _box(image: NDArray[np.float32], bounds: Callable[[float, int], tuple[Fraction, Fraction]]) -> list[Atom]:
    one = Fraction(1)
    per_channel = image.size // len(image)
    atoms = []
    for index, pixel in enumerate(image.ravel().tolist()):
        lower, upper = bounds(pixel, index // per_channel)
        atoms.append(Atom({index: -one}, {}, lower))
        atoms.append(Atom({index: one}, {}, -upper))
    return atoms


def _misclassified(label: int, others: list[int]) -> Formula:
    """Some class of `others` has an output as large as the label's."""
    one = Fraction(1)
    atoms = [Atom({}, {label: one, other: -one}, Fraction(0)) for other in others]
    return atoms[0] if len(atoms) == 1 else Or(tuple(And((atom,)) for atom in atoms))


def _in_name(value: Fraction, bar: str = "_") -> str:
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return vnnlib.decimal(value) if denominator == 1 else f"{value.numerator}{bar}{value.denominator}"


def _listed(numbers: Iterable[Fraction]) -> str:
    return " ".join(_in_name(number, "/") for number in numbers)
