"""Verification time image by image, dense against pruned, as a scatter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from secateur.pipeline.study.panels import Drawing, Look, panels, plain_numbers
from secateur.pipeline.study.points import Point, by_setting, dense_of

_MOST_DOTS = 6000  # of a scatter, above which images are left out evenly


def scatter(points: Sequence[Point], looks: Mapping[str, Look]) -> Drawing | None:
    """A panel a setting; each method where its certified accuracy is highest. None without seconds of images."""
    groups = {setting: dots for setting, own in by_setting(points).items() if (dots := _dots(own))}
    if not groups:
        return None
    figure, axes = panels([setting.title for setting in groups], 3.9, "pruned: seconds an image")
    parts = []
    for axis, (setting, dots) in zip(axes, groups.items(), strict=True):
        step = -(-sum(len(one.x) for one in dots) // _MOST_DOTS)
        for one in dots:
            look = looks[one.method]
            label = f"{one.method} at {100 * one.sparsity:.0f} %"
            axis.scatter(
                one.x[::step], one.y[::step], s=9, color=look.colour, marker=look.marker, alpha=0.55, linewidths=0,
                label=label,
            )  # fmt: skip
            faster = sum(y < x for x, y in zip(one.x, one.y, strict=True))
            parts.append(f"{setting.title}, {label}: {faster} of {len(one.x)} images faster than dense")
        both = [value for one in dots for value in (*one.x, *one.y)]
        ends = (0.8 * min(both), 1.25 * max(both))
        axis.plot(ends, ends, color="#334155", linewidth=1, zorder=0)
        axis.set(
            xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal", xlabel="dense: seconds an image"
        )
        for side in (axis.xaxis, axis.yaxis):
            plain_numbers(side, max(both) / min(both))
        key = axis.legend(
            fontsize=8,
            markerscale=1.8,
            ncols=2,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.18),
            handletextpad=0.2,
        )
        for handle in key.legend_handles:
            if handle is not None:
                handle.set_alpha(1.0)
    return Drawing(
        "scatter",
        figure,
        "Verification time, image by image: dense against pruned",
        "Each image that both nets classify right, of all seeds; each method where its certified accuracy is highest. "
        "Below the line the pruned net is decided faster.",
        "Scatter of seconds an image, dense against pruned. " + "; ".join(parts) + ".",
    )


@dataclass(frozen=True)
class _Dots:
    method: str
    sparsity: float
    x: list[float]
    y: list[float]


def _dots(points: Sequence[Point]) -> list[_Dots]:
    """For each method the images of its best point beside the dense net's of the same seed."""
    found = []
    for method in dict.fromkeys(point.method for point in points):
        own = [point for point in points if point.method == method and point.sparsity > 0]
        own = [point for point in own if point.values("certified") and point.records[0].get("image_seconds")]
        if not own:
            continue
        best = max(own, key=lambda point: mean(point.values("certified")))
        dense = dense_of(best, points)
        pairs = [
            pair
            for record in best.records
            for other in (dense.records if dense else ())
            if record.get("seed") == other.get("seed")
            for pair in _pairs(other, record)
        ]
        if pairs:
            found.append(_Dots(method, best.sparsity, [x for x, _ in pairs], [y for _, y in pairs]))
    return found


def _pairs(dense: Mapping[str, Any], pruned: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The seconds of the images that both nets get right."""
    sides = [
        dict(zip(one.get("image_index") or (), one.get("image_seconds") or (), strict=True))
        for one in (dense, pruned)
    ]
    both = [(sides[0][index], sides[1][index]) for index in sides[0] if index in sides[1]]
    return [(x, y) for x, y in both if x and y]
