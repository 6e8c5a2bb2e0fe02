"""From a plan to a mask, and from a mask to a model with zeros."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from secateur.formats import onnx_model, onnx_parts, onnx_sparse
from secateur.formats.errors import CheckFailed, InputError, UnsupportedError
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model
from secateur.pipeline.prune import allocation, criteria, patterns, schedule, units
from secateur.pipeline.prune.criteria import NORMALISERS, REDUCTIONS, Context, Samples
from secateur.pipeline.prune.granularity import Granularity
from secateur.pipeline.prune.layers import Layer
from secateur.pipeline.prune.plan import Plan
from secateur.pipeline.prune.pool import Bools, Masks, Pool, Saliency, Scores
from secateur.pipeline.prune.units import Units

_FLOATS = (np.float16, np.float32, np.float64)


@dataclass(frozen=True)
class Pruned:
    """A pruned model, its mask, and how many units (weights, channels, …) went of those that were wanted; `unscored`
    names what was left alone since the criterion has no scores for it."""

    proto: onnx.ModelProto
    mask: Mask
    units: int
    wanted: int
    pruned: int
    unscored: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line for people."""
        short = self.wanted - self.pruned
        note = f" ({short} fewer than asked: every layer keeps one)" if short else ""
        name = Granularity.parse(self.mask.granularity).plural
        alone = (
            f"; {len(self.unscored)} without scores left alone: {self.unscored[0]}" if self.unscored else ""
        )
        return (
            f"pruned {self.pruned:,} of {self.units:,} {name}{note}; "
            f"{self.mask.sparsity:.2%} of the masked parameters are zero{alone}"
            f"{', …' if len(self.unscored) > 1 else ''}"
        )


@dataclass(frozen=True)
class Chosen:
    """Which units of each pool go, how many units there are, how many were to go, and how many do."""

    pools: Sequence[Pool]
    dropped: Sequence[Bools]
    units: int
    wanted: int
    pruned: int

    def masks(self) -> Masks:
        """What stays of each initializer, where several pools' units may share one."""
        together: Masks = {}
        for pool, drop in zip(self.pools, self.dropped, strict=True):
            for name, keep in pool.masks(drop).items():
                together[name] = together[name] & keep if name in together else keep
        return together


def prune(
    model: Model,
    plan: Plan | str,
    *,
    keep: Mask | None = None,
    data: Samples | None = None,
    device: str = "cpu",
    **settings: Any,
) -> Pruned:
    """Zero what the plan's criterion scores lowest. `plan` may also be a criterion's name, with the other fields of a
    `Plan` as `settings`.

    Of n units k = round(sparsity · n) go, exactly; ties go in order of position. A unit goes with everything that
    keeps it from being exactly zero (a channel: its weights, bias, normalisation, and what reads it). Graph outputs
    stay, and every layer keeps its best unit, so that fewer than k may go: see `Pruned`. Scores of larger units than
    a weight are reduced and normalised as the criterion's source does it, unless the plan says otherwise.

    `keep` is the mask of an earlier round: what it removed stays gone, its units count among the k, and the mask that
    results includes it.

    Raises:
        InputError: a plan that is none; nothing to prune, a pattern that matches nothing; data or ε that the
            criterion needs are missing.
        UnsupportedError: quantised or sparse weights, an operator that the criterion does not know.
    """
    plan = Plan(plan, **settings) if isinstance(plan, str) else replace(plan, **settings)
    source = model
    if keep is not None:
        model = replace(model, proto=masked(model, keep))
    gathered = units.gather(model, plan.units, plan.choice)
    if plan.refill:
        fine = replace(plan, granularity="weight", refill=False, reduction=None, normaliser=None)
        weights = units.gather(model, fine.units, plan.choice)
        left = _steps(model, fine, weights, keep, data, device).masks()
        by_size = replace(plan, criterion="magnitude", options={})
        scores = scores_of(by_size, gathered.pools, _surviving_weights(model, gathered.pools, left))
        chosen = choose(plan, gathered, scores, lambda sparsity: sparsity)
    else:
        chosen = _steps(model, plan, gathered, keep, data, device)
    counts = chosen.units, chosen.wanted, chosen.pruned
    scored = {pool.name for pool in chosen.pools}
    unscored = tuple(pool.name for pool in gathered.pools if pool.name not in scored)
    arguments = plan.to_dict() | _traces(data)
    extra = {key: _text(value) for key, value in arguments.items() if key not in ("criterion", "granularity")}
    mask = Mask(_with(keep, chosen.masks()), source.sha256, plan.criterion, plan.granularity, extra)
    del chosen  # as large as the mask
    proto = masked(source, mask)
    onnx_model.add_provenance(proto, "prune", arguments, source.sha256)
    return Pruned(proto, mask, *counts, unscored)


