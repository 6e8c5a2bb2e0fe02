"""Certified training by interval bound propagation (Gowal et al. 2018, 1810.12715)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from secateur.pipeline.train.bounds.propagate import interval_rows
from secateur.pipeline.train.objectives.batch import Batch, Outcome
from secateur.pipeline.train.objectives.margins import margin_rows, robust_cross_entropy, with_clean


def loss(batch: Batch) -> Outcome:
    """κ ℓ(f(x), y) + (1 − κ) ℓ(ẑ, y): ẑ the worst logits within ε by intervals, the last layer merged with the margins
    (equations 10 to 12). An image counts as right where all margins are proved positive."""
    logits = batch.logits(batch.x)
    if not batch.stage.epsilon:
        return Outcome(cross_entropy(logits, batch.y), logits.argmax(1) == batch.y)
    margins = lower_margins(batch, logits)
    return Outcome(with_clean(batch, logits, robust_cross_entropy(margins)), (margins > 0).all(1))


def lower_margins(batch: Batch, logits: Tensor) -> Tensor:
    """Lower bounds [N, K − 1] of the margins within ε."""
    known = batch.intervals(batch.stage.epsilon)
    return interval_rows(batch.trace, known, margin_rows(batch.y, logits))[0]
