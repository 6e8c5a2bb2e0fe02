"""What it can mean that two networks, or one network at two inputs, agree; outputs of the second follow the first's.

Every condition has room: a violation is one by some margin. Where classes meet, outputs are equal, and no bound could
prove that the smallest difference does not occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.formats.errors import InputError
from secateur.formats.query import And, Formula
from secateur.pipeline.properties.boxes import Balls, Box
from secateur.pipeline.properties.numbers import Number, above_zero, at_least_zero, in_name
from secateur.pipeline.properties.statements import (
    PropertySet,
    Subject,
    at_least,
    boxes_of,
    classes,
    label_of,
    misclassified,
    one_of,
    stated,
    tied,
)

MARGIN = "0.001"


@dataclass(frozen=True)
class Within:
    """All outputs differ by less than `delta`."""

    delta: Number

    def violated(self, subject: Subject, box: Box) -> tuple[list[Formula], str, str]:
        """The conjuncts that say the opposite, the same for people, and a piece of a file name."""
        delta, count = above_zero(self.delta, "delta"), subject.outputs
        pairs = [(j, count + j) for j in range(count)]
        atoms = [at_least(*pair, delta) for a, b in pairs for pair in ((a, b), (b, a))]
        said = f"an output differs by {in_name(delta, '/')} or more"
        return [one_of(atoms)], said, f"_within{in_name(delta)}"


@dataclass(frozen=True)
class SameClass:
    """What the first gives a class, by `margin` before all others, has that class in the second: a violation has
    another one before it there, by `margin`."""

    margin: Number = MARGIN

    def violated(self, subject: Subject, box: Box) -> tuple[list[Formula], str, str]:
        """As `Within.violated`."""
        margin, count = above_zero(self.margin, "the margin"), classes(subject)
        cases = [
            And((*leads(c, range(count), by=margin), at_least(count + other, count + c, margin)))
            for c in range(count)
            for other in range(count)
            if other != c
        ]
        said = f"the class is another one, by {in_name(margin, '/')} in both"
        return [one_of(cases)], said, f"_class{in_name(margin)}"


@dataclass(frozen=True)
class RightToo:
    """Right in the first by `margin` implies right in the second: the image's label stays the largest output."""

    margin: Number = 0

    def violated(self, subject: Subject, box: Box) -> tuple[list[Formula], str, str]:
        """As `Within.violated`.

        Raises:
            InputError: the box is around no image, whose label could be right.
        """
        margin, count, label = at_least_zero(self.margin, "the margin"), classes(subject), label_of(box)
        others = [other for other in range(count) if other != label]
        formula = [*leads(label, range(count), by=margin), misclassified(label, others, count)]
        said = f"the first is right (class {label}) by {in_name(margin, '/')}, the second is not"
        return formula, said, f"_right{in_name(margin)}"


Agreement = Within | SameClass | RightToo


def leads(label: int, among: range, *, by: Number) -> list[Formula]:
    """The output of `label` is larger than all others, by at least that much."""
    margin = at_least_zero(by, "the margin")
    return [at_least(label, other, margin) for other in among if other != label]


def agree(
    kind: str,
    subject: Subject,
    where: Balls | Sequence[Box],
    agreement: Agreement,
    free: Sequence[int] = (),
    suffix: str = "",
) -> PropertySet:
    """One property a box: the two networks agree on equal inputs, but for those of `free`, which may differ."""
    places, left_out = boxes_of(where)
    if any(box.inputs != subject.inputs for box in places):
        raise InputError(f"a box that is not one of {subject.inputs} inputs", where=subject.models[0].name)
    properties = []
    for box in places:
        formula, said, called = agreement.violated(subject, box)
        properties.append(stated(kind, subject, box, [*tied(box, free), *formula], said, suffix + called))
    return PropertySet(tuple(properties), left_out)
