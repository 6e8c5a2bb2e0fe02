"""Adversarial training: cross-entropy on attacked images, and GradAlign where it is asked for."""

from __future__ import annotations

from torch.nn.functional import cross_entropy

from secateur.pipeline.train.attacks import attack_images
from secateur.pipeline.train.objectives import gradalign
from secateur.pipeline.train.objectives.batch import Batch, Outcome


def loss(batch: Batch) -> Outcome:
    """mean −log softmax(f(x + δ))_y, δ of FGSM or PGD (see `attacks`) + λ · GradAlign."""
    settings, training = batch.settings, batch.graph.training
    moved = attack_images(
        batch.graph,
        batch.x,
        batch.y,
        batch.stage.epsilon,
        settings.attack_steps,
        batch.generator,
        settings.attack_step,
    )
    if training:
        batch.graph.train()
    logits = batch.logits(moved)
    result = cross_entropy(logits, batch.y)
    if settings.gradalign and training:
        result = result + settings.gradalign * gradalign.misalignment(
            batch.graph, batch.x, batch.y, batch.stage.epsilon, batch.generator
        )
    return Outcome(result, logits.argmax(1) == batch.y)