def apply(model: Model, mask: Mask, *, force: bool = False, sparse: bool = False) -> onnx.ModelProto:
    """A copy of `model` with zeros where `mask` says so; nothing else changes (but the provenance).

    `force` lets a mask of another model pass, as long as its names and shapes fit. `sparse` stores the tensors sparse
    that are smaller so, and compares the result in onnxruntime on random inputs: all outputs are the same.

    Raises:
        InputError: the mask was made for another model, or names or shapes do not fit.
        CheckFailed: the result is not the masked model.
    """
    if mask.model_sha256 != model.sha256 and not force:
        raise InputError(
            f"the mask was made for the model {mask.model_sha256[:12]}…, this one is {model.sha256[:12]}…",
            where=model.name,
            hint="--force applies it where names and shapes fit",
        )
    proto = masked(model, mask)
    arguments = {"criterion": mask.criterion, "granularity": mask.granularity, "forced": force}
    onnx_model.add_provenance(proto, "apply", arguments | dict(mask.extra), model.sha256)
    if not sparse:
        return proto
    from secateur.pipeline import onnxrt  # not needed otherwise

    stored = onnx.ModelProto()
    stored.CopyFrom(proto)
    onnx_sparse.sparsify(stored)
    onnxrt.compare(proto, stored, tolerance=0.0)
    return stored


def masked(model: Model, mask: Mask) -> onnx.ModelProto:
    """A copy of the model with zeros where the mask says so, judged tensor by tensor.

    Raises:
        InputError: names or shapes do not fit.
        UnsupportedError: the mask is of integers.
        CheckFailed: the result is not the masked model.
    """
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for name, keep in mask.tensors.items():
        if name not in dims:
            raise InputError(f"the mask names '{name}', which is no initializer", where=model.name)
        if dims[name] != keep.shape:
            raise InputError(
                f"the mask of '{name}' has shape {keep.shape}, the initializer {dims[name]}", where=model.name
            )
    tensors = (
        _zeroed(tensor, mask.tensors.get(tensor.name), model.name) for tensor in model.graph.initializer
    )
    copy = onnx_parts.with_initializers(model.proto, tensors)
    _check(model, mask, copy)
    return copy


def _zeroed(tensor: onnx.TensorProto, keep: Bools | None, where: str) -> onnx.TensorProto:
    if keep is None:
        return tensor
    array = numpy_helper.to_array(tensor)
    if array.dtype.type not in _FLOATS:
        raise UnsupportedError(f"'{tensor.name}' is {array.dtype}: expected floats", where=where)
    array = np.where(keep, array, array.dtype.type(0))
    return numpy_helper.from_array(array, tensor.name)


def _check(model: Model, mask: Mask, result: onnx.ModelProto) -> None:
    """That the tensors are the originals, or the originals times the mask: by other means than `masked`."""
    for old, new in zip(model.graph.initializer, result.graph.initializer, strict=True):
        keep = mask.tensors.get(old.name)
        if keep is None:
            right = new == old
        else:
            right = np.array_equal(numpy_helper.to_array(new), numpy_helper.to_array(old) * keep)
        if not right:
            raise CheckFailed(f"initializer '{old.name}' is not the masked original", where=model.name)


# --- the steps of a plan -------------------------------------------------------------------------------------


def _steps(
    model: Model, plan: Plan, gathered: Units, keep: Mask | None, data: Samples | None, device: str
) -> Chosen:
    """Score, drop, and score again what is left; what went stays gone, and what `keep` (already applied to `model`)
    removed. Pools without scores are left out."""
    layers = tuple({layer.weight: layer for pool in gathered.pools for layer in pool.layers}.values())
    context = Context(
        model, layers, seed=plan.seed, data=data, epsilon=plan.epsilon, device=device, options=plan.options
    )
    chosen: Chosen | None = None
    gone: Sequence[Bools] | None = None
    if keep is not None:
        context = replace(context, keep=_weights_kept(keep, layers))
    for until in schedule.course(plan.schedule, plan.steps):
        context = replace(context, sparsity=until(plan.overall))
        if chosen is not None:
            masks = _with(keep, chosen.masks())
            now = masked(model, Mask(masks, model.sha256, plan.criterion, plan.granularity))
            context = replace(context, model=replace(model, proto=now), keep=masks)
        saliency = criteria.score(plan.criterion, context)
        if chosen is None:
            gathered = replace(gathered, pools=[pool for pool in gathered.pools if pool.scored(saliency)])
            if keep is not None:
                gone = _gone(gathered.pools, context.keep)
        scores = scores_of(plan, gathered.pools, saliency, gone)
        del saliency
        chosen = choose(plan, gathered, scores, until)
        gone = chosen.dropped
    assert chosen is not None
    return chosen


def _weights_kept(keep: Mask, layers: Sequence[Layer]) -> Masks:
    """What an earlier mask keeps of each layer's weight."""
    names = (layer.weight for layer in layers)
    return {name: np.asarray(keep.tensors[name]) for name in names if name in keep.tensors}


