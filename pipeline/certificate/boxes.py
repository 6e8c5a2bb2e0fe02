"""Parts of a region's box, and bounds of the neurons there: the same at the making of a proof and at its checking."""

from __future__ import annotations

import numpy as np

from secateur.formats.query import Floats
from secateur.pipeline.certificate.leaves import Bounds
from secateur.pipeline.certificate.lines import Folded, Lines, Substitution

NEURONS = 400_000
"""How many numbers the rows bounded at a time may take in one layer."""


def narrowed(folded: Folded, lower: Floats, upper: Floats, known: Bounds) -> list[tuple[Floats, Floats]]:
    """Bounds (B, n) of every layer's arguments on boxes lower, upper (B, n_in), parts of the folded network's, on which
    the bounds `known` (B, n) hold already: those, intersected with intervals and with CROWN's bounds."""
    result: list[tuple[Floats, Floats]] = []
    lines: list[Lines | None] = [None]
    values = [(lower, upper)]
    with np.errstate(all="ignore"):
        for number, (least, most) in enumerate(known, 1):
            layer = folded.layer(number)
            low, high = (
                np.broadcast_to(side, (len(lower), len(layer.bias))) for side in (layer.bias, layer.bias)
            )
            for source, matrix in layer.maps.items():
                positive = np.maximum(matrix, 0.0).T
                negative = matrix.T - positive
                below, above = values[source]
                low = low + below @ positive + above @ negative
                high = high + above @ positive + below @ negative
            # `margin` is what rounding can have changed here as well: these are the same sums.
            low, high = np.fmax(least, low - layer.margin), np.fmin(most, high + layer.margin)
            if number > 1:
                low, high = _substituted(folded, number, lines, lower, upper, low, high)
            result.append((low, high))
            lines.append(Lines.of(low, high))
            values.append((np.maximum(low, 0.0), np.maximum(high, 0.0)))
    return result


def _substituted(
    folded: Folded,
    number: int,
    lines: list[Lines | None],
    lower: Floats,
    upper: Floats,
    low: Floats,
    high: Floats,
) -> tuple[Floats, Floats]:
    """The bounds of a layer intersected with those by substitution, of the neurons that may have either sign."""
    layer = folded.layer(number)
    unstable = (low < 0) & (high > 0)
    most = int(unstable.sum(1).max(initial=0))
    if most == 0:
        return low, high
    # Every box has its own neurons first. The rest are others, whose bounds stay: a box's bounds must not depend on
    # which boxes it is bounded with.
    chosen = np.argsort(~unstable, axis=1, kind="stable")[:, :most]
    used = np.take_along_axis(unstable, chosen, 1)
    low, high = low.copy(), high.copy()
    widest = max(len(each.bias) for each in folded.layers[1:] if each is not None)
    count = max(1, NEURONS // (2 * most * max(widest, len(folded.lower))))
    for first in range(0, len(low), count):
        part = slice(first, first + count)
        own: list[Lines | None] = [
            None if line is None else Lines(line.below[part], line.above[part], line.intercept[part], None)
            for line in lines
        ]
        start = Substitution.both_signs(layer, chosen[part])
        least, _ = start.least(folded, own, lower[part], upper[part])
        rows, own_used = chosen[part], used[part]
        for side, better, found in ((low, np.fmax, least[:, :most]), (high, np.fmin, -least[:, most:])):
            old = np.take_along_axis(side[part], rows, 1)
            np.put_along_axis(side[part], rows, np.where(own_used, better(old, found), old), 1)
    return low, high
