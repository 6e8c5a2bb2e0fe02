"""A network folded for one box: dense maps between the neurons that may be active there, and bounds of all neurons.

Layer by layer: intervals through the network as it is; the neurons that these do not show to be inactive get rows of
a dense matrix each, by pulling unit vectors back through the affine nodes to the ReLUs (and the input) before; those
that may have either sign are bounded by substitution on the layers so far (`lines`), with CROWN's slopes and then with
those that are given; what is inactive by then is left out.

**Rounding.** Pulling a row back through a chain of affine nodes sums up products along its paths. What is computed is
off by at most γ_n times the sum of the absolute values of the products, n the terms of all sums along the way (Higham
2002, section 3.1; factors (1 + γ_a)(1 + γ_b) ≤ 1 + γ_{a+b}, lemma 3.3). So for |h| ≤ H the argument as computed is off
by at most γ_n times the magnitude |W_m|(…(|W_1|H + |b_1|)…) + |b_m|, which one forward pass of absolute values gives:
twice that, for the rounding of that pass, is e of `lines`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from secateur.formats.certificate import SLOPES
from secateur.formats.query import Floats
from secateur.pipeline.certificate.lines import FLOOR, Folded, Layer, Lines, Substitution, gamma
from secateur.pipeline.certificate.maps import Ints
from secateur.pipeline.certificate.network import Affine, Network, Relu

SMALL = 1e-100
"""Below this products may have underflowed (see `lines.FLOOR`)."""

CHUNK_NUMBERS = 4_000_000
"""How many numbers the rows bounded at a time may take in one layer."""


@dataclass(frozen=True)
class Slopes:
    """Slopes for bounds of one layer's neurons: `neurons` (m,) are their flat positions, ascending, `values` (2, m, U)
    the slopes in 255ths, for the lower and the upper bound, of the neurons in `columns`, layer by layer before it."""

    neurons: Ints
    values: np.ndarray


Columns = tuple[Ints, ...]
"""For every ReLU the flat positions, ascending, of the neurons that have slopes (and may be split)."""

Choice = Callable[[Folded, Layer, Columns], Slopes | None]
"""Which slopes a layer is bounded with, given the layers before it, the layer as bounded so far, and the columns of the
layers before it."""


def none(folded: Folded, layer: Layer, columns: Columns) -> Slopes | None:
    """Bounds with CROWN's slopes alone."""
    return None


def fold(
    network: Network,
    lower: Floats,
    upper: Floats,
    choose: Choice = none,
    columns: Columns | None = None,
) -> tuple[Folded, Columns]:
    """The network folded for the box [lower, upper] (n_in,), and the columns: those given, or all unstable neurons."""
    return _Folding(network, lower, upper, choose, columns).run()


