"""Fairness: inputs that differ in nothing but protected features are treated alike (individual fairness, Dwork et al.,
"Fairness through awareness", 2012). Two copies of one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model
from secateur.pipeline.properties.agreement import Agreement, SameClass, agree
from secateur.pipeline.properties.boxes import ONE, Balls, Box, Pixels
from secateur.pipeline.properties.ranges import check_numbers
from secateur.pipeline.properties.statements import PropertySet, about


def fair(
    model: Model,
    where: Balls | Sequence[Box],
    protected: Sequence[int],
    agreement: Agreement | None = None,
    *,
    pixels: Pixels | None = None,
) -> PropertySet:
    """One property a box: two inputs of it that differ only in `protected` ones agree (have the same class, unless
    `agreement` says what else).

    Args:
        pixels: how data become inputs. When given, protected inputs are free in the data's whole range [0, 1] instead
            of the box's.

    Raises:
        InputError: no protected input, or one that the network does not have.
    """
    subject = about(model, model)
    chosen = sorted(set(protected))
    if not chosen:
        raise InputError("no protected input: nothing may differ")
    check_numbers(chosen, subject.inputs, "input", model)
    boxes, left_out = (where.boxes, where.misclassified) if isinstance(where, Balls) else (tuple(where), ())
    if pixels is not None:
        boxes = tuple(_freed(box, chosen, pixels) for box in boxes)
    return agree("fair", subject, Balls(boxes, left_out), agreement or SameClass(), chosen)


def _freed(box: Box, inputs: Sequence[int], pixels: Pixels) -> Box:
    """The box with these inputs anywhere in the data's range."""
    lower, upper = list(box.lower), list(box.upper)
    for i in inputs:
        lower[i], upper[i] = pixels.ends(0.5, ONE, i)
    freed = np.array(inputs)
    return replace(
        box,
        about=f"{box.about}; protected: {' '.join(map(str, freed))}",
        lower=tuple(lower),
        upper=tuple(upper),
    )
