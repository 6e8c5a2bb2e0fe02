"""Optimisers, learning rates, clipping: how weights follow gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from secateur.pipeline.train.settings import Settings

_RISING = 0.4  # of a cycle, as in Wong et al. 2020 and Andriushchenko & Flammarion 2020


def optimizer(parameters: Iterable[Tensor], settings: Settings) -> torch.optim.Optimizer:
    """The optimiser that `settings` name, over `parameters`."""
    weights, rate, decay = list(parameters), settings.initial_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate, momentum=settings.momentum, weight_decay=decay)
    if settings.optimizer == "adam":
        return torch.optim.Adam(weights, lr=rate, weight_decay=decay)
    return torch.optim.AdamW(weights, lr=rate, weight_decay=decay)


def rate(settings: Settings, step: int, batches: int) -> float:
    """The learning rate of optimiser step `step` (from 0), of `batches` an epoch."""
    total = max(1, settings.epochs * batches)
    if settings.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * step / total))
    elif settings.schedule == "step":
        factor = 0.1 ** sum(step // batches >= share * settings.epochs for share in settings.milestones)
    elif settings.schedule == "cyclic":
        done = (step + 1) / (total + 1)
        factor = done / _RISING if done < _RISING else (1 - done) / (1 - _RISING)
    else:
        factor = 1.0
    return settings.initial_rate * factor


def apply(optimiser: torch.optim.Optimizer, settings: Settings, learning_rate: float) -> None:
    """One step along the gradients, clipped where the settings say so."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
        if settings.clip:
            torch.nn.utils.clip_grad_norm_(group["params"], settings.clip)
    optimiser.step()
