"""What pruning changes: each point against the dense net, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from secateur.pipeline.study.intervals import Estimate, estimate
from secateur.pipeline.study.points import CERTIFIED, Point, dense_of

COMPARED = ("accuracy", "pgd_accuracy", *CERTIFIED)
"""The columns whose differences are taken."""


@dataclass(frozen=True)
class Gain:
    """A pruned point and its dense net. `differences` (pruned less dense, a mean over the seeds that both have, with
    Student's 95 % interval of the paired differences) by column; `by`: the strongest certified accuracy among them.

    Of one seed, that of certified accuracy has the interval of its paired images (kind "paired")."""

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
        return self.certified is not None and bool(self.certified.kind) and self.certified.lower > 0


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
    if len(values) == 1 and column == CERTIFIED[0]:
        (seed,) = [seed for seed in after if seed in before]
        records = [next(one for one in side.records if one.get("seed") == seed) for side in (point, dense)]
        return _paired(values[0], *map(_certified, records)) or estimate(values)
    return estimate(values) if values else None


def _certified(record: Mapping[str, Any]) -> dict[int, bool]:
    """Of each image, by its place in the data, whether it is certified."""
    proofs = zip(record.get("image_index") or (), record.get("image_proof") or (), strict=False)
    return {index: proof not in ("wrong", "refuted", "undecided") for index, proof in proofs}


def _paired(value: float, after: Mapping[int, bool], before: Mapping[int, bool]) -> Estimate | None:
    """The difference of two shares of the same images with its 95 % interval, of Student's t over what each image
    changes; None where the images are not known, or not the same."""
    if not after or after.keys() != before.keys():
        return None
    changes = [float(after[index]) - float(before[index]) for index in after]
    spread = estimate(changes)
    return replace(spread, kind="paired") if abs(spread.value - value) < 1e-9 else None
