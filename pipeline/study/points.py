"""Records of measurements, gathered: the seeds of one method at one sparsity are a point, points make curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from secateur.pipeline.study.intervals import Estimate, estimate
from secateur.pipeline.study.summary import DENSE

CERTIFIED = ("certified", "certified_alpha_crown", "certified_crown", "certified_ibp")
"""Certified accuracy, by the strongest means first."""

_IMAGES = {
    "accuracy": "accuracy_images",
    "fgsm_accuracy": "attacked_images",
    "pgd_accuracy": "attacked_images",
}


@dataclass(frozen=True)
class Setting:
    """What networks must share to be compared; empty where the records do not say."""

    data: str
    network: str
    objective: str
    epsilon: float | None

    @property
    def title(self) -> str:
        parts = [
            self.data.removesuffix(".npz"),
            self.network,
            f"{self.objective} training" if self.objective else "",
        ]
        ball = [] if self.epsilon is None else [f"ε\u00a0=\u00a0{fraction(self.epsilon)}"]  # not to be broken
        return ", ".join([*filter(None, parts), *ball])


@dataclass(frozen=True)
class Point:
    """A method at one sparsity: a record a seed. `round` is None where the records do not say."""

    setting: Setting
    method: str
    round: int | None
    records: tuple[Mapping[str, Any], ...]

    @property
    def sparsity(self) -> float:
        return mean(float(record.get("sparsity", 0.0)) for record in self.records)

    def values(self, column: str) -> list[float]:
        """One a seed, of those that have it."""
        return [float(record[column]) for record in self.records if record.get(column) is not None]

    def estimate(self, column: str) -> Estimate | None:
        """Of a column over the seeds; None where none has it."""
        values = self.values(column)
        if not values:
            return None
        images = self.records[0].get(_IMAGES.get(column, "images" if column in CERTIFIED else ""))
        return estimate(values, images)


def points(records: Iterable[Mapping[str, Any]]) -> list[Point]:
    """All points, settings in order of appearance, in each the dense net, then methods, by sparsity.

    Rounds tell a method's points apart; where there are none, sparsities to a tenth of a percent. Of several records of
    one seed the last counts.
    """
    found: dict[tuple[Setting, str, int | None, float], dict[object, Mapping[str, Any]]] = {}
    for record in records:
        setting = Setting(
            str(record.get("data", "")),
            str(record.get("network", "")),
            str(record.get("objective", "")),
            record.get("epsilon"),
        )
        method, sparsity = str(record.get("method", "")), float(record.get("sparsity", 0.0))
        if not method:
            method = DENSE if sparsity == 0 else "pruned"
        number = record.get("round")
        key = setting, method, number, round(sparsity, 3) if number is None else 0.0
        found.setdefault(key, {})[record.get("seed")] = record
    made = [
        Point(setting, method, number, tuple(seeds.values()))
        for (setting, method, number, _), seeds in found.items()
    ]
    settings = list(dict.fromkeys(point.setting for point in made))
    methods = list(dict.fromkeys(point.method for point in made))
    return sorted(
        made,
        key=lambda one: (
            settings.index(one.setting),
            one.method != DENSE,
            methods.index(one.method),
            one.sparsity,
        ),
    )


def by_setting(points: Sequence[Point]) -> dict[Setting, list[Point]]:
    groups: dict[Setting, list[Point]] = {}
    for point in points:
        groups.setdefault(point.setting, []).append(point)
    return groups


def dense_of(point: Point, among: Sequence[Point]) -> Point | None:
    """The dense net that a point is compared with: the setting's one of the method "dense", else the same method's at
    sparsity 0; None where neither was measured."""
    own = [one for one in among if one.setting == point.setting and one.sparsity == 0]
    return next(
        (one for name in (DENSE, point.method) for one in own if one.method == name),
        None,
    )


def curves(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of one setting by method that prunes, each method's led by the dense net where it has no such point
    itself."""
    methods = list(dict.fromkeys(one.method for one in points if one.method != DENSE and one.sparsity > 0))
    found = {}
    for method in methods:
        own = [one for one in points if one.method == method]
        dense = dense_of(own[0], points)
        lead = [dense] if dense is not None and all(one.sparsity > 0 for one in own) else []
        found[method] = [*lead, *own]
    return found


def fraction(epsilon: float) -> str:
    """`epsilon` as people write it: k/255 or k/16 where it is one, else a decimal."""
    for denominator in (255, 16):
        times = epsilon * denominator
        if abs(times - round(times)) < 1e-9 and round(times) and f"{epsilon:g}" != f"{epsilon:.2g}":
            return f"{round(times)}/{denominator}"
    return f"{epsilon:g}"
