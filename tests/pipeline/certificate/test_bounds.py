"""The checker's bounds: below what is sampled, and right where float64 alone is not."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certificates import network
from factories import box_property
from nets import Net
from oracles import exact
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.formats.query import Floats
from secateur.pipeline.certificate.boxes import narrowed
from secateur.pipeline.certificate.folding import Columns, Slopes, fold
from secateur.pipeline.certificate.leaves import Clauses, Leaves, bound_leaves, root_bounds, uncovered
from secateur.pipeline.certificate.lines import Folded, Layer, Lines, Substitution
from secateur.pipeline.certificate.network import Affine, Network, Relu
from secateur.pipeline.certificate.reading import read


def arguments(own: Network, x: Floats) -> list[Floats]:
    """The arguments of all ReLUs, and the outputs, at x."""
    values: list[Floats] = []
    for node in own.nodes:
        if isinstance(node, Relu):
            values.append(np.maximum(values[node.source], 0.0))
        elif isinstance(node, Affine):
            values.append(node.bias + sum(each.forward(values[s]) for s, each in node.parts))
        else:
            values.append(x)
    return [values[own.nodes[r].source] for r in own.relus] + [values[-1]]  # type: ignore[union-attr]


def arbitrary(random: np.random.Generator) -> tuple[dict[int, Slopes], object]:
    """Random slopes for every layer, kept by the ReLU's number."""
    kept: dict[int, Slopes] = {}

    def choose(folded: Folded, layer: Layer, columns: Columns) -> Slopes | None:
        chosen = layer.unstable
        values = random.choice([0, 3, 128, 255], size=(2, len(chosen), sum(map(len, columns))))
        kept[len(columns)] = Slopes(layer.neurons[chosen], values.astype(np.uint8))
        return kept[len(columns)]

    return kept, choose


def around(random: np.random.Generator, size: int) -> tuple[Floats, Floats]:
    centre, radius = random.uniform(-1, 1, size), random.choice([0.0, 0.1, 1.0], size=size)
    return centre - radius, centre + radius


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=60)
def test_neurons_are_within_their_bounds(seed: int, slopes: bool) -> None:
    random = np.random.default_rng(seed)
    own = read(network(seed))
    lower, upper = around(random, own.sizes[0])
    folded, _ = fold(own, lower, upper, arbitrary(random)[1]) if slopes else fold(own, lower, upper)  # type: ignore[arg-type]
    x = random.uniform(lower, upper, size=(500, len(lower)))
    for layer, z in zip(folded.layers[1:], arguments(own, x), strict=True):
        assert layer is not None
        within(z[:, layer.neurons], layer.low, layer.high)
        left_out = np.setdiff1d(np.arange(z.shape[1]), layer.neurons)
        assert (z[:, left_out] <= 1e-9).all()
    # … and on a part of the box.
    cut = (lower + upper) / 2
    part = np.where(random.random(len(lower)) < 0.5, lower, cut)[None]
    ends = np.where(part[0] == cut, upper, cut)[None]
    tight = narrowed(folded, part, ends, root_bounds(folded))
    inside = arguments(own, random.uniform(part, ends, size=(500, len(lower))))
    for layer, (low, high), z in zip(folded.layers[1:], tight, inside, strict=False):
        assert layer is not None
        within(z[:, layer.neurons], low[0], high[0])
        assert (low >= layer.low).all() and (high <= layer.high).all()


def within(z: Floats, low: Floats, high: Floats) -> None:
    assert (z >= low - 1e-9).all() and (z <= high + 1e-9).all()


@given(st.integers(0, 10_000))
@settings(max_examples=60)
def test_a_leaf_is_below_what_is_sampled_on_it(seed: int) -> None:
    """For any signs, slopes, dual variables and weights."""
    random = np.random.default_rng(seed)
    own = read(network(seed))
    lower, upper = around(random, own.sizes[0])
    names = [f"Y_{i}" for i in range(own.sizes[-1])]
    rows = " ".join(
        f"(<= (+ (* {a:.2f} {y}) (* {b:.2f} X_0)) {c:.2f})"
        for y in names
        for a, b, c in [random.uniform(0.1, 2.0, size=3)]
    )
    text = box_property(lower.tolist(), upper.tolist(), len(names), f"(and {rows})")
    (region,) = vnnlib.parse(text, "p").regions
    clauses = Clauses.of(region)
    folded, columns = fold(own, region.lower, region.upper, arbitrary(random)[1])  # type: ignore[arg-type]
    count, width = 20, sum(map(len, columns))
    signs = random.choice([-1, 0, 0, 1], size=(count, width)).astype(np.int8)
    multipliers = np.where(signs != 0, random.exponential(size=signs.shape), random.random(signs.shape))
    weights = random.exponential(size=(count, len(names)))
    leaves = Leaves(np.zeros(count, np.int64), signs, multipliers, weights)
    bound, _ = bound_leaves(
        folded, columns, clauses, leaves, region.lower[None], region.upper[None], root_bounds(folded)
    )
    x = random.uniform(lower, upper, size=(2000, len(lower)))
    *z, y = arguments(own, x)
    split = np.concatenate(
        [each[:, own_columns] for each, own_columns in zip(z, columns, strict=True)] or [y[:, :0]], 1
    )
    clause = region.clauses[0]
    value = (x @ clause.inputs.T + y @ clause.outputs.T + clause.constant) @ weights.T
    for leaf in range(count):
        there = (split * signs[leaf] >= 0).all(1)
        assert (value[there, leaf] >= bound[leaf] - 1e-9).all()
    # A leaf as by the root alone is not as low as nothing.
    assert np.isfinite(bound).all()