def _gone(pools: Sequence[Pool], kept: Mapping[str, Bools]) -> list[Bools]:
    """The units [rows, columns] of each pool of which an earlier mask keeps no weight."""
    found = []
    for pool in pools:
        whole = zip(pool.layers, pool.shapes, strict=True)
        left = {
            layer.weight: np.broadcast_to(kept.get(layer.weight, np.bool_(True)), shape).astype(np.float64)
            for layer, shape in whole
        }
        found.append(np.asarray(pool.score(left, REDUCTIONS["max"]) <= 0))
    return found


def _with(keep: Mask | None, masks: Masks) -> Masks:
    """Both masks: what each of them keeps."""
    together: Masks = dict(keep.tensors) if keep is not None else {}
    for name, kept in masks.items():
        together[name] = together[name] & kept if name in together else kept
    return together


def scores_of(
    plan: Plan, pools: Sequence[Pool], saliency: Saliency, gone: Sequence[Bools] | None = None
) -> list[Scores]:
    """Scores [rows, columns] of each pool's units, normalised among those that are left; −inf of those gone."""
    reduction = REDUCTIONS[plan.reduction or plan.row.reduction]
    normaliser = plan.normaliser or ("none" if plan.units.fine else plan.row.normaliser)
    found = []
    for index, pool in enumerate(pools):
        scores = np.require(pool.score(saliency, reduction), requirements="W")
        if gone is not None:
            scores[gone[index]] = -np.inf
        if normaliser != "none":
            exact = scores.astype(np.float64)
            left = np.isfinite(exact)
            exact[left] = NORMALISERS[normaliser](exact[left])
            scores = exact
        found.append(scores)
    return found


def choose(plan: Plan, gathered: Units, scores: Sequence[Scores], until: Callable[[float], float]) -> Chosen:
    """Which units go when the plan is done `until` some point (see `schedule.course`). Changes the scores."""
    pools = gathered.pools
    wanted = _counts(plan, pools, until)
    for pool, values in zip(pools, scores, strict=True):
        allocation.protect(values, pool.least)
    dropped = _lowest(pools, scores, wanted)
    while gathered.protect is not None:  # others go instead of those that must stay
        names = [pool.name for pool in pools]
        allowed = gathered.protect(
            {name: drop[0] for name, drop in zip(names, dropped, strict=True)},
            {name: values[0] for name, values in zip(names, scores, strict=True)},
        )
        back = [drop & ~allowed[name] for name, drop in zip(names, dropped, strict=True)]
        if not any(map(np.any, back)):
            break
        for values, stay in zip(scores, back, strict=True):
            values[stay] = np.inf
        dropped = _lowest(pools, scores, wanted)
    if not isinstance(wanted, int):
        wanted = sum(pool.rows * count - pool.padding for pool, count in zip(pools, wanted, strict=True))
    pruned = sum(
        int(np.count_nonzero(drop)) - pool.padding for pool, drop in zip(pools, dropped, strict=True)
    )
    return Chosen(pools, dropped, sum(pool.size for pool in pools), wanted, pruned)


def _lowest(pools: Sequence[Pool], scores: Sequence[Scores], wanted: int | list[int]) -> list[Bools]:
    if isinstance(wanted, int):
        return allocation.lowest(scores, wanted)
    return [
        allocation.lowest_of_rows(values, count) if pool.rows > 1 else allocation.lowest([values], count)[0]
        for pool, values, count in zip(pools, scores, wanted, strict=True)
    ]


def _counts(plan: Plan, pools: Sequence[Pool], until: Callable[[float], float]) -> int | list[int]:
    """How many units are to go: of all together, or of each pool's rows."""
    if plan.units.fixes_sparsity:
        n, m = plan.units.numbers
        return [m - n] * len(pools)
    if plan.scope == "layer":
        shares = map(until, _ratios(plan, pools))
        return [round(share * pool.columns) for pool, share in zip(pools, shares, strict=True)]
    sizes = [pool.size for pool in pools]
    total = round(until(plan.sparsity or 0.0) * sum(sizes))
    if plan.scope == "global":
        return total
    family = allocation.erk([pool.shapes for pool in pools])
    return allocation.exactly(family, sizes, total)


def _ratios(plan: Plan, pools: Sequence[Pool]) -> list[float]:
    names = [patterns.names_of(pool) for pool in pools]
    for pattern in plan.ratios:
        patterns.check_pattern(pattern, names, "")
    default = plan.sparsity or 0.0
    return [
        next((share for pattern, share in plan.ratios.items() if patterns.matches([pattern], own)), default)
        for own in names
    ]


def _surviving_weights(model: Model, pools: Sequence[Pool], masks: Masks) -> Saliency:
    """|w| of the weights that an unstructured mask leaves, 0 elsewhere."""
    arrays = onnx_model.initializers(model.proto)
    names = {layer.weight for pool in pools for layer in pool.layers}
    return {name: np.where(masks.get(name, True), np.abs(arrays[name]), 0) for name in names}


def _traces(data: Samples | None) -> dict[str, object]:
    """What tells data apart, without a path."""
    if data is None:
        return {}
    return {"samples": len(data), "data_sha256": hashlib.sha256(data.images.tobytes()).hexdigest()}


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
