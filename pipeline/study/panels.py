"""What the figures of a study are made of: drawings, looks of methods, panels, legends, axes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.pipeline.study.charts import Chart, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH = 9.2
"""Inches of the page."""

_FAR = 20.0  # how many times the least the largest is from where an axis is logarithmic


@dataclass(frozen=True)
class Drawing:
    """A figure with its name for files, heading, caption and alternative text."""

    name: str
    figure: Figure
    title: str
    caption: str
    alternative: str

    def chart(self) -> Chart:
        return Chart(self.title, self.caption, to_svg(self.figure, self.alternative))


@dataclass(frozen=True)
class Look:
    """How a method is drawn."""

    colour: str
    marker: str
    dash: str


def panels(
    titles: Sequence[str], height: float, label: str, *, shared: bool = False
) -> tuple[Figure, list[Axes]]:
    """A panel a title, two or three in a row, `label` on the left ones; only those are there that are used."""
    from matplotlib.figure import Figure

    columns = 2 if len(titles) in (2, 4) else min(len(titles), 3)
    rows = -(-len(titles) // columns)
    width = WIDTH if columns > 1 else 0.6 * WIDTH
    figure = Figure(figsize=(width, (height + 0.35) * rows + 0.35), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=shared).flat)
    for place, (axis, title) in enumerate(zip(axes, titles, strict=False)):
        axis.set_title(textwrap.fill(title, 96 // columns), fontsize=9.5)
        if place % columns == 0:
            axis.set_ylabel(label)
    for axis in axes[len(titles) :]:
        axis.remove()
    return figure, axes[: len(titles)]


def legend(axes: Sequence[Axes]) -> dict[str, Any]:
    """Arguments of one legend for all of them."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return {"handles": list(found.values()), "labels": list(found), "ncols": 6, "fontsize": 9}


def far_or_from_zero(axis: Axes, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) > _FAR * min(values):
        axis.set_yscale("log")
        plain_numbers(axis.yaxis, max(values) / min(values))
    else:
        axis.set_ylim(bottom=0)


def plain_numbers(axis: Axis, times: float) -> None:
    """Ticks of a logarithmic axis as 0.2, 0.5, 1; the largest value is so many `times` the least."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if times < 300 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
