"""What pruning changes, as Markdown: records of `secateur tickets` in, a table a setting out.

    .venv/bin/python vnncomp_benchmarks/certified_tickets/summary.py RECORDS...

A line a method and sparsity: means over seeds, and the difference in certified accuracy from the dense network of the
same seed, on the same images, with its 95 % interval: Student's over seeds where there are three or more, else over
images (paired: each image counts by whether one network is certified on it and the other not). A star marks, for each
method, the sparsest round whose held-out accuracy, in the eyes of its training, is at most one point below the dense
network's: the one to choose without a look at test images. The first table has only those.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import Any

from secateur.formats import measurements
from secateur.pipeline.study.intervals import estimate
from secateur.pipeline.study.points import Point, by_setting, points

Record = Mapping[str, Any]
_SEEDS = 3  # fewer make Student's interval wider than what it measures
_PROVED = ("ibp", "crown", "alpha-crown", "complete")
_POINT = 0.01


def certified(record: Record) -> list[bool]:
    """Of each image, whether the network is right and proved robust on it."""
    return [proof in _PROVED for proof in record["image_proof"]]


def gain(point: Point, dense: Point) -> tuple[float, float, float]:
    """The difference in certified accuracy from the dense network, and its 95 % interval."""
    of_seed = {record["seed"]: record for record in dense.records}
    pairs = [(record, of_seed[record["seed"]]) for record in point.records if record["seed"] in of_seed]
    found = estimate([own["certified"] - other["certified"] for own, other in pairs])
    if len(pairs) >= _SEEDS:
        return found.value, found.lower, found.upper
    by_image = [
        mean(a - b for a, b in zip(images, others, strict=True))
        for images, others in zip(
            zip(*(certified(own) for own, _ in pairs), strict=True),
            zip(*(certified(other) for _, other in pairs), strict=True),
            strict=True,
        )
    ]
    half = 1.96 * stdev(by_image) / sqrt(len(by_image))
    return found.value, found.value - half, found.value + half


def chosen(own: Sequence[Point], dense: Point) -> Point | None:
    """The sparsest whose held-out accuracy is at most one point below the dense network's."""
    level = mean(dense.values("validation")) - _POINT
    return max(
        (point for point in own if point.sparsity and mean(point.values("validation")) >= level),
        key=lambda point: point.sparsity,
        default=None,
    )


def lines(own: Sequence[Point]) -> Iterator[str]:
    """A setting's table."""
    dense = next(point for point in own if point.method == "dense")
    yield f"### {own[0].setting.title}"
    seeds, images = len(dense.records), dense.records[0]["images"]
    yield f"\n{seeds} seed{'s' if seeds > 1 else ''}, {images} images to certify\n"
    yield "| method | sparsity | standard | PGD | CROWN | certified | than dense | open | unstable | s an image |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for method in dict.fromkeys(point.method for point in own):
        mine = [point for point in own if point.method == method]
        star = chosen(mine, dense)
        for point in mine:
            yield _line(point, dense, point is star)


def _line(point: Point, dense: Point, star: bool) -> str:
    def percent(column: str) -> str:
        return f"{100 * mean(point.values(column)):.1f}"

    difference = (
        "" if point is dense else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * x for x in gain(point, dense)))
    )
    mark = " ★" if star else ""
    cells = [
        point.method,
        f"{100 * point.sparsity:.0f} %{mark}",
        *(percent(name) for name in ("accuracy", "pgd_accuracy", "certified_crown", "certified")),
        difference,
        percent("undecided"),
        percent("crown_unstable_ratio"),
        f"{mean(point.values('mean_seconds')):.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def stars(settings: Sequence[Sequence[Point]]) -> Iterator[str]:
    """The dense network of every setting, and each method's marked round."""
    yield "| setting | seeds | method | sparsity | standard | PGD | certified | than dense | unstable | s an image |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for own in settings:
        dense = next(point for point in own if point.method == "dense")
        marked = [
            chosen([point for point in own if point.method == method], dense)
            for method in dict.fromkeys(point.method for point in own)
        ]
        for point in [dense, *filter(None, marked)]:
            first = f"{point.setting.title} | {len(dense.records)}" if point is dense else " | "
            cells = _line(point, dense, False).strip("| ").split(" | ")
            yield f"| {first} | {' | '.join(cells[:4] + cells[5:7] + cells[8:])} |"


def main(sources: Sequence[str]) -> None:
    records = [record for source in sources for record in measurements.read(source)]
    settings = list(by_setting(points(records)).values())
    print("\n".join(stars(settings)), end="\n\n")
    for own in settings:
        print("\n".join(lines(own)), end="\n\n")


if __name__ == "__main__":
    main(sys.argv[1:])
