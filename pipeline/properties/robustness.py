"""Robustness: no input within ε of an image is given another class than the image's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from secateur.formats.dataset import Dataset
from secateur.formats.onnx_model import Model
from secateur.pipeline.properties import boxes
from secateur.pipeline.properties.boxes import Balls, Box, Radius
from secateur.pipeline.properties.numbers import Number
from secateur.pipeline.properties.statements import (
    Property,
    PropertySet,
    Subject,
    about,
    boxes_of,
    classes,
    label_of,
    misclassified,
    stated,
)


def robust(
    model: Model,
    data: Dataset,
    indices: Iterable[int],
    epsilon: Radius,
    *,
    targeted: bool = False,
    only_correct: bool = True,
    mean: Sequence[Number] = (),
    std: Sequence[Number] = (),
) -> PropertySet:
    """Robustness properties of the images `indices` of `data`, in that order; see `boxes.around`.

    Args:
        targeted: one property for each other class, instead of one for all of them.

    Raises:
        InputError: as `boxes.around`; a network with one output.
    """
    balls = boxes.around(model, data, indices, epsilon, only_correct=only_correct, mean=mean, std=std)
    return class_kept("robust", model, balls, targeted=targeted)


def class_kept(
    kind: str, model: Model, where: Balls | Sequence[Box], *, targeted: bool = False
) -> PropertySet:
    """That every input of each image's box is given the image's class."""
    subject, (places, left_out) = about(model), boxes_of(where)
    count = classes(subject)
    properties: list[Property] = []
    for box in places:
        label = label_of(box)
        others = [other for other in range(count) if other != label]
        for target in others if targeted else [None]:
            wrong = others if target is None else [target]
            one = _kept(kind, subject, box, label, wrong, "" if target is None else f"_to{target}")
            properties.append(replace(one, target=target))
    return PropertySet(tuple(properties), left_out)


def _kept(kind: str, subject: Subject, box: Box, label: int, wrong: Sequence[int], suffix: str) -> Property:
    said = f"an input in the box is given class {' or '.join(map(str, wrong))}"
    return stated(kind, subject, box, [*box.formula().parts, misclassified(label, wrong)], said, suffix)
