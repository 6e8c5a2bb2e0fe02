"""The pictures of a study, out of records of measurements: curves over sparsities with bands over seeds, and scatters.

A method has one colour, marker and dash throughout, told apart without colour vision too (palette: Okabe and Ito 2008,
"Color universal design").
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING

from secateur.pipeline.study.charts import STYLE, Chart
from secateur.pipeline.study.panels import WIDTH, Drawing, Look, far_or_from_zero, legend, panels
from secateur.pipeline.study.points import CERTIFIED, Point, by_setting, curves
from secateur.pipeline.study.scatter import scatter
from secateur.pipeline.study.summary import DENSE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
_RUNGS = (
    ("certified_ibp", "IBP", "#CFE3F3"),
    ("certified_crown", "CROWN", "#86B9DD"),
    ("certified_alpha_crown", "α-CROWN", "#2E7EBB"),
    ("certified", "complete", "#0B3C5D"),
)


def drawings(points: Sequence[Point]) -> list[Drawing]:
    """The figures that the points allow, of settings in which something was pruned; to be made and saved within
    matplotlib's `charts.STYLE`."""
    points = [point for own in by_setting(points).values() if curves(own) for point in own]
    methods = [method for own in by_setting(points).values() for method in curves(own)]
    looks = {
        method: Look(
            _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], "-" if i < len(_COLOURS) else "--"
        )
        for i, method in enumerate(dict.fromkeys(methods))
    }
    whole = [draw(points, looks) for draw in (_accuracy, _unstable, _seconds, scatter)]
    made = [one for one in whole if one is not None]
    return made + _ladders(points)


