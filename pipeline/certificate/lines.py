"""Lower bounds by backward substitution on a folded network, rigorous in float64.

A folded network (see `folding`) is a list of layers: z_k = Σ_j M_kj h_j + b_k + δ_k with |δ_k| ≤ e_k, where h_0 = x is
the input, h_j = max(z_j, 0) what leaves layer j, and M, b are the float64 numbers at hand. A linear function of the
outputs is bounded from below by replacing, from the last layer to the first, every max(z, 0) by a line,

    max(z, 0) ≥ αz  for any α in [0, 1],       max(z, 0) ≤ sz + t  for z in [l, u], as s = u/(u - l), t = -sl;

it is z or 0 where the sign of z is known, from its bounds or because it is split. Of a split neuron, whose sign σ is a
constraint σz ≥ 0 of the sub-problem, βσz is taken off for any β ≥ 0: on the sub-problem that makes the function no
larger. What is left is a linear function of x, whose least value on the box is at a corner. (CROWN: Zhang et al. 2018,
"Efficient neural network robustness certification with general activation functions"; α: Xu et al. 2021, "Fast and
complete"; β: Wang et al. 2021, "Beta-CROWN".) So a bound is valid whatever α, β and the weights of the clause's rows
are, as long as they are in their ranges.

**Rounding.** Float64, rounded to nearest, u = 2⁻⁵³. A sum of n products errs, in whatever order it is summed, by at
most γ_n = nu/(1 - nu) times the same sum of absolute values (Higham 2002, "Accuracy and stability of numerical
algorithms", section 3.1). With N at least the number of terms of every sum here, and Z_k ≥ |M_k||h| + |b_k| + e_k on
the box:

* The computed coefficients â of h_j differ from Σ_k a_k M_kj by at most γ_N Σ_k |a_k||M_kj|, so the function's value by
  γ_N Σ_k |a_k||M_kj||h_j|, which Σ_k |a_k| γ_N Z_k covers, together with the rounding of a_k·b_k.
* What replaces h_k by z_k is one product a line and one difference of a β: its result â is off by u|â|, the value by
  u|â||z_k| ≤ |â| γ_N Z_k. The intercept t is rounded up so far that the line lies above max(z, 0) at both ends.
* So each step gives an inequality between real numbers that holds for the coefficients as computed, once |a_k|(e_k +
  3γ_N Z_k) is taken off, and once more γ_N Z_k for adding up the constants; `Layer.margin` is that vector. Sums of
  intercepts (all of one sign), and the minimum over the box, are off by γ_N of themselves and of |a_0||x|.
* All that is taken off is doubled, for the rounding of its own computation. A product that underflows loses less than
  10⁻³²³ of itself, which `floor` covers (10⁻¹⁵⁰ times all magnitudes together).

What overflows becomes infinite or no number, of which nothing is ever concluded: bounds count only when they compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.formats.query import Floats
from secateur.pipeline.certificate.maps import Ints

UNIT = 2.0**-53
TINY = 1e-300
FLOOR = 1e-150

Signs = NDArray[np.int8]


def gamma(terms: int) -> float:
    """γ_n; see the module's docstring."""
    return terms * UNIT / (1 - terms * UNIT)


@dataclass(frozen=True)
class Layer:
    """The arguments z of those n neurons of a ReLU that may be active on the box, or the outputs.

    `neurons` (n,): their flat positions; `maps`: by the number of the layer before (0: the input) M (n, n_j); `bias`,
    `margin`, `size` (Z): (n,); `low`, `high` (n,): bounds of z on the box.
    """

    neurons: Ints
    maps: dict[int, Floats]
    bias: Floats
    margin: Floats
    size: Floats
    low: Floats
    high: Floats

    @property
    def unstable(self) -> Ints:
        """Which of the n neurons may have either sign."""
        return np.flatnonzero((self.low < 0) & (self.high > 0))


@dataclass(frozen=True)
class Folded:
    """A network on one box: the layers of neurons (number 1 and on, in order, then the outputs) and the input's bounds
    `lower`, `upper` (n_in,); `gamma` is γ_N."""

    layers: tuple[Layer | None, ...]
    lower: Floats
    upper: Floats
    gamma: float

    @property
    def outputs(self) -> Layer:
        last = self.layers[-1]
        assert last is not None
        return last

    def layer(self, number: int) -> Layer:
        layer = self.layers[number]
        assert layer is not None
        return layer

    @property
    def floor(self) -> float:
        """What underflow can have lost, all in all."""
        sizes = sum(float(layer.size.sum()) for layer in self.layers if layer is not None)
        largest = np.maximum(np.abs(self.lower), np.abs(self.upper))
        return FLOOR * (1.0 + sizes + float(largest.sum()))


