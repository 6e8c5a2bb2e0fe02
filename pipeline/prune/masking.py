"""From a plan to a mask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from secateur.formats import onnx_model
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt
from secateur.pipeline.prune import allocation, applying, criteria, patterns, schedule, units
from secateur.pipeline.prune.criteria import NORMALISERS, REDUCTIONS, Context, Samples
from secateur.pipeline.prune.granularity import Granularity
from secateur.pipeline.prune.layers import Layer
from secateur.pipeline.prune.plan import Plan
from secateur.pipeline.prune.pool import Bools, Masks, Pool, Saliency, Scores
from secateur.pipeline.prune.units import Units


@dataclass(frozen=True)
class Pruned:
    """A pruned model, its mask, and how many units (weights, channels, …) went of those that were wanted; `unscored`
    names what was left alone since the criterion has no scores for it."""

    model: Model
    mask: Mask
    units: int
    wanted: int
    pruned: int
    unscored: tuple[str, ...] = ()

    @property
    def proto(self) -> onnx.ModelProto:
        return self.model.proto

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
    a weight are reduced and normalised as the criterion's source does it, unless the plan says otherwise. The result is
    compared as that of `apply`; of the data with as many samples as there are random ones.

    `keep` is the mask of an earlier round: what it removed stays gone, its units count among the k, and the mask that
    results includes it.

    Raises:
        InputError: a plan that is none; nothing to prune, a pattern that matches nothing; data or ε that the
            criterion needs are missing.
        UnsupportedError: quantised or sparse weights, an operator that the criterion or onnxruntime does not know.
        CheckFailed: the result is not the masked model.
    """
    plan = Plan(plan, **settings) if isinstance(plan, str) else replace(plan, **settings)
    source = model
    if keep is not None:
        model = applying.masked(model, keep)
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
    real = None if data is None else data.images[: onnxrt.enough(source)]
    result = applying.compared(source, mask, "prune", arguments, plan.seed, real)
    return Pruned(result, mask, *counts, unscored)


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
            now = applying.masked(model, Mask(masks, model.sha256, plan.criterion, plan.granularity))
            context = replace(context, model=now, keep=masks)
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
    arrays = onnx_model.values(model)
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
