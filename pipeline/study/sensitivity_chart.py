"""A sensitivity sweep as a picture: accuracy, and unstable neurons, against the sparsity of one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from secateur.formats import streams
from secateur.formats.errors import InputError
from secateur.formats.sensitivity import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BRIGHTEST = 0.92  # of the colours, where they still stand out from white
_LISTED = 14  # layers up to which each has a line of the legend; more are told apart by depth alone


def draw(points: Sequence[Point], destination: str) -> None:
    """Write the picture of one sweep (the settings of its last point) as .svg or .png, by the name's ending.

    Raises:
        InputError: another ending, or no point of a layer.
    """
    import io

    import matplotlib

    from secateur.pipeline.study.charts import STYLE

    kind = destination.rpartition(".")[2].lower()
    if kind not in ("svg", "png"):
        raise InputError("a picture's name ends in .svg or .png", where=destination)
    points = [point for point in points if point.settings == points[-1].settings]
    if not any(point.layer for point in points):
        raise InputError("nothing to draw: no layer was measured", where=destination)
    buffer = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "sensitivity"}):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure(points).savefig(buffer, format=kind, dpi=150, metadata=metadata)
    streams.write_bytes(destination, buffer.getvalue())


def figure(points: Sequence[Point]) -> Figure:
    """A panel for accuracy and, where they were counted, one for unstable neurons; a line a layer, in graph order."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    settings = points[0].settings
    counted = any(point.unstable is not None for point in points)
    drawn = Figure(figsize=(10.5 if counted else 7.0, 4.0), layout="constrained")
    axes: Sequence[Axes] = list(drawn.subplots(1, 1 + counted, squeeze=False)[0])
    layers = list(dict.fromkeys(point.layer for point in points if point.layer is not None))
    dense = next((point for point in points if point.layer is None), None)
    colours = colormaps["viridis"]
    measures: list[tuple[Axes, Callable[[Point], float | None]]] = [
        (axes[0], lambda point: 100 * point.accuracy)
    ]
    if counted:
        measures.append((axes[1], lambda point: point.unstable))
    for axis, value in measures:
        level = value(dense) if dense is not None else None
        if level is not None:
            axis.axhline(level, color="#94a3b8", linestyle="--", linewidth=1.2, label="dense")
        for place, layer in enumerate(layers):
            own = {100 * p.sparsity: y for p in points if p.layer == layer and (y := value(p)) is not None}
            line = sorted((own if level is None else {0.0: level} | own).items())
            shares, values = ([pair[side] for pair in line] for side in (0, 1))
            colour = colours(_BRIGHTEST * place / max(1, len(layers) - 1))
            label = layer if len(layers) <= _LISTED else None
            axis.plot(shares, values, color=colour, linewidth=1.8, marker="o", markersize=3.5, label=label)
        axis.set(xlabel="share of the layer's units pruned", xlim=(0, 100))
        axis.xaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes[0].set_title(f"Accuracy on {settings.images:,} images of {settings.data}")
    axes[0].yaxis.set_major_formatter(PercentFormatter(decimals=0))
    if counted:
        axes[1].set_title(f"Unstable neurons an image within ε = {settings.epsilon:g} ({settings.bounds})")
        axes[1].set_ylim(bottom=0)
    if len(layers) > _LISTED:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        scale = ScalarMappable(Normalize(1, 1 + (len(layers) - 1) / _BRIGHTEST), colours)
        whole = MaxNLocator(integer=True)
        bar = drawn.colorbar(scale, ax=axes[-1], label="layer, from input to output", ticks=whole)
        bar.ax.set_ylim(1, len(layers))
    else:
        axes[-1].legend(
            loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, title="pruned alone", title_fontsize=8
        )
    drawn.suptitle(f"{settings.criterion}, granularity {settings.granularity}", fontsize=11)
    return drawn
