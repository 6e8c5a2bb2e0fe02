"""Random properties of random small networks whose least violation is known, by enumeration of activation patterns.

`from properties import instance` (tests/ is on pytest's path).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from nets import ending_in_relu, mlp, residual, starting_with_relu, without_relu
from oracles import Piece, minimise, pieces
from secateur.formats.onnx_model import Model

DELTAS = (-0.1, -1e-2, -1e-3, 1e-3, 1e-2, 0.1)
"""How far below (satisfiable) or above (refuted) 0 the least violation is placed."""


@dataclass(frozen=True)
class Row:
    """inputs · x + outputs · y + constant ≤ 0 (or < 0), in multiples of 1/8."""

    inputs: np.ndarray
    outputs: np.ndarray
    constant: float
    strict: bool

    def text(self, shift: float) -> str:
        terms = [f"(* {v} X_{i})" for i, v in enumerate(self.inputs.tolist()) if v]
        terms += [f"(* {v} Y_{i})" for i, v in enumerate(self.outputs.tolist()) if v]
        return f"({'<' if self.strict else '<='} (+ {' '.join(terms)}) {-(self.constant + shift)!r})"


Region = tuple[np.ndarray, list[Row], list[list[Row]]]
"""A box (2, inputs), relations between inputs, and a disjunction of conjunctions."""


@dataclass(frozen=True)
class Instance:
    """A network, the property's text, and the least violation over everything (at most 1e-6 off)."""

    model: Model
    text: str
    least: float


def random_model(random: np.random.Generator, seed: int) -> tuple[Model, int, int]:
    inputs, outputs = int(random.integers(1, 4)), 2
    kind = seed % 6
    if kind == 0:
        return mlp(seed, inputs, (5,), outputs), inputs, outputs
    if kind == 1:
        return mlp(seed, inputs, (4, 3), outputs), inputs, outputs
    if kind == 2:
        return residual(seed, inputs, 4, outputs), inputs, outputs
    if kind == 3:
        return ending_in_relu(seed, inputs), inputs, outputs
    if kind == 4:
        return starting_with_relu(seed, min(inputs, 2)), min(inputs, 2), outputs
    return (
        (without_relu(seed, inputs) if seed % 12 == 5 else mlp(seed, inputs, (3, 3, 3), outputs)),
        inputs,
        outputs,
    )


def least_violation(parts: list[Piece], clause: list[Row], relations: list[Row], box: np.ndarray) -> float:
    """min over the box and the relations of the clause's largest row, by one linear program a piece."""
    size = box.shape[1]
    best = math.inf
    for piece in parts:
        rows, limits = [np.append(r, 0.0) for r in piece.matrix], list(piece.limit)
        for row in clause:
            rows.append(np.append(row.inputs + row.outputs @ piece.slope, -1.0))
            limits.append(-row.constant - row.outputs @ piece.offset)
        for row in relations:
            rows.append(np.append(row.inputs, 0.0))
            limits.append(-row.constant)
        objective = np.append(np.zeros(size), 1.0)
        lower, upper = np.append(box[0], -1e4), np.append(box[1], 1e4)
        value = minimise(objective, np.array(rows), np.array(limits), lower, upper)
        best = best if value is None else min(best, value)
    return best


@cache
def instance(seed: int) -> Instance:
    """A random property whose least violation is a random one of DELTAS (or infinite: its relations exclude all)."""
    random = np.random.default_rng(seed)
    model, inputs, outputs = random_model(random, seed)

    def eighths(size: int, most: int = 8) -> np.ndarray:
        return random.integers(-most, most + 1, size=size) / 8

    def row(mixed: bool) -> Row:
        direct = eighths(inputs) if mixed else np.zeros(inputs)
        weights = eighths(outputs)
        weights[0] = weights[0] or 1.0
        return Row(direct, weights, float(eighths(1)[0]), bool(random.random() < 0.3))

    regions: list[Region] = []
    least = math.inf
    for _ in range(int(random.integers(1, 3))):
        centre, radius = eighths(inputs), random.integers(1, 13, size=inputs) / 8
        radius[random.random(inputs) < 0.2] = 0
        box = np.stack([centre - radius, centre + radius])
        relations: list[Row] = []
        if inputs > 1 and random.random() < 0.35:
            direction = eighths(inputs)
            direction[:2] = [1.0, -0.5]
            relations = [Row(direction, np.zeros(outputs), float(-direction @ centre), False)]
        clauses = [
            [row(random.random() < 0.3) for _ in range(int(random.integers(1, 4)))]
            for _ in range(int(random.integers(1, 4)))
        ]
        parts = list(pieces(model, *box))
        least = min([least, *(least_violation(parts, clause, relations, box) for clause in clauses)])
        regions.append((box, relations, clauses))
    delta = DELTAS[int(random.integers(len(DELTAS)))]
    shift = delta - least if math.isfinite(least) else 0.0
    text = write(inputs, outputs, regions, shift)
    return Instance(model, text, delta if math.isfinite(least) else math.inf)


def write(inputs: int, outputs: int, regions: Sequence[Region], shift: float) -> str:
    """VNN-LIB 1.0 text: a disjunction of regions; `shift` is added to every row of every clause."""
    cases = []
    for box, relations, clauses in regions:
        sides = [f"(>= X_{i} {v!r}) (<= X_{i} {w!r})" for i, (v, w) in enumerate(box.T.tolist())]
        conditions = [f"(and {' '.join(r.text(shift) for r in clause)})" for clause in clauses]
        cases.append(
            f"(and {' '.join(sides)} {' '.join(r.text(0.0) for r in relations)} (or {' '.join(conditions)}))"
        )
    declared = [f"(declare-const X_{i} Real)" for i in range(inputs)]
    declared += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    return "\n".join([*declared, f"(assert (or {' '.join(cases)}))"])
