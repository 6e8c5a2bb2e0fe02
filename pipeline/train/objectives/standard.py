"""Standard training: cross-entropy on the images as they are."""

from __future__ import annotations

from torch.nn.functional import cross_entropy

from secateur.pipeline.train.objectives.batch import Batch, Outcome


def loss(batch: Batch) -> Outcome:
    """mean −log softmax(f(x))_y."""
    logits = batch.logits(batch.x)
    return Outcome(cross_entropy(logits, batch.y), logits.argmax(1) == batch.y)
