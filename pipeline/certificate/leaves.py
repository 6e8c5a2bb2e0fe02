"""The clauses of a region, and bounds of them on the leaves of a proof.

A clause holds where all its rows ⟨outputs, y⟩ + ⟨inputs, x⟩ + constant are ≤ 0 (those of the region's input relations
are rows of every clause). So it holds nowhere where Σ w·row > 0 for some weights w ≥ 0.

**Rounding.** The rows' coefficients are decimals rounded to float64, and their weighted sum is rounded again: each is
off by at most γ_n of Σ w|coefficient|, which is taken off with the largest values of outputs and inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secateur.formats.query import Floats, Region
from secateur.pipeline.certificate.folding import Columns, spread
from secateur.pipeline.certificate.lines import Folded, Lines, Signs, Substitution, gamma
from secateur.pipeline.certificate.maps import Ints


@dataclass(frozen=True)
class Clauses:
    """C clauses of S rows each, those left over zero: outputs (C, S, n_out), inputs (C, S, n_in) or None, constant
    (C, S), `rows` (C,): how many each has."""

    outputs: Floats
    inputs: Floats | None
    constant: Floats
    rows: Ints

    @staticmethod
    def of(region: Region) -> Clauses:
        """Those of a region of a query, in order."""
        relations, clauses = region.relations, region.clauses
        rows = np.array([len(clause) + len(relations) for clause in clauses], np.int64)
        most = int(rows.max(initial=0))
        n_out = clauses[0].outputs.shape[1] if clauses else 0
        outputs = np.zeros((len(clauses), most, n_out))
        inputs = np.zeros((len(clauses), most, len(region.lower)))
        constant = np.zeros((len(clauses), most))
        for i, clause in enumerate(clauses):
            for whole, name in ((outputs, "outputs"), (inputs, "inputs"), (constant, "constant")):
                whole[i, : rows[i]] = np.concatenate([getattr(clause, name), getattr(relations, name)])
        return Clauses(outputs, inputs if inputs.any() else None, constant, rows)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Leaves:
    """L leaves: the `clause` (L,) that each refutes; of the U neurons that may be split (see `Columns`, in order) the
    `signs` (L, U) where they are and else 0; `multipliers` (L, U): β ≥ 0 of neurons that are split, α in [0, 1] of the
    others; `weights` (L, S) ≥ 0 of the clause's rows."""

    clause: Ints
    signs: Signs
    multipliers: Floats
    weights: Floats

    def __getitem__(self, keep: Ints | slice) -> Leaves:
        return Leaves(self.clause[keep], self.signs[keep], self.multipliers[keep], self.weights[keep])

    def __len__(self) -> int:
        return len(self.clause)


Bounds = Sequence[tuple[Floats, Floats]]
"""For every layer of neurons bounds (B, n) of their arguments."""


def bound_leaves(
    folded: Folded,
    columns: Columns,
    clauses: Clauses,
    leaves: Leaves,
    lower: Floats,
    upper: Floats,
    bounds: Bounds,
) -> tuple[Floats, Floats]:
    """Lower bounds (L,) of the leaves' combinations of rows, on boxes lower, upper (L or 1, n_in) where the neurons'
    arguments are within `bounds`; and what was taken off them for rounding, (L,). A positive bound refutes the leaf's
    clause where its signs are as they are."""
    with np.errstate(all="ignore"):
        lines: list[Lines | None] = [None]
        first = 0
        for number, (own, (low, high)) in enumerate(zip(columns, bounds, strict=True), 1):
            neurons = folded.layer(number).neurons
            part = slice(first, first + len(own))
            first += len(own)
            signs = spread(leaves.signs[:, part].astype(np.float64), own, neurons, 0.0).astype(np.int8)
            values = spread(leaves.multipliers[:, part], own, neurons)
            lines.append(Lines.of(low, high, values[:, None], signs, np.where(signs != 0, values, 0.0)))
        weights, clause = leaves.weights, leaves.clause
        rows, size = _combined(weights, clauses.outputs[clause], folded.outputs.size[None])
        largest = np.maximum(np.abs(lower), np.abs(upper))
        direct = None
        if clauses.inputs is not None:
            direct, more = _combined(weights, clauses.inputs[clause], largest)
            size = size + more
            direct = direct[:, None]
        constant = (weights * clauses.constant[clause]).sum(1)
        size = size + (weights * np.abs(clauses.constant[clause])).sum(1)
        start = Substitution.rows(folded, len(folded.layers) - 1, rows[:, None], direct)
        least, taken = (each[:, 0] for each in start.least(folded, lines, lower, upper))
        terms = 4 * (weights.shape[1] + len(folded.outputs.bias) + len(folded.lower) + 16)
        more = gamma(terms) * (size + np.abs(least))
    return least + constant - more, taken + more


def _combined(weights: Floats, rows: Floats, largest: Floats) -> tuple[Floats, Floats]:
    """Σ w·row, (L, n), and Σ w|row|·largest, (L,)."""
    sizes = np.einsum("ls,lsn->ln", weights, np.abs(rows))
    return np.einsum("ls,lsn->ln", weights, rows), (sizes * largest).sum(1)


def root_bounds(folded: Folded) -> list[tuple[Floats, Floats]]:
    """The bounds (1, n) of the layers of neurons on the whole box."""
    return [(layer.low[None], layer.high[None]) for layer in folded.layers[1:-1] if layer is not None]


def uncovered(signs: Signs) -> Ints | None:
    """Whether the parts of a domain with these signs of neurons (L, U; 0: either) cover it: None when they do, else
    signs (U,) of a part that none of them covers.

    In the leaves of any tree of splits, but for a single leaf, some neuron is split in all of them (the root's); and
    any neuron that is may be taken first: its two halves of a tree's leaves are again leaves of trees (each is the tree
    with the other sign's branches cut off). So taking the first that is found decides.
    """
    width = signs.shape[1]
    stack = [(np.arange(len(signs)), np.zeros(width, np.int64))]
    while stack:
        rows, path = stack.pop()
        own = signs[rows]
        free = path == 0
        if len(rows) and (own[:, free] == 0).all(1).any():
            continue
        everywhere = np.flatnonzero(free & (own != 0).all(0)) if len(rows) else np.zeros(0, np.int64)
        if not len(everywhere):
            return path
        neuron = everywhere[0]
        for sign in (1, -1):
            part = path.copy()
            part[neuron] = sign
            stack.append((rows[own[:, neuron] == sign], part))
    return None
