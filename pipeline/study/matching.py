"""Certified tickets: pruned networks that match the dense one, in standard and in certified accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.pipeline.study.intervals import Estimate
from secateur.pipeline.study.points import CERTIFIED, Point, dense_of


@dataclass(frozen=True)
class Ticket:
    """A pruned network's point that matches its `dense` net's; `by`: the column of certified accuracy compared."""

    point: Point
    dense: Point
    by: str
    accuracy: Estimate
    certified: Estimate
    dense_accuracy: Estimate
    dense_certified: Estimate


def tickets(points: Sequence[Point]) -> list[Ticket]:
    """All certified tickets among the points.

    A point is one when its mean standard accuracy and its mean certified accuracy both reach the lower end of the dense
    net's 95 % interval: Student's over the dense net's seeds, Wilson's over the images where there is one seed (which
    of them, the estimates say). Certified accuracy is that of complete verification, or of the strongest bounds that
    both were measured by.
    """
    found = [_ticket(point, points) for point in points if point.sparsity > 0]
    return [one for one in found if one is not None]


def _ticket(point: Point, points: Sequence[Point]) -> Ticket | None:
    dense = dense_of(point, points)
    if dense is None:
        return None
    for by in CERTIFIED:
        sides = [one.estimate(column) for one in (point, dense) for column in ("accuracy", by)]
        accuracy, certified, dense_accuracy, dense_certified = sides
        if accuracy is None or certified is None or dense_accuracy is None or dense_certified is None:
            continue
        if accuracy.value >= dense_accuracy.lower and certified.value >= dense_certified.lower:
            return Ticket(point, dense, by, accuracy, certified, dense_accuracy, dense_certified)
        return None
    return None
