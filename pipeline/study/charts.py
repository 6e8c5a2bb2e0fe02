"""The report's pictures: SVG text, the same bytes for the same records."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from secateur.formats.verdict import Record
from secateur.pipeline.study.summary import DENSE, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _GRID = "#334155", "#e2e8f0"
_MEASURES = (
    ("accuracy", "standard", "#64748b", "o"),
    ("attacked", "attacked", "#d97706", "s"),
    ("certified", "certified", "#0f766e", "D"),
)
_LAYERS = ("#1e3a8a", "#3b82f6", "#7dd3fc", "#0f766e", "#5eead4", "#a16207", "#fbbf24", "#9f1239", "#fb7185")
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Chart:
    """A picture as inline SVG (its alternative text inside) with its heading and caption."""

    title: str
    caption: str
    svg: str


def charts(records: Sequence[Record], summaries: Sequence[Summary]) -> list[Chart]:
    """The charts that the records allow: those against sparsity need models with that label."""
    import matplotlib

    placed = [one for one in summaries if one.sparsity is not None]
    found = []
    with matplotlib.rc_context(STYLE):
        if len({one.sparsity for one in placed}) > 1:
            found.append(_accuracy(placed))
            if any(one.neurons for one in placed):
                found.append(_unstable(placed))
            if any(one.mean_seconds is not None for one in placed):
                found.append(_seconds(placed))
        if records:
            found.append(_solved(records, summaries))
    return found


def _panels(summaries: Sequence[Summary]) -> list[tuple[str, list[Summary]]]:
    """A panel a method (and ε, verifier, where they differ), each beginning with its dense model."""
    several = len({(one.epsilon, one.verifier) for one in summaries}) > 1
    groups: dict[tuple[str, str, str], list[Summary]] = {}
    for one in summaries:
        if one.method != DENSE:
            groups.setdefault((one.method, one.epsilon, one.verifier), []).append(one)
    if not groups:
        return [("", sorted(summaries, key=lambda one: one.sparsity or 0.0))]
    panels = []
    for (method, epsilon, verifier), group in groups.items():
        dense = [
            one
            for one in summaries
            if one.method == DENSE and (one.epsilon, one.verifier) == (epsilon, verifier)
        ]
        title = f"{method}, ε = {epsilon}, {verifier}" if several else method
        panels.append((title, sorted([*dense, *group], key=lambda one: one.sparsity or 0.0)))
    return panels


def _accuracy(summaries: Sequence[Summary]) -> Chart:
    panels = _panels(summaries)
    figure, axes = new_figure(len(panels), 3.3)
    for axis, (title, models) in zip(axes, panels, strict=True):
        for name, label, colour, marker in _MEASURES:
            known = [(one.sparsity, getattr(one, name)) for one in models if getattr(one, name) is not None]
            if known:
                x, y = ([100 * float(pair[side] or 0) for pair in known] for side in (0, 1))
                axis.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=2, label=label)
        axis.set(title=title, xlabel="sparsity (%)", ylim=(-3, 103))
    axes[0].set_ylabel("share of images (%)")
    legend_beside(axes[-1])
    details = "; ".join(
        f"{_place(one)}: "
        + ", ".join(
            f"{label} {getattr(one, name):.0%}"
            for name, label, _, _ in _MEASURES
            if getattr(one, name) is not None
        )
        for one in summaries
    )
    return Chart(
        "Accuracy against sparsity",
        "Standard: right on the test images. Attacked: right, and no counterexample found. Certified: right, and "
        "proved that none exists within ε.",
        to_svg(figure, f"Line chart of accuracy against sparsity. {details}."),
    )


def _unstable(summaries: Sequence[Summary]) -> Chart:
    panels = _panels([one for one in summaries if one.neurons])
    layers = list(dict.fromkeys(name for one in summaries for name in one.neurons))
    figure, axes = new_figure(len(panels), 3.3, share_x=False)
    for axis, (title, models) in zip(axes, panels, strict=True):
        ticks = [f"{100 * (one.sparsity or 0):g}" for one in models]
        base = [0.0] * len(models)
        for number, layer in enumerate(layers):
            heights = [one.unstable.get(layer, 0.0) for one in models]
            colour = _LAYERS[number % len(_LAYERS)]
            axis.bar(range(len(models)), heights, 0.62, bottom=base, color=colour, label=layer)
            base = [low + height for low, height in zip(base, heights, strict=True)]
        axis.set_xticks(range(len(models)), ticks)
        axis.set(title=title, xlabel="sparsity (%)")
        axis.set_xlim(-0.6, max(len(models), 4) - 0.4)
        axis.grid(axis="x", visible=False)
    axes[0].set_ylabel("unstable neurons, mean an instance")
    legend_beside(axes[-1], upwards=True)
    details = "; ".join(
        f"{_place(one)}: {one.unstable_total:.1f} of {sum(one.neurons.values()):.0f}"
        for one in summaries
        if one.neurons
    )
    return Chart(
        "Unstable neurons by layer",
        "Neurons whose ReLU may be on or off within ε, as the first bounds see it. A proof has to split on these.",
        to_svg(figure, f"Stacked bars of unstable neurons against sparsity. {details}."),
    )


def _seconds(summaries: Sequence[Summary]) -> Chart:
    panels = _panels([one for one in summaries if one.mean_seconds is not None])
    figure, axes = new_figure(len(panels), 2.8)
    for axis, (title, models) in zip(axes, panels, strict=True):
        x = [100 * (one.sparsity or 0) for one in models]
        axis.plot(x, [one.mean_seconds or 0 for one in models], "o-", color="#1e3a8a", lw=2, label="mean")
        axis.plot(
            x, [one.median_seconds or 0 for one in models], "o--", color="#7dd3fc", lw=2, label="median"
        )
        axis.set(title=title, xlabel="sparsity (%)")
    axes[0].set_ylabel("seconds an instance")
    axes[0].set_ylim(bottom=0)
    legend_beside(axes[-1])
    details = "; ".join(
        f"{_place(one)}: mean {one.mean_seconds:.2f} s, median {one.median_seconds:.2f} s"
        for one in summaries
        if one.mean_seconds is not None
    )
    return Chart(
        "Time against sparsity",
        "Seconds from reading an instance to its verdict; timeouts count with the time they used.",
        to_svg(figure, f"Line chart of seconds an instance against sparsity. {details}."),
    )


def _solved(records: Sequence[Record], summaries: Sequence[Summary]) -> Chart:
    """Instances decided within a time: the cactus plot, a line a model."""
    from matplotlib.ticker import MaxNLocator

    figure, (axis,) = new_figure(1, 3.3)
    decided: dict[str, list[float]] = {one.model_sha256: [] for one in summaries}
    for record in records:
        if record.verdict in ("sat", "unsat"):
            decided[record.model_sha256].append(record.seconds)
    named = {one.model_sha256: one.model for one in summaries}
    lines = {sha256: sorted(times) for sha256, times in decided.items() if times}
    few = len(lines) <= len(_LAYERS)
    if not few:
        lines = {"": sorted(time for times in lines.values() for time in times)}
    for number, (sha256, times) in enumerate(lines.items()):
        label = named[sha256] if few and sha256 else "all models"
        steps = range(1, len(times) + 1)
        axis.plot(steps, times, color=_LAYERS[number % len(_LAYERS)], lw=1.8, marker=".", label=label)
    axis.set(xlabel="instances decided", ylabel="within seconds each", yscale="log" if lines else "linear")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if lines:
        legend_beside(axis)
    count = sum(len(times) for times in lines.values())
    slowest = max((times[-1] for times in lines.values()), default=0.0)
    return Chart(
        "Instances decided within a time",
        "Instances sorted by time: a lower and longer line is better. Undecided instances are not on it.",
        to_svg(
            figure,
            f"{count} of {len(records)} instances were decided, the slowest after {slowest:.2f} s.",
        ),
    )


def _place(one: Summary) -> str:
    return f"{one.method or one.model} at sparsity {one.sparsity or 0:.0%}"


def new_figure(panels: int, height: float, *, share_x: bool = True) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, height), layout="constrained")
    return figure, list(figure.subplots(1, panels, sharex=share_x, sharey=True, squeeze=False)[0])


def legend_beside(axis: Axes, *, upwards: bool = False) -> None:
    """Beside the panel, where it hides nothing; `upwards` in the order of stacked bars."""
    handles, labels = axis.get_legend_handles_labels()
    step = -1 if upwards else 1
    axis.legend(handles[::step], labels[::step], loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)


def to_svg(figure: Figure, alternative: str) -> str:
    """The figure as an `svg` element that scales with the page, its ids made unique by its own alternative text."""
    import matplotlib

    buffer = io.StringIO()
    salt = re.sub(r"[^a-z]+", "-", alternative.lower())[:24]
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{salt}", text)
    text = re.sub(r'^<svg ([^>]*?)(?:width|height)="[^"]*" ', r"<svg \1", text, count=1)
    text = re.sub(r'^<svg ([^>]*?)(?:width|height)="[^"]*" ', r"<svg \1", text, count=1)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{escape(alternative)}" ', 1)
    return text.strip()
