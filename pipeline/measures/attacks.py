"""Attacked images: one step (FGSM), several (PGD), and those made on one network and tried on another.

Attacks follow the gradient of the cross-entropy through the engine's copy of the network, so that they work on whatever
it understands; onnxruntime judges what comes of them, on the model as stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt
from secateur.pipeline.measures.images import Floats, Images
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.graph.bound_graph import BoundGraph

BATCH = 256
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Strength:
    """PGD's steps and restarts (from a random point of the ball each, the first from the image itself)."""

    steps: int = 20
    restarts: int = 2


@dataclass(frozen=True)
class Transfer:
    """What PGD made of the first images on one network: [n, inputs], and which of them that network got `right`
    before, and wrong then (`fooled`)."""

    model_sha256: str
    points: Floats
    right: Flags
    fooled: Flags


def fgsm(engine: Engine, images: Images, which: Flags) -> Floats:
    """The FGSM neighbours [n, inputs] of the first n images; those not in `which` [n] stay as they are.

    One step of ε against the sign of the gradient, clipped to [0, 1] (Goodfellow, Shlens, Szegedy, "Explaining and
    harnessing adversarial examples", ICLR 2015).
    """
    graph = (engine.logits or engine).fast
    points = images.inputs.images[: len(which)].reshape(len(which), -1).copy()
    for rows, x, labels, low, high in _batches(images, which, engine.device):
        gradient = _gradient(graph, x, labels)
        moved = torch.where(gradient > 0, high, torch.where(gradient < 0, low, x))
        points[rows] = moved.cpu().numpy()
    return points


def pgd(engine: Engine, images: Images, which: Flags, strength: Strength, seed: int) -> Floats:
    """For each of the first n images the point [n, inputs] of its ball where PGD met the smallest margin (its label's
    output less the largest other one); those not in `which` [n] stay as they are.

    Signed steps of 2.5 ε / steps, projected to the ball (Madry et al., "Towards deep learning models resistant to
    adversarial attacks", ICLR 2018). What is drawn for an image depends on the seed and its place alone.
    """
    graph = (engine.logits or engine).fast
    points = images.inputs.images[: len(which)].reshape(len(which), -1).copy()
    size = torch.as_tensor(2.5 / strength.steps * images.radius, device=engine.device)
    for rows, start, labels, low, high in _batches(images, which, engine.device):
        best, least = start, _margin(graph, start, labels)
        for restart in range(strength.restarts):
            x = start if restart == 0 else low + _noise(rows, low, seed, restart) * (high - low)
            for _ in range(strength.steps):
                moved = x + size * _gradient(graph, x, labels).sign()
                x = torch.maximum(torch.minimum(moved, high), low)
                margin = _margin(graph, x, labels)
                best = torch.where((margin < least).unsqueeze(1), x, best)
                least = torch.minimum(least, margin)
        points[rows] = best.cpu().numpy()
    return points


def transfer(
    model: Model, images: Images, count: int, strength: Strength, seed: int, device: str
) -> Transfer:
    """What PGD makes of the first `count` images on `model`, to be tried on others."""
    engine = Engine(model, device)
    points = pgd(engine, images, np.ones(count, np.bool_), strength, seed)
    labels = images.data.labels[:count]
    right = outputs(model, images.inputs.images[:count]).argmax(axis=1) == labels
    return Transfer(model.sha256, points, right, right & (outputs(model, points).argmax(axis=1) != labels))


def outputs(model: Model, points: NDArray[np.float32]) -> NDArray[np.float64]:
    """The network's outputs [n, classes] at the points, in onnxruntime."""
    return np.array(onnxrt.run(model, points), np.float64)


def _batches(
    images: Images, which: Flags, device: torch.device
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor, Tensor, Tensor]]:
    """Places, points, labels and ends of the balls of the images in `which`, a batch at a time."""
    for first in range(0, len(which), BATCH):
        last = min(first + BATCH, len(which))
        here = np.flatnonzero(which[first:last])
        if len(here):
            rows = first + here
            x = images.inputs.images[rows].reshape(len(rows), -1)
            low, high = (side[here] for side in images.ball(first, last))
            arrays = (x, images.data.labels[rows], low, high)
            start, labels, lower, upper = (torch.as_tensor(array, device=device) for array in arrays)
            yield rows, start, labels, lower, upper


def _noise(rows: NDArray[np.int64], like: Tensor, seed: int, restart: int) -> Tensor:
    noise = [
        np.random.default_rng((seed, restart, int(row))).random(like.shape[1], np.float32) for row in rows
    ]
    return torch.as_tensor(np.stack(noise), device=like.device)


def _outputs(graph: BoundGraph, x: Tensor) -> Tensor:
    return graph.forward(x.view(-1, *graph.input.shape)).flatten(1)


def _gradient(graph: BoundGraph, x: Tensor, labels: Tensor) -> Tensor:
    x = x.detach().requires_grad_(True)
    loss = cross_entropy(_outputs(graph, x), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient


def _margin(graph: BoundGraph, x: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        outputs = _outputs(graph, x)
        own = outputs.gather(1, labels.unsqueeze(1)).squeeze(1)
        others = outputs.scatter(1, labels.unsqueeze(1), -torch.inf)
        return own - others.amax(1)
