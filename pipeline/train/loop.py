"""The training loop: an ONNX graph in, the same graph with trained weights out; a mask is held exactly."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from secateur.formats import onnx_model
from secateur.formats.dataset import Dataset
from secateur.formats.errors import CheckFailed, InputError
from secateur.formats.mask import Mask, to_bytes
from secateur.formats.onnx_model import Model
from secateur.pipeline import compute
from secateur.pipeline.train.evaluate import check_fit
from secateur.pipeline.train.graph import TrainableGraph

_VALIDATION_BATCH = 512
_SMALL = 100_000  # elements of weights up to which one thread is as fast as several, or far faster on a busy machine


@dataclass(frozen=True)
class Settings:
    """How to train.

    `adversarial` is the ℓ∞ radius ε on raw pixels in [0, 1]; 0 trains on the images as they are. One attack step is
    FGSM from a random start with step 1.25 ε (Wong et al., "Fast is better than free", ICLR 2020), more are PGD
    with steps of 2.5 ε / steps (Madry et al., ICLR 2018). `learning_rate` None means 3e-3 for Adam, 1e-2 for SGD
    (momentum 0.9). Schedules: `step` multiplies it by 0.1 after 70 % and 85 % of the epochs, `cosine` lowers it to
    0 every step. `validation` is the share of the training images held out to choose the best epoch.
    """

    epochs: int = 20
    batch_size: int = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float | None = None
    schedule: Literal["constant", "step", "cosine"] = "cosine"
    weight_decay: float = 0.0
    adversarial: float = 0.0
    attack_steps: int = 1
    validation: float = 0.1
    seed: int = 0
    device: str = "cpu"

    @property
    def initial_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return 3e-3 if self.optimizer == "adam" else 1e-2


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to. Accuracies in [0, 1]; both are under attack when training is adversarial, and
    `validation` is nan without a validation split."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    validation: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Training:
    """The trained model, the epochs, and the number of the chosen one (0: none was run)."""

    model: Model
    history: tuple[Epoch, ...]
    best_epoch: int


def train(
    model: Model,
    data: Dataset,
    settings: Settings | None = None,
    *,
    mask: Mask | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> Training:
    """Train the weights of `model` on the images of `data` (raw pixels, class labels) by cross-entropy.

    The returned model is the same graph with the weights of the epoch that was best on the held-out validation
    images (the later one of equals; the last one without validation images). What `mask` removes is exactly zero
    from the first step to the written file. The same inputs and settings give the same bytes on
    the same machine (with the same number of threads, where the network is large).

    Raises:
        InputError: images, labels or mask do not fit the network; no such device.
        UnsupportedError, CheckFailed: see `TrainableGraph`.
    """
    settings = settings or Settings()
    check_fit(model, data)
    with (
        compute.threads(1 if _is_small(model) else None),
        compute.deterministic(settings.device, settings.seed),
    ):
        graph = TrainableGraph(model, settings.device)
        keep = _masks(graph, mask, model)
        _hold(graph, keep)
        generator = torch.Generator().manual_seed(settings.seed)
        order = torch.randperm(len(data.images), generator=generator)
        held_out = round(settings.validation * len(order))
        x, y = graph.inputs(data.images), torch.as_tensor(data.labels, device=graph.device)
        validation, training = (part.to(graph.device) for part in (order[:held_out], order[held_out:]))
        if len(training) == 0:
            raise InputError(
                "no training images are left", where=data.name, hint="lower the validation share"
            )
        optimizer = _optimizer(graph, settings)
        batches = -(-len(training) // settings.batch_size)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(settings, batches))
        best, best_epoch, best_accuracy = graph.snapshot(), 0, -1.0
        history: list[Epoch] = []
        for number in range(1, settings.epochs + 1):
            started = time.perf_counter()
            rate = float(scheduler.get_last_lr()[0])
            loss, accuracy = _epoch(
                graph, x[training], y[training], keep, optimizer, scheduler, settings, generator
            )
            measured = _accuracy(graph, x[validation], y[validation], settings, number)
            if not measured < best_accuracy:
                best, best_epoch, best_accuracy = graph.snapshot(), number, measured
            elapsed = time.perf_counter() - started
            history.append(Epoch(number, settings.epochs, loss, accuracy, measured, rate, elapsed))
            if progress:
                progress(history[-1])
        for name, kept in keep.items():
            if best[name][~kept.cpu().numpy()].any():
                raise CheckFailed(
                    f"training moved weights of '{name}' that the mask removes", where=model.name
                )
        proto = graph.write_back(best).proto
        onnx_model.add_provenance(proto, "train", _provenance(data, settings, mask), model.sha256)
        return Training(onnx_model.from_proto(proto, model.name), tuple(history), best_epoch)


def attack_images(
    graph: TrainableGraph,
    x: torch.Tensor,
    y: torch.Tensor,
    epsilon: float,
    steps: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Images within ε (ℓ∞, raw pixels, clipped to [0, 1]) of `x` that raise the cross-entropy: FGSM or PGD from
    a random start, see `Settings`. Uses the graph in evaluation mode, so that its statistics do not move."""
    graph.eval()
    lower, upper = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)
    noise = torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    moved = lower + noise * (upper - lower)
    step = 1.25 * epsilon if steps == 1 else 2.5 * epsilon / steps
    for _ in range(steps):
        moved.requires_grad_(True)
        (gradient,) = torch.autograd.grad(cross_entropy(graph(moved).flatten(1), y, reduction="sum"), moved)
        moved = torch.clamp(moved.detach() + step * gradient.sign(), lower, upper)
    return moved