@dataclass
class _Folding:
    network: Network
    lower: Floats
    upper: Floats
    choose: Choice
    given: Columns | None
    # By node: bounds of its value; of the chain of affine nodes that ends in it the magnitude, and the terms.
    values: dict[int, tuple[Floats, Floats]] = field(default_factory=dict)
    chains: dict[int, tuple[Floats, int]] = field(default_factory=dict)
    # By node, of the input and the ReLUs: the number of its layer; the neurons kept.
    numbers: dict[int, int] = field(default_factory=dict)
    kept: dict[int, Ints] = field(default_factory=dict)
    layers: list[Layer | None] = field(default_factory=lambda: [None])
    columns: list[Ints] = field(default_factory=list)

    def run(self) -> tuple[Folded, Columns]:
        largest = np.maximum(np.abs(self.lower), np.abs(self.upper))
        self.values[0], self.chains[0] = (self.lower, self.upper), (largest, 8)
        self.numbers[0], self.kept[0] = 0, np.arange(len(self.lower))
        network = self.network
        self.gamma = gamma(sum(network.sizes) + 8 * len(network.nodes) + 64)
        # Where rows of several readers of a node are added up, every reader is one term more.
        self.joins = 64 + sum(len(node.parts) for node in network.nodes if isinstance(node, Affine))
        with np.errstate(all="ignore"):
            for position, node in enumerate(network.nodes):
                if isinstance(node, Affine):
                    self._affine(position, node)
                elif isinstance(node, Relu):
                    self._relu(position, node)
            everything = np.arange(network.sizes[network.output])
            low, high = self.values[network.output]
            self.layers.append(self._layer(network.output, everything, low, high))
        return self._so_far(), tuple(self.columns)

    def _so_far(self) -> Folded:
        return Folded(tuple(self.layers), self.lower, self.upper, self.gamma)

    def _affine(self, position: int, node: Affine) -> None:
        """Intervals by centre and radius, and the chain's magnitude."""
        magnitude, centre, radius = node.bias_size.copy(), node.bias, np.zeros_like(node.bias)
        exact = node.bias_size.copy()
        terms = 0
        for (source, own), (_, absolute) in zip(node.parts, node.absolute, strict=True):
            low, high = self.values[source]
            middle = low / 2 + high / 2
            around = np.maximum(high - middle, middle - low) * (1 + 2.0**-50)
            centre = centre + own.forward(middle[None])[0]
            radius = radius + absolute.forward(around[None])[0]
            exact += absolute.forward(np.maximum(np.abs(low), np.abs(high))[None])[0]
            size, before = self.chains[source]
            magnitude += absolute.forward(size[None])[0]
            terms = max(terms, before)
        own_terms = node.terms + len(node.bias)
        # |middle| and the radius are at most twice the largest value; both sums err by γ of that.
        radius = radius + 8 * gamma(own_terms) * exact
        if (
            exact < SMALL
        ).any():  # underflow, or nothing at all, as in a pruned row: which, whether a term is there tells
            there = node.bias_size > 0
            for source, own in node.absolute:
                low, high = self.values[source]
                there |= own.forward(((low != 0) | (high != 0)).astype(np.float64)[None])[0] > 0
            radius = np.where(there, radius + FLOOR, radius)
        low, high = centre - radius, centre + radius
        self.values[position] = (
            np.where(np.isnan(low), -np.inf, low),
            np.where(np.isnan(high), np.inf, high),
        )
        self.chains[position] = magnitude, terms + own_terms

    def _relu(self, position: int, node: Relu) -> None:
        low, high = self.values[node.source]
        number = len(self.layers)
        wanted = np.flatnonzero(~(high <= 0))
        layer = self._layer(node.source, wanted, low, high)
        if number > 1 and len(wanted):
            layer = self._tightened(layer, None)
            slopes = self.choose(self._so_far(), layer, tuple(self.columns))
            if slopes is not None:
                layer = self._tightened(layer, slopes)
            layer = restricted(layer, np.flatnonzero(~(layer.high <= 0)))
        self.layers.append(layer)
        self.numbers[position], self.kept[position] = number, layer.neurons
        self.columns.append(layer.neurons[layer.unstable] if self.given is None else self.given[number - 1])
        least, most = np.zeros_like(low), np.zeros_like(high)
        least[layer.neurons], most[layer.neurons] = np.maximum(layer.low, 0.0), np.maximum(layer.high, 0.0)
        self.values[position], self.chains[position] = (least, most), (most, 8)

    def _layer(self, target: int, wanted: Ints, low: Floats, high: Floats) -> Layer:
        """The layer of a node's values at the positions `wanted`."""
        if not len(wanted):
            none = np.zeros(0)
            return Layer(wanted, {}, none, none, none, none, none)
        pieces = [self._pulled(target, part) for part in self._chunks(target, wanted)]
        sources = sorted({source for found, _ in pieces for source in found})
        maps = {
            self.numbers[source]: np.concatenate(
                [
                    found[source] if source in found else np.zeros((len(bias), len(self.kept[source])))
                    for found, bias in pieces
                ]
            )
            for source in sources
        }
        bias = np.concatenate([bias for _, bias in pieces])
        magnitude, terms = self.chains[target]
        error = 2 * gamma(terms + self.joins) * magnitude[wanted]
        error += FLOOR * (1.0 + magnitude[wanted])
        size = np.abs(bias) + error
        for source in sources:
            largest = np.maximum(*map(np.abs, self.values[source]))[self.kept[source]]
            size = size + np.abs(maps[self.numbers[source]]) @ largest
        margin = error + 4 * self.gamma * size
        return Layer(wanted, maps, bias, margin, size, low[wanted], high[wanted])

    def _chunks(self, target: int, wanted: Ints) -> list[Ints]:
        count = max(1, CHUNK_NUMBERS // max(self.network.sizes))
        return [wanted[first : first + count] for first in range(0, len(wanted), count)]

    def _pulled(self, target: int, rows: Ints) -> tuple[dict[int, Floats], Floats]:
        """Dense maps from every ReLU (and the input) into the numbers `rows` of a node, by node, and their bias."""
        a = np.zeros((len(rows), self.network.sizes[target]))
        a[np.arange(len(rows)), rows] = 1.0
        pending, bias = {target: a}, np.zeros(len(rows))
        found: dict[int, Floats] = {}
        for position in range(target, -1, -1):
            if position not in pending:
                continue
            a, node = pending.pop(position), self.network.nodes[position]
            if isinstance(node, Affine):
                bias = bias + a @ node.bias
                for source, own in node.parts:
                    result = own.transposed(a)
                    pending[source] = pending[source] + result if source in pending else result
            elif len(self.kept[position]):
                found[position] = a[:, self.kept[position]]
        return found, bias

    def _tightened(self, layer: Layer, slopes: Slopes | None) -> Layer:
        """The layer with bounds by substitution of those neurons that may have either sign: all of them with CROWN's
        slopes, or those that `slopes` are for."""
        chosen = layer.unstable
        rows = chosen
        if slopes is not None:
            place = np.searchsorted(slopes.neurons, layer.neurons[chosen]).clip(max=len(slopes.neurons) - 1)
            known = slopes.neurons[place] == layer.neurons[chosen] if len(slopes.neurons) else place < 0
            chosen, rows = chosen[known], place[known]
        folded = self._so_far()
        low, high = layer.low.copy(), layer.high.copy()
        count = max(1, CHUNK_NUMBERS // (2 * max(self.network.sizes)))
        for first in range(0, len(chosen), count):
            part = chosen[first : first + count]
            lines: list[Lines | None] = [None]
            for number in range(1, len(self.layers)):
                before = folded.layer(number)
                own = None
                if slopes is not None:
                    own = self._spread(slopes, rows[first : first + count], number)
                lines.append(Lines.of(before.low[None], before.high[None], own))
            start = Substitution.both_signs(layer, part[None])
            least = start.least(folded, lines, self.lower[None], self.upper[None])[0][0]
            low[part] = np.fmax(low[part], least[: len(part)])
            high[part] = np.fmin(high[part], -least[len(part) :])
        return Layer(layer.neurons, layer.maps, layer.bias, layer.margin, layer.size, low, high)

    def _spread(self, slopes: Slopes, rows: Ints, number: int) -> Floats:
        """The slopes (1, 2R, n) of a layer's neurons for rows (R,); not a number where there is none."""
        first = sum(len(each) for each in self.columns[: number - 1])
        columns, neurons = self.columns[number - 1], self.layers[number].neurons  # type: ignore[union-attr]
        values = (
            slopes.values[:, rows, first : first + len(columns)].reshape(2 * len(rows), len(columns)) / SLOPES
        )
        return spread(values, columns, neurons)[None]


def spread(values: Floats, columns: Ints, neurons: Ints, missing: float = np.nan) -> Floats:
    """Values (…, columns) put where their neurons are among `neurons` (n,): (…, n), with `missing` at the others."""
    result = np.full((*values.shape[:-1], len(neurons)), missing)
    where = np.searchsorted(neurons, columns).clip(max=max(0, len(neurons) - 1))
    there = neurons[where] == columns if len(neurons) else np.zeros(len(columns), np.bool_)
    result[..., where[there]] = values[..., there]
    return result


def restricted(layer: Layer, keep: Ints) -> Layer:
    """The layer of those of its neurons."""
    return Layer(
        layer.neurons[keep],
        {number: matrix[keep] for number, matrix in layer.maps.items()},
        layer.bias[keep],
        layer.margin[keep],
        layer.size[keep],
        layer.low[keep],
        layer.high[keep],
    )
