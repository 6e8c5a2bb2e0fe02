"""Certified training by CROWN-IBP (Zhang et al. 2020, 1906.06316), with loss fusion (Xu et al. 2020, 2002.12920)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from secateur.pipeline.train.bounds.propagate import crown_rows, interval_rows
from secateur.pipeline.train.objectives.batch import Batch, Outcome
from secateur.pipeline.train.objectives.margins import margin_rows, robust_cross_entropy, with_clean

_TINY = 1e-12


def loss(batch: Batch) -> Outcome:
    """κ ℓ(f(x), y) + (1 − κ) ℓ(ẑ, y), the margins' bounds being β · CROWN-IBP + (1 − β) · IBP (equation 12).

    With loss fusion the two bounds are mixed as bounds of Σⱼ exp(zⱼ − z_y), whose logarithm the loss is. An image
    counts as right where IBP (or the mixture, where there is one) proves all margins positive.
    """
    logits = batch.logits(batch.x)
    if not batch.stage.epsilon:
        return Outcome(cross_entropy(logits, batch.y), logits.argmax(1) == batch.y)
    known, beta = batch.intervals(batch.stage.epsilon), batch.stage.beta
    rows = margin_rows(batch.y, logits)
    lower, upper = interval_rows(batch.trace, known, rows)
    if not beta:
        return Outcome(with_clean(batch, logits, robust_cross_entropy(lower)), (lower > 0).all(1))
    if batch.settings.loss_fusion and torch.is_grad_enabled():
        robust = fused(batch, rows, lower, upper)
    else:
        lower = beta * crown_rows(batch.trace, known, rows) + (1 - beta) * lower
        robust = robust_cross_entropy(lower)
    return Outcome(with_clean(batch, logits, robust), (lower > 0).all(1))


def fused(batch: Batch, rows: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """mean log(β C + (1 − β) I): bounds of 1 + Σⱼ exp(−mⱼ), the exponential of the cross-entropy, where the margins
    mⱼ = rowsⱼ · f lie in [lower, upper], each [N, K − 1].

    I is that sum at the lower bounds. For C every exp(−mⱼ) is bounded by its chord over [lower, upper], and their sum,
    linear in the outputs, by CROWN: one backward pass with one row an image instead of K − 1 ("loss fusion", section
    3.3 of 2002.12920). Everything is scaled by the largest term, against overflow.
    """
    beta = batch.stage.beta
    largest = (-lower).amax(1, keepdim=True).clamp(min=0).detach()
    top, bottom = (torch.exp(-side - largest) for side in (lower, upper))
    one = torch.exp(-largest)
    width = upper - lower
    slope = (top - bottom) / width.clamp(min=_TINY)  # of exp(−m), by how much it falls
    row = (slope.unsqueeze(2) * rows).sum(1, keepdim=True)
    constant = (top + slope * lower).sum(1, keepdim=True)  # Σ chord(m) = constant − row · f
    crown = constant - crown_rows(batch.trace, batch.intervals(batch.stage.epsilon), row) + one
    crown = torch.maximum(crown, one)  # rounding must not take it below what the sum always is
    interval = top.sum(1, keepdim=True) + one
    return (torch.log(beta * crown + (1 - beta) * interval) + largest).mean()
