"""Bounds on what certified training is about: by how much the right class beats each other one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from secateur.pipeline.train.objectives.batch import Batch


def margin_rows(y: Tensor, logits: Tensor) -> Tensor:
    """Rows [N, K − 1, K]: row j of an image takes another class's logit from the right class's."""
    classes = logits.shape[1]
    eye = torch.eye(classes, dtype=logits.dtype, device=logits.device)
    others = torch.nonzero(~one_hot(y, classes).bool())[:, 1].view(len(y), classes - 1)
    return eye[y].unsqueeze(1) - eye[others]


def robust_cross_entropy(margins: Tensor) -> Tensor:
    """mean log(1 + Σ exp(−margin)) of lower bounds [N, K − 1] of the margins: an upper bound of the cross-entropy
    anywhere in the ball (Wong & Kolter 2018, theorem 2)."""
    logits = torch.cat([margins.new_zeros(len(margins), 1), -margins], 1)
    return cross_entropy(logits, torch.zeros(len(margins), dtype=torch.long, device=margins.device))


def with_clean(batch: Batch, logits: Tensor, robust: Tensor) -> Tensor:
    """κ · cross-entropy of the clean images + (1 − κ) · the robust one (Gowal et al. 2018, equation 12)."""
    kappa = batch.stage.kappa
    return kappa * cross_entropy(logits, batch.y) + (1 - kappa) * robust if kappa else robust