def _epoch(
    graph: TrainableGraph,
    x: torch.Tensor,
    y: torch.Tensor,
    keep: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    settings: Settings,
    generator: torch.Generator,
) -> tuple[float, float]:
    """One pass over the training images; the mean loss and the accuracy met on the way."""
    total, correct, seen = 0.0, 0, 0
    order = torch.randperm(len(x), generator=generator).to(x.device)
    for chosen in torch.split(order, settings.batch_size):
        if len(chosen) == 1 and seen:
            scheduler.step()
            continue  # BatchNormalization has no statistics of a single sample
        images, labels = x[chosen], y[chosen]
        if settings.adversarial:
            images = attack_images(
                graph, images, labels, settings.adversarial, settings.attack_steps, generator
            )
        graph.train()
        logits = graph(images).flatten(1)
        loss = cross_entropy(logits, labels)
        if not torch.isfinite(loss):
            raise CheckFailed("training diverged: the loss is not finite (lower the learning rate)")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        scheduler.step()
        _hold(graph, keep)
        total += float(loss.detach()) * len(chosen)
        correct += int((logits.argmax(1) == labels).sum())
        seen += len(chosen)
    return total / seen, correct / seen


def _accuracy(
    graph: TrainableGraph, x: torch.Tensor, y: torch.Tensor, settings: Settings, epoch: int
) -> float:
    """Accuracy on held-out images, under the training attack where there is one; nan without images."""
    if len(x) == 0:
        return float("nan")
    generator = torch.Generator().manual_seed(settings.seed + epoch)
    correct = 0
    for images, labels in zip(
        torch.split(x, _VALIDATION_BATCH), torch.split(y, _VALIDATION_BATCH), strict=True
    ):
        if settings.adversarial:
            images = attack_images(
                graph, images, labels, settings.adversarial, settings.attack_steps, generator
            )
        graph.eval()
        with torch.no_grad():
            correct += int((graph(images).flatten(1).argmax(1) == labels).sum())
    return correct / len(x)


def _provenance(data: Dataset, settings: Settings, mask: Mask | None) -> dict[str, object]:
    arguments: dict[str, object] = {
        **asdict(settings),
        "learning_rate": settings.initial_rate,
        "data_sha256": hashlib.sha256(data.images.tobytes() + data.labels.tobytes()).hexdigest(),
    }
    if mask is not None:
        arguments["mask_sha256"] = hashlib.sha256(to_bytes(mask)).hexdigest()
    return arguments


def _optimizer(graph: TrainableGraph, settings: Settings) -> torch.optim.Optimizer:
    parameters, rate = list(graph.parameters.values()), settings.initial_rate
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=settings.weight_decay)


def _is_small(model: Model) -> bool:
    return sum(array.size for array in onnx_model.initializers(model.proto).values()) <= _SMALL


def _schedule(settings: Settings, batches: int) -> Callable[[int], float]:
    """The learning rate's factor at each optimiser step."""
    steps = max(1, settings.epochs * batches)
    if settings.schedule == "cosine":
        return lambda step: float(0.5 * (1 + np.cos(np.pi * min(step, steps) / steps)))
    if settings.schedule == "step":
        return lambda step: 0.1 ** sum(step // batches >= share * settings.epochs for share in (0.7, 0.85))
    return lambda step: 1.0


def _masks(graph: TrainableGraph, mask: Mask | None, model: Model) -> dict[str, torch.Tensor]:
    """The mask as tensors beside the weights that it covers."""
    keep: dict[str, torch.Tensor] = {}
    for name, kept in (mask.tensors if mask else {}).items():
        weight = graph.parameters.get(name)
        if weight is None:
            raise InputError(
                f"the mask covers '{name}', which is not a trained weight of the network", where=model.name
            )
        if tuple(weight.shape) != kept.shape:
            raise InputError(
                f"the mask of '{name}' has shape {list(kept.shape)}: expected {list(weight.shape)}",
                where=model.name,
            )
        keep[name] = torch.as_tensor(np.array(kept), device=graph.device)
    return keep


def _hold(graph: TrainableGraph, keep: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, kept in keep.items():
            graph.parameters[name].masked_fill_(~kept, 0.0)
