"""What pruning changes: each point against the dense net, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.pipeline.study.intervals import Estimate, estimate
from secateur.pipeline.study.points import CERTIFIED, Point, dense_of

COMPARED = ("accuracy", "pgd_accuracy", *CERTIFIED)
"""The columns whose differences are taken."""


@dataclass(frozen=True)
class Gain:
    """A pruned point and its dense net. `differences` (pruned less dense, a mean over the seeds that both have, with
    Student's 95 % interval of the paired differences) by column; `by`: the strongest certified accuracy among them."""

    point: Point
    dense: Point
    differences: dict[str, Estimate]
    by: str | None

    @property
    def certified(self) -> Estimate | None:
        return None if self.by is None else self.differences[self.by]

    @property
    def sure(self) -> bool:
        """Whether certified accuracy rose by more than its interval."""
        return self.certified is not None and self.certified.kind == "t" and self.certified.lower > 0


def gains(points: Sequence[Point]) -> list[Gain]:
    """One a pruned point that has a dense net."""
    found = []
    for point in points:
        dense = dense_of(point, points) if point.sparsity > 0 else None
        if dense is not None:
            differences = {
                name: one for name in COMPARED if (one := difference(point, dense, name)) is not None
            }
            by = next((name for name in CERTIFIED if name in differences), None)
            found.append(Gain(point, dense, differences, by))
    return found


def difference(point: Point, dense: Point, column: str) -> Estimate | None:
    """Of a column, over the seeds that both points have it for; None where there is none."""
    before = {
        record.get("seed"): record[column] for record in dense.records if record.get(column) is not None
    }
    after = {record.get("seed"): record[column] for record in point.records if record.get(column) is not None}
    values = [float(after[seed]) - float(before[seed]) for seed in after if seed in before]
    return estimate(values) if values else None
