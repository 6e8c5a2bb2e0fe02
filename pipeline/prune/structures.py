"""Pools of what spans several tensors: channels and heads with all that goes with them, residual branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model
from secateur.pipeline.prune import blocks, channels
from secateur.pipeline.prune.blocks import Branch
from secateur.pipeline.prune.channels import Group
from secateur.pipeline.prune.layers import Layer
from secateur.pipeline.prune.patterns import Choice
from secateur.pipeline.prune.pool import Bools, Floats, Masks, Pool, Protect, Reduction, Saliency, Scores


def channel_pools(
    model: Model, found: Sequence[Layer], dims: Mapping[str, tuple[int, ...]], kind: str
) -> tuple[list[Pool], Protect, str]:
    """A pool a group of channels ("channel", "neuron") or of heads ("head"), what keeps axes from becoming empty, and
    why there may be none."""
    layer_of = {layer.weight: layer for layer in found}
    analysis = channels.analyse(model, view="heads" if kind == "head" else "channels")
    groups = [group for group in analysis.groups if set(group.layers) <= set(layer_of)]
    reason = "; ".join(f"those of {name} stay: {why}" for name, why in analysis.pinned[:1])
    if kind == "neuron":
        dense = ("Gemm", "MatMul")
        groups = [g for g in groups if all(layer_of[name].node.op_type in dense for name in g.layers)]
        reason = "expected hidden fully connected layers"
    if kind == "head":
        groups = [group for group in groups if group.kind == "head"]
        reason = "expected attention: a MatMul of two activations with heads as a batch axis"
    return [_group(group, layer_of, dims) for group in groups], analysis.protect, reason


def _group(group: Group, layer_of: Mapping[str, Layer], dims: Mapping[str, tuple[int, ...]]) -> Pool:
    weights = [member for member in group.members if member.role == "weight"]

    def score(saliency: Saliency, reduction: Reduction) -> Scores:
        parts, places = [], []
        for member in weights:
            if member.tensor in saliency:
                values = saliency[member.tensor]
                rows = np.moveaxis(values, member.axis if values.ndim > 1 else 0, 0)
                of_member = by_unit(rows.reshape(len(rows), -1), member.units, group.size, reduction)
                places.append(np.flatnonzero(np.isfinite(of_member)))
                parts.append(of_member[places[-1], None])
        if len(parts) > 1:
            together = by_unit(np.concatenate(parts), np.concatenate(places), group.size, reduction)
        else:
            together = of_member
        return together[None]

    def masks(dropped: Bools) -> Masks:
        kept: Masks = {}
        gone = np.append(dropped[0], False)  # unit −1: not of this group
        for member in group.members:
            if member.role != "fixed":
                along = [-1 if axis == member.axis else 1 for axis in range(len(dims[member.tensor]))]
                keep = np.broadcast_to(~gone[member.units].reshape(along), dims[member.tensor])
                kept[member.tensor] = kept.get(member.tensor, True) & keep
        return kept

    read = tuple(layer_of[name] for name in group.layers)
    shapes = tuple(dims[name] for name in group.layers)
    return Pool(group.name, read, shapes, 1, group.size, score, masks, least=0)


def by_unit(rows: Scores, units: NDArray[np.intp], size: int, reduction: Reduction) -> Floats:
    """The reduction of all rows [places, elements] of each unit, +inf (never dropped) of a unit that has none."""
    scores = np.full(size, np.inf)
    order = np.argsort(units, kind="stable")[np.count_nonzero(units < 0) :]
    counts = np.bincount(units[order], minlength=size)
    starts = np.cumsum(counts) - counts
    for count in np.unique(counts[counts > 0]):
        which = np.flatnonzero(counts == count)
        places = order[starts[which][:, None] + np.arange(count)]
        scores[which] = reduction(rows[places].reshape(len(which), -1).astype(np.float64))
    return scores


def branches(
    model: Model, found: Sequence[Layer], dims: Mapping[str, tuple[int, ...]], choice: Choice
) -> list[Pool]:
    """One pool of all residual branches; any of them may go, even all."""
    layer_of = {layer.weight: layer for layer in found}
    named = {
        branch: [branch.name, *(n for weight in branch.weights for n in (layer_of[weight].name, weight))]
        for branch in blocks.residual_branches(model.light)
    }
    if not named:
        raise InputError("no prunable layer: expected residual branches", where=model.name)
    choice.check(list(named.values()), model.name)
    chosen = [branch for branch, names in named.items() if choice.takes(names)]
    if not chosen:
        raise InputError("the patterns leave no residual branch to prune", where=model.name)

    def score(saliency: Saliency, reduction: Reduction) -> Scores:
        return np.array([_branch_score(branch, saliency, reduction) for branch in chosen])[None]

    def masks(dropped: Bools) -> Masks:
        gone = {branch: bool(drop) for branch, drop in zip(chosen, dropped[0], strict=True)}
        return {
            name: np.broadcast_to(np.bool_(not drop), dims[name])
            for branch, drop in gone.items()
            for name in branch.zeros
        }

    weights = dict.fromkeys(weight for branch in chosen for weight in branch.weights)
    read, shapes = tuple(layer_of[name] for name in weights), tuple(dims[name] for name in weights)
    names = tuple(branch.name for branch in chosen)
    return [Pool("branches", read, shapes, 1, len(chosen), score, masks, least=0, branches=names)]


def _branch_score(branch: Branch, saliency: Saliency, reduction: Reduction) -> float:
    """A branch's own score, or the reduction of its weights' (or channels'); +inf (never dropped) without any."""
    if branch.name in saliency:
        return float(saliency[branch.name])
    parts = [saliency[name].reshape(1, -1) for name in branch.weights if name in saliency]
    if not parts:
        return np.inf
    return float(reduction(np.concatenate(parts, axis=1).astype(np.float64))[0])
