"""Objectives and regularisers by name, and the whole loss of a batch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from secateur.pipeline.train.bounds.propagate import Intervals
from secateur.pipeline.train.bounds.trace import Trace
from secateur.pipeline.train.objectives import adversarial, crown_ibp, ibp, slimming, stability, standard
from secateur.pipeline.train.objectives.batch import Batch, Outcome
from secateur.pipeline.train.settings import Objective

LOSSES: dict[Objective, Callable[[Batch], Outcome]] = {
    "standard": standard.loss,
    "adversarial": adversarial.loss,
    "ibp": ibp.loss,
    "crown-ibp": crown_ibp.loss,
}

STABILITY: dict[str, Callable[[Trace, Intervals], Tensor]] = {
    "nrs": stability.nrs,
    "rs": stability.rs,
    "instability": stability.instability,
}


def outcome(batch: Batch) -> Outcome:
    """What the batch's objective says of it, without regularisers."""
    return LOSSES[batch.settings.objective](batch)


def regularisers(batch: Batch) -> dict[str, Tensor]:
    """The value of each regulariser that has a weight, after `outcome`: those of stability over IBP at the full ε."""
    settings = batch.settings
    found = {
        name: judge(batch.trace, batch.intervals(settings.epsilon))
        for name, judge in STABILITY.items()
        if getattr(settings, name)
    }
    if settings.bn_l1:
        found["bn_l1"] = slimming.bn_l1(batch.graph)
    return found


def total(batch: Batch, result: Outcome, terms: dict[str, Tensor]) -> Tensor:
    """The objective's loss + Σ weight · regulariser."""
    loss = result.loss
    for name, value in terms.items():
        loss = loss + getattr(batch.settings, name) * value
    return loss
