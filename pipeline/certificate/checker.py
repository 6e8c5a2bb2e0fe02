"""Checking a certificate of `unsat`: every step again, by code that shares nothing with the engine that wrote it.

For every region of the query: the network is folded for its box (`folding`), with the certificate's slopes; the box is
cut into the certificate's parts, and neurons are bounded on each (`boxes`); every leaf's bound is computed anew from
its signs, slopes, dual variables and weights (`leaves`, `lines`) and must be positive; and on every part, for every
clause, the leaves there must cover all signs of the neurons, or the parts of the part must refute the clause.

Nothing in the file is trusted: whatever numbers it holds, they can only make bounds worse, or are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from secateur.formats.certificate import ALPHA, Certificate, RegionProof
from secateur.formats.errors import CheckFailed, InputError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Floats, Query, Region
from secateur.pipeline.certificate.boxes import narrowed
from secateur.pipeline.certificate.folding import Columns, Slopes, fold
from secateur.pipeline.certificate.leaves import Clauses, Leaves, bound_leaves, root_bounds, uncovered
from secateur.pipeline.certificate.lines import Folded, Layer
from secateur.pipeline.certificate.maps import Ints
from secateur.pipeline.certificate.network import Network
from secateur.pipeline.certificate.reading import read

LEAF_NUMBERS = 2_000_000
"""Leaves × neurons bounded at a time."""

BATCH = 256
"""Boxes bounded at a time."""


@dataclass(frozen=True)
class Checked:
    """What was checked; `margin` is the least bound of a leaf (infinite where there is none)."""

    regions: int
    clauses: int
    leaves: int
    margin: float


def ignored(leaves: int) -> None:
    """Tells nobody."""


def check(
    model: Model,
    query: Query,
    certificate: Certificate,
    where: str,
    told: Callable[[int], None] = ignored,
) -> Checked:
    """Check that the certificate proves that no input satisfies the query; `where` names it in messages, and `told` is
    called now and then with the number of leaves checked since.

    Raises:
        CheckFailed: it does not; the first region, clause and leaf that fails is named.
        InputError: its arrays do not have the form of a proof about this network.
        UnsupportedError: the network is none that a certificate can be about.
    """
    for what, found, expected in (
        ("model", certificate.model_sha256, model.sha256),
        ("property", certificate.property_sha256, query.sha256),
    ):
        if found != expected:
            raise CheckFailed(f"the certificate is of another {what}: SHA-256 {found[:12]}…", where=where)
    network = read(model)
    if len(query.networks) != 1 or (query.inputs, query.outputs) != (network.sizes[0], network.sizes[-1]):
        raise InputError(
            "the property is about other inputs and outputs than the network's", where=query.name
        )
    if len(certificate.regions) != len(query.regions):
        raise CheckFailed(
            f"it is about {len(certificate.regions)} regions, the property has {len(query.regions)}",
            where=where,
        )
    clauses = leaves = 0
    margin = math.inf
    for r, (region, proof) in enumerate(zip(query.regions, certificate.regions, strict=True)):
        if not region.clauses:
            continue
        if proof is None:
            raise CheckFailed(f"region {r}: there is no proof of it", where=where)
        margin = min(margin, _Region(network, region, proof, f"region {r}", where, told).check())
        clauses, leaves = clauses + len(region.clauses), leaves + len(proof.box)
    return Checked(len(query.regions), clauses, leaves, margin)


@dataclass
class _Region:
    network: Network
    region: Region
    proof: RegionProof
    name: str
    where: str
    told: Callable[[int], None]

    def check(self) -> float:
        """The least bound of a leaf."""
        self._form()
        proof = self.proof
        self.clauses = Clauses.of(self.region)
        self.folded, self.columns = fold(
            self.network, self.region.lower, self.region.upper, self._choose, proof.columns
        )
        order = np.argsort(proof.box, kind="stable")
        starts = np.searchsorted(proof.box[order], np.arange(len(proof.axis) + 1))
        self.leaves = [order[a:b] for a, b in pairwise(starts.tolist())]
        self.least = math.inf
        whole = (self.region.lower[None], self.region.upper[None], *_flat(root_bounds(self.folded)))
        if len(proof.axis) == 1:
            self._bounded(np.zeros(1, np.int64), whole)
        else:
            self._descend(whole)
        none = np.zeros(len(self.clauses), np.bool_)
        refuted = np.zeros((len(proof.axis), len(self.clauses)), np.bool_)
        for box in reversed(range(len(proof.axis))):
            parts = self.parts[box]
            own: NDArray[np.bool_] = np.logical_and.reduce([refuted[part] for part in parts] or [none])
            for clause in np.flatnonzero(~own):
                reason = self._uncovered(box, int(clause))
                own[clause] = reason is None
                if reason is not None and not parts and not self._above(box, int(clause)):
                    raise self._failed(f"clause {clause}: {self._box(box)}{reason}")
            refuted[box] = own
        missing = np.flatnonzero(~refuted[0])
        if len(missing):
            raise self._failed(f"clause {missing[0]}: not refuted on the whole box")
        return self.least

    def _form(self) -> None:
        """Refuse numbers that are none of a proof's."""
        proof, network = self.proof, self.network
        sizes = [network.sizes[position] for position in network.relus]
        splits = len(proof.neuron)
        fits = {
            "columns": len(proof.columns) == len(sizes)
            and all(
                (np.diff(own) > 0).all() and (len(own) == 0 or (own[0] >= 0 and own[-1] < size))
                for own, size in zip(proof.columns, sizes, strict=False)
            ),
            "bounded": all((np.diff(neurons) > 0).all() for neurons, _ in proof.slopes.values()),
            "box": ((proof.box >= 0) & (proof.box < len(proof.axis))).all(),
            "clause": ((proof.clause >= 0) & (proof.clause < len(self.region.clauses))).all(),
            "weights": proof.weights.shape[1] == Clauses.of(self.region).outputs.shape[1]
            and (np.isfinite(proof.weights) & (proof.weights >= 0)).all(),
            "neuron": ((proof.neuron >= 0) & (proof.neuron < proof.alpha.shape[1])).all(),
            "sign": (np.abs(proof.sign) == 1).all(),
            "beta": (np.isfinite(proof.beta) & (proof.beta >= 0)).all() and len(proof.beta) == splits,
        }
        for name, right in fits.items():
            if not right:
                raise self._failed(f"'{name}' holds numbers that no proof of this region has")
        self.parts: list[list[int]] = [[] for _ in proof.axis]
        for box, parent in enumerate(proof.parent.tolist()):
            if box and not (0 <= parent < box and proof.axis[parent] >= 0):
                raise self._failed(f"box {box} is no part of a box before it that is cut")
            if box:
                self.parts[parent].append(box)
        for box, axis in enumerate(proof.axis.tolist()):
            if len(self.parts[box]) != (2 if axis >= 0 else 0) or axis >= len(self.region.lower):
                raise self._failed(f"box {box} is not in two parts")

    def _choose(self, folded: Folded, layer: Layer, columns: Columns) -> Slopes | None:
        given = self.proof.slopes.get(len(columns))
        return None if given is None else Slopes(*given)

    def _descend(self, whole: tuple[Floats, ...]) -> None:
        """Bound the neurons on all boxes, from the whole one down, and the leaves there."""
        proof = self.proof
        waiting = [(np.zeros(1, np.int64), whole)]
        while waiting:
            boxes, sides = waiting.pop()
            lower, upper, *known = sides
            bounds = narrowed(self.folded, lower, upper, list(zip(known[::2], known[1::2], strict=True)))
            sides = (lower, upper, *_flat(bounds))
            self._bounded(boxes, sides)
            cut = np.flatnonzero(proof.axis[boxes] >= 0)
            for first in range(0, len(cut), BATCH // 2):
                rows = cut[first : first + BATCH // 2]
                axis, at = proof.axis[boxes[rows]], proof.cut[boxes[rows]]
                pair = np.arange(len(rows))
                if not ((lower[rows, axis] < at) & (at < upper[rows, axis])).all():
                    raise self._failed("a box is cut outside itself")
                parts = np.array([self.parts[box] for box in boxes[rows].tolist()])
                lows, highs = (np.concatenate([side[rows], side[rows]]) for side in (lower, upper))
                highs[pair, axis] = at
                lows[len(rows) + pair, axis] = at
                rest = [np.concatenate([side[rows], side[rows]]) for side in sides[2:]]
                waiting.append((parts.T.reshape(-1), (lows, highs, *rest)))

    def _bounded(self, boxes: Ints, sides: tuple[Floats, ...]) -> None:
        """Every leaf on these boxes must have a positive bound."""
        counts = [len(self.leaves[box]) for box in boxes.tolist()]
        if not sum(counts):
            return
        which = np.concatenate([self.leaves[box] for box in boxes.tolist()])
        place = np.repeat(np.arange(len(boxes)), counts)
        size = max(
            1, LEAF_NUMBERS // max(len(layer.bias) for layer in self.folded.layers if layer is not None)
        )
        for first in range(0, len(which), size):
            part, own = which[first : first + size], place[first : first + size]
            lower, upper, *known = sides if len(boxes) == 1 else (side[own] for side in sides)
            bounds = list(zip(known[::2], known[1::2], strict=True))
            bound, _ = bound_leaves(
                self.folded, self.columns, self.clauses, self._some(part), lower, upper, bounds
            )
            wrong = np.flatnonzero(~(bound > 0))
            if len(wrong):
                leaf = part[wrong[0]]
                raise self._failed(
                    f"clause {self.proof.clause[leaf]}: leaf {leaf}: expected a positive bound, "
                    f"found {bound[wrong[0]]:.6g}"
                )
            self.least = min(self.least, float(bound.min()))
            self.told(len(part))

    def _some(self, which: Ints) -> Leaves:
        proof = self.proof
        multipliers = proof.alpha[which] / ALPHA
        signs = np.zeros(multipliers.shape, np.int8)
        for row, leaf in enumerate(which.tolist()):
            own = slice(proof.first[leaf], proof.first[leaf + 1])
            signs[row, proof.neuron[own]] = proof.sign[own]
            multipliers[row, proof.neuron[own]] = proof.beta[own]
        return Leaves(proof.clause[which], signs, multipliers, proof.weights[which].astype(np.float64))

    def _uncovered(self, box: int, clause: int) -> str | None:
        """What the leaves of a clause on a box leave open; None when they cover it."""
        mine = self.leaves[box][self.proof.clause[self.leaves[box]] == clause]
        if not len(mine):
            return "no leaf"
        signs = self._some(mine).signs
        used = np.flatnonzero(signs.any(0))
        left = uncovered(signs[:, used])
        if left is None:
            return None
        named = ", ".join(f"{'+' if s > 0 else '-'}{n}" for n, s in zip(used, left, strict=True) if s)
        return f"no leaf covers the signs of the neurons {named}"

    def _above(self, box: int, clause: int) -> bool:
        """Whether a box around this one has leaves of the clause."""
        while box:
            box = int(self.proof.parent[box])
            if (self.proof.clause[self.leaves[box]] == clause).any():
                return True
        return False

    def _box(self, box: int) -> str:
        return f"box {box}: " if box else ""

    def _failed(self, reason: str) -> CheckFailed:
        return CheckFailed(f"{self.name}: {reason}", where=self.where)


def _flat(bounds: list[tuple[Floats, Floats]]) -> list[Floats]:
    return [side for pair in bounds for side in pair]
