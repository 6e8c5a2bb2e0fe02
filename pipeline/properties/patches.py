"""Patches: whatever k × k pixels of an image become, its class stays (an adversarial patch at a given position)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from secateur.formats.dataset import Dataset
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model
from secateur.pipeline.properties import boxes
from secateur.pipeline.properties.boxes import ONE, Balls, Box, Pixels
from secateur.pipeline.properties.numbers import Number
from secateur.pipeline.properties.robustness import class_kept
from secateur.pipeline.properties.statements import PropertySet


def patch(
    model: Model,
    data: Dataset,
    indices: Iterable[int],
    size: int,
    *,
    positions: Sequence[tuple[int, int]] = (),
    stride: int = 1,
    epsilon: Number = 0,
    only_correct: bool = True,
    mean: Sequence[Number] = (),
    std: Sequence[Number] = (),
) -> PropertySet:
    """A property for each image and position: the pixels of the patch, in all channels, are free in [0, 1].

    Args:
        size: k; a patch is k × k pixels.
        positions: upper left corners as (row, column); every `stride`-th of all when empty.
        epsilon: how far the other pixels may go (raw, L∞).

    Raises:
        InputError: as `boxes.around`; data that are no images; a patch that does not fit in.
    """
    shape = data.images.shape[1:]
    if len(shape) != 3:
        raise InputError(f"samples of shape {shape}: expected images [C, H, W]", where=data.name)
    _, height, width = shape
    if not 1 <= size <= min(height, width):
        raise InputError(f"a patch of {size} × {size} in images of {height} × {width}", where=data.name)
    corners = list(dict.fromkeys(positions)) or [
        (row, column)
        for row in range(0, height - size + 1, stride)
        for column in range(0, width - size + 1, stride)
    ]
    for row, column in corners:
        if not (0 <= row <= height - size and 0 <= column <= width - size):
            raise InputError(
                f"a patch of {size} × {size} at {row},{column} does not lie in an image of {height} × {width}"
            )
    balls = boxes.around(model, data, indices, epsilon, only_correct=only_correct, mean=mean, std=std)
    pixels = Pixels(mean, std, shape)
    found = [_patched(box, pixels, size, corner) for box in balls.boxes for corner in corners]
    return class_kept("patch", model, Balls(tuple(found), balls.misclassified))


def _patched(box: Box, pixels: Pixels, size: int, corner: tuple[int, int]) -> Box:
    """The box with the pixels of one patch free."""
    row, column = corner
    inside = np.zeros(pixels.shape, np.bool_)
    inside[:, row : row + size, column : column + size] = True
    lower, upper = list(box.lower), list(box.upper)
    for i in np.flatnonzero(inside).tolist():
        lower[i], upper[i] = pixels.ends(0.5, ONE, i)
    return replace(
        box,
        name=f"{box.name}_k{size}_at{row}_{column}",
        about=f"{box.about}; the {size} × {size} pixels from row {row}, column {column} are free",
        lower=tuple(lower),
        upper=tuple(upper),
    )
