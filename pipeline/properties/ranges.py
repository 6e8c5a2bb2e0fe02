"""Ranges: outputs stay between bounds, or near what they are at an image, over a box of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Atom, Formula
from secateur.pipeline.properties.boxes import ONE, Balls, Box
from secateur.pipeline.properties.numbers import Number, at_least_zero, exact
from secateur.pipeline.properties.statements import (
    PropertySet,
    about,
    boxes_of,
    one_of,
    outputs_at,
    stated,
)


def within_range(
    model: Model,
    where: Balls | Sequence[Box],
    *,
    outputs: Sequence[int] = (),
    lower: Number | None = None,
    upper: Number | None = None,
    near: Number | None = None,
) -> PropertySet:
    """One property a box: each of `outputs` (all when empty) stays in [lower, upper], or within `near` of its value
    at the box's image. A violation lies on or beyond a bound.

    Raises:
        InputError: no bound at all, or both kinds; an output that the network does not have; no image to be near.
    """
    if (near is None) == (lower is None and upper is None):
        raise InputError("expected bounds of the outputs, or how near they stay to their values at the image")
    if lower is not None and upper is not None and exact(lower) > exact(upper):
        raise InputError(f"the lower bound {lower} lies above the upper one, {upper}")
    subject, (places, left_out) = about(model), boxes_of(where)
    chosen = list(dict.fromkeys(outputs)) or list(range(subject.outputs))
    check_numbers(chosen, subject.outputs, "output", model)
    properties = []
    for box in places:
        ends: dict[int, tuple[Fraction | None, Fraction | None]]
        if near is None:
            low, high = (None if side is None else exact(side) for side in (lower, upper))
            ends = dict.fromkeys(chosen, (low, high))
        else:
            radius, centre = at_least_zero(near, "the distance"), outputs_at(model, box)
            ends = {output: (centre[output] - radius, centre[output] + radius) for output in chosen}
        beyond: list[Formula] = []
        for output, (low, high) in ends.items():
            beyond += [] if low is None else [Atom({}, {output: ONE}, -low)]
            beyond += [] if high is None else [Atom({}, {output: -ONE}, high)]
        said = f"output {' or '.join(map(str, chosen))} is outside of its range"
        properties.append(stated("range", subject, box, [*box.formula().parts, one_of(beyond)], said))
    return PropertySet(tuple(properties), left_out)


def check_numbers(chosen: Sequence[int], count: int, what: str, model: Model) -> None:
    """
    Raises:
        InputError: a number is not below `count`.
    """
    for number in chosen:
        if not 0 <= number < count:
            raise InputError(f"there is no {what} {number}: expected 0 to {count - 1}", where=model.name)