def study_charts(points: Sequence[Point]) -> list[Chart]:
    """The same for a page, in its style."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return [drawing.chart() for drawing in drawings(points)]


def _accuracy(points: Sequence[Point], looks: dict[str, Look]) -> Drawing | None:
    by = next((name for name in CERTIFIED if _known(points, name)), None)
    shown = [("accuracy", "standard"), ("pgd_accuracy", "under PGD"), (by or "", "certified")]
    figure = _curves(
        points,
        looks,
        [(name, title, "accuracy (%)") for name, title in shown if _known(points, name)],
        scale=100,
    )
    if figure is None:
        return None
    return Drawing(
        "accuracy",
        figure,
        "Accuracy against sparsity",
        "Mean over seeds; bands reach from the least to the largest seed (of one seed, the table has the interval over "
        "images), the dashed line is the dense net. Standard: all test images. Certified: right, and proved that no "
        "image within ε is classified otherwise.",
        "Line charts of accuracy against sparsity. "
        + _said(points, [("accuracy", "standard"), (by or "", "certified")]),
    )


def _unstable(points: Sequence[Point], looks: dict[str, Look]) -> Drawing | None:
    shown = [("ibp_unstable_ratio", "by interval bounds"), ("crown_unstable_ratio", "by CROWN")]
    rounds = all(point.round is not None for point in points)
    figure = _curves(
        points,
        looks,
        [(name, title, "unstable ReLUs (%)") for name, title in shown if _known(points, name)],
        scale=100,
        by_round=rounds,
    )
    against = "pruning round" if rounds else "sparsity"
    if figure is None:
        return None
    return Drawing(
        "unstable",
        figure,
        f"Unstable neurons against {against}",
        "Share of ReLUs that may be on or off within ε of an image, as bounds see it, mean over images; bands reach "
        "from the least to the largest seed. A proof has to split on these.",
        f"Line charts of the unstable ratio against {against}. "
        + _said(points, [("crown_unstable_ratio", "CROWN")]),
    )


def _seconds(points: Sequence[Point], looks: dict[str, Look]) -> Drawing | None:
    groups = {setting: own for setting, own in by_setting(points).items() if _known(own, "mean_seconds")}
    if not groups:
        return None
    figure, axes = panels([setting.title for setting in groups], 2.6, "seconds an image")
    for axis, own in zip(axes, groups.values(), strict=True):
        _lines(axis, own, looks, "mean_seconds", 1)
        axis.set_xlabel("sparsity (%)")
        far_or_from_zero(axis, [value for point in own for value in point.values("mean_seconds")])
    figure.legend(**legend(axes), loc="outside lower center")
    return Drawing(
        "seconds",
        figure,
        "Verification time against sparsity",
        "Seconds of complete verification, mean over the images classified right, those that time left undecided "
        "included; bands reach from the least to the largest seed.",
        "Line charts of seconds an image against sparsity. "
        + _said(points, [("mean_seconds", "seconds")], 1),
    )


def _ladders(points: Sequence[Point]) -> list[Drawing]:
    """One a setting, a panel a method."""
    found = []
    for number, (setting, own) in enumerate(by_setting(points).items(), 1):
        rungs = [rung for rung in _RUNGS if _known(own, rung[0])]
        if len(rungs) < 2:
            continue
        lines = curves(own)
        figure, axes = panels(list(lines), 2.3, "share of images (%)", shared=True)
        for axis, curve in zip(axes, lines.values(), strict=True):
            _rungs(axis, curve, rungs)
            axis.set(xlabel="sparsity (%)", xlim=(0, 100), ylim=(0, 100))
        figure.legend(**legend(axes), loc="outside lower center")
        found.append(
            Drawing(
                f"ladder-{number}",
                figure,
                f"Tightness of bounds: {setting.title}",
                "Certified accuracy by ever tighter bounds, mean over seeds: what a method adds to those below has its "
                "colour. White below the dotted line: neither proved nor refuted in time. Above: wrong, or refuted.",
                f"Stacked areas of certified accuracy by method of bounding, {setting.title}. "
                + _said(own, [(name, label) for name, label, _ in rungs]),
            )
        )
    return found


def _rungs(axis: Axes, curve: Sequence[Point], rungs: Sequence[tuple[str, str, str]]) -> None:
    known = [point for point in curve if all(point.values(name) for name, _, _ in rungs)]
    x = [100 * point.sparsity for point in known]
    below = [0.0] * len(x)
    for name, label, colour in rungs:
        heights = [100 * mean(point.values(name)) for point in known]
        axis.fill_between(x, below, heights, color=colour, linewidth=0, label=label)
        axis.plot(x, heights, color="white", linewidth=0.8)
        below = heights
    decided = [point for point in known if point.values("right") and point.values("refuted")]
    if decided:
        top = [100 * (mean(point.values("right")) - mean(point.values("refuted"))) for point in decided]
        where = [100 * point.sparsity for point in decided]
        axis.plot(where, top, color="#000000", linestyle=":", linewidth=1.4, label="not refuted")


def _curves(
    points: Sequence[Point],
    looks: dict[str, Look],
    shown: Sequence[tuple[str, str, str]],
    *,
    scale: float,
    by_round: bool = False,
) -> Figure | None:
    """A row a setting, a panel a measure (column, title, label of its axis), a line a method."""
    from matplotlib.figure import Figure

    if not (shown and points):
        return None
    groups = by_setting(points)
    figure = Figure(figsize=(WIDTH, 0.4 + 2.55 * len(groups)), layout="constrained")
    parts = figure.subfigures(len(groups) + 1, 1, squeeze=False, height_ratios=[*[1.0] * len(groups), 0.13])
    *rows, foot = parts[:, 0]
    for row, (setting, own) in zip(rows, groups.items(), strict=True):
        row.suptitle(setting.title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        axes = list(row.subplots(1, len(shown), squeeze=False)[0])
        for axis, (name, title, label) in zip(axes, shown, strict=True):
            _lines(axis, own, looks, name, scale, by_round=by_round)
            axis.set_title(title, fontsize=9.5, fontweight="normal")
            axis.set_xlabel("pruning round" if by_round else "sparsity (%)")
            if axis is axes[0]:
                axis.set_ylabel(label)
    foot.legend(**legend([row.axes[0] for row in rows]), loc="center")
    return figure


def _lines(
    axis: Axes,
    points: Sequence[Point],
    looks: dict[str, Look],
    name: str,
    scale: float,
    *,
    by_round: bool = False,
) -> None:
    """A line and a band a method, and the dense net's level."""
    from matplotlib.ticker import MaxNLocator

    dense = next((point for point in points if point.method == DENSE and point.values(name)), None)
    if dense is not None:
        axis.axhline(
            scale * mean(dense.values(name)), color="#000000", ls=(0, (4, 3)), lw=1, label="dense", zorder=1
        )
    for method, curve in curves(points).items():
        known = [point for point in curve if point.values(name)]
        look = looks[method]
        x = [float(point.round or 0) if by_round else 100 * point.sparsity for point in known]
        values = [[scale * value for value in point.values(name)] for point in known]
        axis.fill_between(
            x,
            [min(own) for own in values],
            [max(own) for own in values],
            color=look.colour,
            alpha=0.16,
            linewidth=0,
        )
        axis.plot(
            x,
            [mean(own) for own in values],
            color=look.colour,
            marker=look.marker,
            linestyle=look.dash,
            markersize=4.5,
            linewidth=1.7,
            label=method,
        )
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if not by_round:
        axis.set_xlim(-3, 103)


def _known(points: Sequence[Point], name: str) -> bool:
    return any(point.values(name) for point in points)


def _said(points: Sequence[Point], shown: Sequence[tuple[str, str]], scale: float = 100) -> str:
    """The points' means in words, for those who do not see the picture."""
    unit = " %" if scale == 100 else ""
    parts = []
    for point in points:
        found = [
            f"{label} {scale * mean(values):.3g}{unit}"
            for name, label in shown
            if (values := point.values(name))
        ]
        if found:
            place = f"{point.setting.title}, {point.method} at sparsity {point.sparsity:.0%}"
            parts.append(f"{place}: {', '.join(found)}")
    return "; ".join(parts) + "."
