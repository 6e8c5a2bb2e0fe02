"""A criterion for whole residual branches: how much they change the representation that they are added to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secateur.pipeline.prune.criteria.activations import record
from secateur.pipeline.prune.criteria.context import Context, Criterion, Saliency

if TYPE_CHECKING:
    import onnx

    from secateur.pipeline.prune.blocks import Branch

Floats = NDArray[np.float64]


def cka(context: Context) -> Saliency:
    """1 − CKA(before, after) of the values on both sides of the addition that a residual branch ends in: near 0 where
    the branch leaves the samples' representation as it was, up to rotation and scale. Linear centred kernel alignment
    is Kornblith et al. 2019 (1905.00414), its use for layer removal Pons et al. 2024 (2411.14345)."""
    from secateur.pipeline.prune.blocks import residual_branches

    model = context.model.proto
    sides = {branch.name: _sides(model, branch) for branch in residual_branches(model)}
    names = list(dict.fromkeys(value for pair in sides.values() for value in pair))
    parts: dict[str, list[Floats]] = {name: [] for name in names}
    for part in record(context, names):
        for name, values in part.items():
            parts[name].append(values.reshape(len(values), -1).astype(np.float64))
    recorded = {name: np.concatenate(values) for name, values in parts.items()}
    return {
        name: np.asarray(1 - alignment(recorded[before], recorded[after]))
        for name, (before, after) in sides.items()
    }


def alignment(x: Floats, y: Floats) -> float:
    """Linear CKA of x [n, p] and y [n, q], by Gram matrices [n, n]: 1 for the same up to rotation and scale; 0 where
    one of them does not vary."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    first, second = x @ x.T, y @ y.T
    scale = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / scale if scale else 0.0


def _sides(model: onnx.ModelProto, branch: Branch) -> tuple[str, str]:
    """The shortcut (the operand of the branch's addition that its weights have no part in) and the sum."""
    made: set[str] = set()
    for node in model.graph.node:
        if (node.name or node.output[0]) == branch.name:
            break
        if any(name in made or name in branch.weights for name in node.input):
            made.update(node.output)
    (shortcut,) = (name for name in node.input if name not in made)
    return shortcut, node.output[0]


CRITERIA = {
    "cka": Criterion(
        cka,
        "block",
        "1 − CKA of the values before and behind a residual addition",
        "Kornblith et al. 2019 (1905.00414); Pons et al. 2024 (2411.14345)",
        frozenset({"data"}),
        normaliser="none",
        without="it has no residual branch",
    ),
}