@dataclass(frozen=True)
class Lines:
    """What stands for the neurons of one layer, in (B, R, n) or what broadcasts to it: B sub-problems, R rows each.

    `below`: the slope of the lower line; `above`, `intercept`: the upper line; `dual`: -βσ, or None.
    """

    below: Floats
    above: Floats
    intercept: Floats
    dual: Floats | None

    @staticmethod
    def of(
        low: Floats,
        high: Floats,
        slopes: Floats | None = None,
        signs: Signs | None = None,
        duals: Floats | None = None,
    ) -> Lines:
        """Lines for bounds (B, n), slopes α (B, R, n), signs σ and duals β (B, n); any B or R may be 1.

        A slope that is left out (None, or not a number) is CROWN's: 1 where the neuron is rather active, else 0.
        """
        low, high = low[:, None], high[:, None]
        unstable, active = (low < 0) & (high > 0), low >= 0
        dual = None
        if signs is not None:
            sign = signs[:, None]
            unstable, active = unstable & (sign == 0), np.where(sign == 0, active, sign > 0)
            dual = None if duals is None else -sign * duals[:, None]
        with np.errstate(all="ignore"):
            width = high - low
            above = np.where(unstable, high / width, active)
            intercept = np.where(unstable, -above * low + 8 * UNIT * width + TINY, 0.0)
        # A little to one side, so that what is as active as inactive is not decided by rounding.
        below = (high > -low * (1 + 1e-9)).astype(np.float64)
        if slopes is not None:
            below = np.where(np.isnan(slopes), below, slopes)
        return Lines(np.where(unstable, below, active), above, intercept, dual)


@dataclass
class Substitution:
    """A linear function being substituted: by layers' numbers the coefficients (B, R, n) of what leaves them (0: of the
    input), a constant, and what rounding can have lost, (B, R)."""

    pending: dict[int, Floats]
    constant: Floats
    lost: Floats

    @staticmethod
    def rows(folded: Folded, number: int, rows: Floats, direct: Floats | None = None) -> Substitution:
        """Of ⟨rows, z⟩ + ⟨direct, x⟩, for the arguments z of layer `number`; rows (B, R, n), direct (B, R, n_in)."""
        nothing = np.zeros(rows.shape[:2])
        start = Substitution({} if direct is None else {0: direct}, nothing, nothing)
        start._through(folded.layer(number), rows)
        return start

    @staticmethod
    def both_signs(layer: Layer, chosen: Ints) -> Substitution:
        """Of z_i and -z_i for neurons `chosen` (B, m) of a layer: R = 2m."""

        def pair(values: Floats) -> Floats:
            return np.concatenate([values, -values], axis=1)

        margin = layer.margin[chosen]
        return Substitution(
            {number: pair(matrix[chosen]) for number, matrix in layer.maps.items()},
            pair(layer.bias[chosen]),
            np.concatenate([margin, margin], axis=1),
        )

    def _through(self, layer: Layer, a: Floats) -> None:
        """Replace the arguments of a layer, with coefficients a, by what they are made of."""
        self.constant = self.constant + a @ layer.bias
        self.lost = self.lost + np.abs(a) @ layer.margin
        flat = a.reshape(-1, a.shape[2])
        for number, matrix in layer.maps.items():
            result = (flat @ matrix).reshape(*a.shape[:2], -1)
            self.pending[number] = self.pending[number] + result if number in self.pending else result

    def least(
        self, folded: Folded, lines: Sequence[Lines | None], lower: Floats, upper: Floats
    ) -> tuple[Floats, Floats]:
        """The least value (B, R), rounded down, on boxes lower, upper (B, n_in), by lines of the layers before; and
        what was taken off for rounding, (B, R)."""
        for number in range(len(lines) - 1, 0, -1):
            line, a = lines[number], self.pending.pop(number, None)
            if line is None or (a is None and (line.dual is None or not line.dual.any())):
                continue
            if a is None:  # nothing after it depends on it, but its signs may contradict each other
                a = np.zeros((*self.constant.shape, line.above.shape[2]))
            negative = np.minimum(a, 0.0)
            shift = (negative * line.intercept).sum(2)
            self.constant = self.constant + shift
            self.lost = self.lost - folded.gamma * shift
            z = np.where(a >= 0, a * line.below, a * line.above)
            self._through(folded.layer(number), z if line.dual is None else z + line.dual)
        bound, lost = self.constant, self.lost
        if 0 in self.pending:
            a = self.pending[0]
            positive = np.maximum(a, 0.0)
            low, high, largest = (
                side[:, :, None] for side in (lower, upper, np.maximum(np.abs(lower), np.abs(upper)))
            )
            bound = bound + (positive @ low + (a - positive) @ high)[:, :, 0]
            lost = lost + folded.gamma * (np.abs(a) @ largest)[:, :, 0]
        taken = 2 * (lost + folded.gamma * np.abs(bound)) + folded.floor
        return bound - taken, taken