def cancelling(seed: int) -> Model:
    """Large weights that nearly cancel, in two layers: the output is small, its terms are not."""
    random = np.random.default_rng(seed)
    net = Net(seed, 3)
    half = random.normal(size=(3, 4)) * 1e6
    first = np.concatenate([half, half * (1 + 1e-6 * random.normal(size=half.shape))], axis=1)
    hidden = net("Relu", net("Add", net("MatMul", "x", net.constant(first)), net.weight(8)))
    second = random.normal(size=(4, 1)) * 1e6
    return net.finish(net("MatMul", hidden, net.constant(np.concatenate([second, -second]))))


def test_bounds_hold_in_exact_arithmetic() -> None:
    """On boxes that are a point the bounds enclose the exact value; what float64 computes there is off by more."""
    naive = 0
    for seed in range(25):
        model = cancelling(seed)
        own = read(model)
        x = np.random.default_rng(seed).uniform(-1, 1, 3)
        (y,) = exact(model, x.tolist())
        text = box_property([0.0] * 3, [0.0] * 3, 1, "(>= Y_0 0.0)")
        for sign in (1.0, -1.0):
            (region,) = vnnlib.parse(text, "p").regions
            clause = replace(region.clauses[0], outputs=np.array([[sign]]))
            clauses = Clauses.of(replace(region, clauses=(clause,)))
            folded, columns = fold(own, x, x)
            width = sum(map(len, columns))
            leaf = Leaves(
                np.zeros(1, np.int64), np.zeros((1, width), np.int8), np.ones((1, width)), np.ones((1, 1))
            )
            (bound,), _ = bound_leaves(folded, columns, clauses, leaf, x[None], x[None], root_bounds(folded))
            assert Fraction(float(bound)) <= int(sign) * y
            naive += Fraction(float(sign * own.forward(x[None])[0, 0])) > int(sign) * y
        assert Fraction(float(folded.outputs.low[0])) <= y <= Fraction(float(folded.outputs.high[0]))
        hidden = folded.layer(1)
        lines = [None, Lines.of(hidden.low[None], hidden.high[None])]
        start = Substitution.both_signs(folded.outputs, np.zeros((1, 1), np.int64))
        low, minus_high = start.least(folded, lines, x[None], x[None])[0][0].tolist()
        assert Fraction(low) <= y <= -Fraction(minus_high)
    assert naive > 5  # or the cases are too easy to show anything


def test_rows_that_cancel_by_their_decimals_alone() -> None:
    """3 · 0.1y - 0.3y is 0, but not with the float64s next to 0.1 and 0.3."""
    net = Net(0, 1)
    own = read(net.finish(net("MatMul", "x", net.constant([[1.0]]))))
    text = box_property([1e6], [1e6], 1, "(and (<= (* 0.1 Y_0) 0.0) (<= (* -0.3 Y_0) 0.0))")
    (region,) = vnnlib.parse(text, "p").regions
    folded, columns = fold(own, region.lower, region.upper)
    weights = np.array([[3.0, 1.0]])
    leaf = Leaves(np.zeros(1, np.int64), np.zeros((1, 0), np.int8), np.zeros((1, 0)), weights)
    assert (weights @ region.clauses[0].outputs).item() > 0
    (bound,), _ = bound_leaves(
        folded, columns, Clauses.of(region), leaf, region.lower[None], region.upper[None], []
    )
    assert -1e-6 < bound <= 0


def test_the_upper_line_is_above_the_relu_in_exact_arithmetic() -> None:
    random = np.random.default_rng(0)
    scale = 10.0 ** random.uniform(-300, 300, size=(1, 400))
    low, high = -scale * random.random(scale.shape), scale * random.random(scale.shape)
    line = Lines.of(low, high)
    naive = 0
    columns = (low[0], high[0], line.above[0, 0], line.intercept[0, 0], -line.above[0, 0] * low[0])
    for row in np.stack(columns, 1).tolist():
        least, most, slope, intercept, rounded = map(Fraction, row)
        for z in (least, most):
            assert slope * z + intercept >= max(z, Fraction(0))
            naive += slope * z + rounded < max(z, Fraction(0))
    assert naive > 100


@given(st.data())
def test_signs_cover_what_they_cover(data: st.DataObject) -> None:
    """Of leaves of a random tree: all cover; without one of them the rest leave a part open that it alone was for."""
    random = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    width = int(random.integers(1, 6))
    tree = [np.zeros(width, np.int8)]
    for _ in range(int(random.integers(0, 12))):
        at = int(random.integers(len(tree)))
        free = np.flatnonzero(tree[at] == 0)
        if len(free):
            leaf = tree.pop(at)
            for sign in (1, -1):
                part = leaf.copy()
                part[random.permutation(free)[0] if sign == 1 else np.flatnonzero(tree[-1] != leaf)[0]] = sign
                tree.append(part)
    signs = np.array(tree)[random.permutation(len(tree))]
    assert uncovered(signs) is None
    for leaf in range(len(signs)):
        rest = np.delete(signs, leaf, 0)
        left = uncovered(rest)
        assert left is not None
        assert not any(
            ((own == 0) | (own == left) | (left == 0)).all() and (own[left == 0] == 0).all() for own in rest
        )


@pytest.mark.parametrize("rows", [[[1, 0], [-1, 1]], [[1, 1], [-1, -1]], [], [[1, 0], [0, -1]]])
def test_signs_that_leave_something_open(rows: list[list[int]]) -> None:
    assert uncovered(np.array(rows, np.int8).reshape(-1, 2)) is not None
