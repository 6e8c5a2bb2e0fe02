"""The training loop: an ONNX graph in, the same graph with trained weights out; a mask is held exactly."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from secateur.formats import onnx_model
from secateur.formats.dataset import Dataset
from secateur.formats.errors import CheckFailed, InputError
from secateur.formats.mask import Mask, to_bytes
from secateur.formats.onnx_model import Model
from secateur.pipeline import compute
from secateur.pipeline.train import optimisation
from secateur.pipeline.train.augmentation import augment
from secateur.pipeline.train.checkpoint import Checkpoint, Saved, of_optimizer, to_optimizer
from secateur.pipeline.train.evaluate import check_fit
from secateur.pipeline.train.graph import TrainableGraph
from secateur.pipeline.train.objectives.batch import Batch
from secateur.pipeline.train.objectives.table import outcome, regularisers, total
from secateur.pipeline.train.ramp import Stage, stage
from secateur.pipeline.train.settings import Settings

_VALIDATION_BATCH = 512
_SMALL = 100_000  # elements of weights up to which one thread is as fast as several, or far faster on a busy machine


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to. `accuracy` (of training images, on the way) and `validation` (of held-out ones; nan
    without any) in [0, 1]: standard, under the training attack, or certified, by the objective; the former at the
    radius `epsilon` that the epoch ended with, the latter at the full one. `terms`: the regularisers' mean values."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    validation: float
    learning_rate: float
    epsilon: float
    terms: Mapping[str, float]
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """As JSON; no held-out images: null."""
        return asdict(self) | {"validation": None if math.isnan(self.validation) else self.validation}


@dataclass(frozen=True)
class Training:
    """The trained model, the epochs, the number of the chosen one (0: none was run), and the model after the epoch
    that was asked for as an early one."""

    model: Model
    history: tuple[Epoch, ...]
    best_epoch: int
    early: Model | None = None


def train(
    model: Model,
    data: Dataset,
    settings: Settings | None = None,
    *,
    mask: Mask | None = None,
    checkpoint: str | None = None,
    early: int | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> Training:
    """Train the weights of `model` on the images of `data` (raw pixels, class labels).

    The returned model is the same graph with the weights of the epoch that was best on the held-out validation
    images (the later one of equals; the last one without validation images). What `mask` removes is exactly zero
    from the first step to the written file. The same inputs and settings give the same bytes on
    the same machine (with the same number of threads, where the network is large).

    `checkpoint` is a folder for the state after every epoch: called again with the same arguments, training goes on
    from there, and ends with the same bytes as if it had never stopped; `progress` is told of the epochs before, too.
    `early` is the number of an epoch whose weights are returned, too, to rewind to (0: before the first).

    Raises:
        InputError: images, labels or mask do not fit the network; settings that contradict each other; no such device;
            the checkpoint is that of another training.
        UnsupportedError, CheckFailed: see `TrainableGraph`; an operator without bounds, where the loss needs them.
    """
    settings = settings or Settings()
    settings.check()
    check_fit(model, data)
    if early is not None and not 0 <= early <= settings.epochs:
        raise InputError(f"the early epoch is {early}: expected 0 to {settings.epochs}")
    with (
        compute.threads(1 if _is_small(model) else None),
        compute.deterministic(settings.device, settings.seed),
    ):
        run, provenance = _Run(model, data, settings, mask, early), _provenance(data, settings, mask)
        folder = None
        if checkpoint is not None:
            folder = Checkpoint(checkpoint, {"model": model.sha256, "early epoch": early, **provenance})
            saved = folder.load()
            if saved is not None:
                run.restore(saved)
        for epoch in run.history:
            if progress:
                progress(epoch)
        while len(run.history) < settings.epochs:
            run.epoch()
            if folder is not None:
                folder.save(len(run.history), run.saved())
            if progress:
                progress(run.history[-1])
        return run.result(provenance)


@dataclass
class _Run:
    """One training between two epochs."""

    model: Model
    data: Dataset
    settings: Settings
    mask: Mask | None
    early: int | None
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0

    def __post_init__(self) -> None:
        settings = self.settings
        self.graph = graph = TrainableGraph(self.model, settings.device)
        self.keep = _masks(graph, self.mask, self.model)
        self._hold()
        self.generator = torch.Generator().manual_seed(settings.seed)
        order = torch.randperm(len(self.data.images), generator=self.generator)
        held_out = round(settings.validation * len(order))
        x, y = graph.inputs(self.data.images), torch.as_tensor(self.data.labels, device=graph.device)
        if (settings.flip or settings.crop) and x.ndim != 4:
            raise InputError(
                f"flips and crops are of images [channels, height, width]: the network takes {list(x.shape[1:])}",
                where=self.model.name,
            )
        validation, training = (part.to(graph.device) for part in (order[:held_out], order[held_out:]))
        if len(training) == 0:
            raise InputError(
                "no training images are left", where=self.data.name, hint="lower the validation share"
            )
        self.training, self.validation = (x[training], y[training]), (x[validation], y[validation])
        self.optimizer = optimisation.optimizer(graph.parameters.values(), settings)
        self.batches = -(-len(training) // settings.batch_size)
        self.best, self.best_accuracy = self._weights(), -1.0
        self.early_weights = self._weights() if self.early == 0 else {}

    def epoch(self) -> None:
        """One pass over the training images, and a look at the held-out ones."""
        started, number = time.perf_counter(), len(self.history) + 1
        x, y = self.training
        total_loss, right, seen = 0.0, 0, 0
        terms: dict[str, float] = {}
        order = torch.randperm(len(x), generator=self.generator).to(x.device)
        first = (number - 1) * self.batches
        for step, chosen in enumerate(torch.split(order, self.settings.batch_size), first):
            if len(chosen) == 1 and seen:
                continue  # BatchNormalization has no statistics of a single sample
            loss, correct, values = self._step(x[chosen], y[chosen], step)
            total_loss += loss * len(chosen)
            right += correct
            seen += len(chosen)
            for name, value in values.items():
                terms[name] = terms.get(name, 0.0) + value * len(chosen)
        measured = self._accuracy(number)
        if not measured < self.best_accuracy:
            self.best, self.best_epoch, self.best_accuracy = self._weights(), number, measured
        if number == self.early:
            self.early_weights = self._weights()
        self.history.append(
            Epoch(
                number,
                self.settings.epochs,
                total_loss / seen,
                right / seen,
                measured,
                optimisation.rate(self.settings, first, self.batches),
                stage(self.settings, first + self.batches - 1, self.batches).epsilon,
                {name: value / seen for name, value in terms.items()},
                time.perf_counter() - started,
            )
        )

    def _step(self, x: Tensor, y: Tensor, step: int) -> tuple[float, int, dict[str, float]]:
        settings = self.settings
        if settings.flip or settings.crop:
            x = augment(x, self.generator, flip=settings.flip, crop=settings.crop)
        self.graph.train()
        batch = Batch(self.graph, x, y, settings, stage(settings, step, self.batches), self.generator)
        found = outcome(batch)
        terms = regularisers(batch)
        loss = total(batch, found, terms)
        if not torch.isfinite(loss):
            raise CheckFailed("training diverged: the loss is not finite (lower the learning rate)")
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimisation.apply(self.optimizer, settings, optimisation.rate(settings, step, self.batches))
        self._hold()
        return float(loss.detach()), int(found.right.sum()), {n: float(v.detach()) for n, v in terms.items()}

    def _accuracy(self, number: int) -> float:
        """The share of held-out images that are right in the objective's eyes at the full radius; nan without any."""
        x, y = self.validation
        if len(x) == 0:
            return float("nan")
        settings, right = self.settings, 0
        generator = torch.Generator().manual_seed(settings.seed + number)
        final = Stage(settings.epsilon, settings.kappa[1], settings.beta[1])
        for images, labels in zip(
            torch.split(x, _VALIDATION_BATCH), torch.split(y, _VALIDATION_BATCH), strict=True
        ):
            self.graph.eval()
            with torch.set_grad_enabled(settings.objective == "adversarial"):
                batch = Batch(self.graph, images, labels, settings, final, generator)
                right += int(outcome(batch).right.sum())
        return right / len(x)

    def saved(self) -> Saved:
        """All that the rest of the training depends on."""
        tensors = {
            "now": self._weights(),
            "best": self.best,
            "early": self.early_weights,
            "optimizer": of_optimizer(self.optimizer),
            "random": {"own": self.generator.get_state(), "torch": torch.get_rng_state()},
        }
        if self.graph.device.type == "cuda":
            tensors["random"]["cuda"] = torch.cuda.get_rng_state(self.graph.device)
        values: dict[str, object] = {
            "history": [epoch.to_dict() for epoch in self.history],
            "best_epoch": self.best_epoch,
            "best_accuracy": None if math.isnan(self.best_accuracy) else self.best_accuracy,
        }
        return Saved(tensors, values)

    def restore(self, saved: Saved) -> None:
        """Go on from there."""
        tensors, values = saved.tensors, saved.values
        with torch.no_grad():
            for name, tensor in tensors["now"].items():
                (self.graph.parameters | self.graph.statistics)[name].copy_(tensor)
        self.best, self.early_weights = tensors["best"], tensors.get("early", {})
        to_optimizer(self.optimizer, tensors.get("optimizer", {}))
        self.generator.set_state(tensors["random"]["own"])
        torch.set_rng_state(tensors["random"]["torch"])
        if self.graph.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random"]["cuda"], self.graph.device)
        history, best = values["history"], values["best_accuracy"]
        assert isinstance(history, list) and isinstance(values["best_epoch"], int)
        nan = float("nan")
        self.history = [
            Epoch(**{**one, "validation": nan if one["validation"] is None else one["validation"]})
            for one in history
        ]
        self.best_epoch = values["best_epoch"]
        self.best_accuracy = float(best) if isinstance(best, float | int) else nan

    def result(self, provenance: Mapping[str, object]) -> Training:
        """
        Raises:
            CheckFailed: the mask was not held, or a written model differs in onnxruntime.
        """
        early = self._written(self.early_weights, provenance, self.early) if self.early_weights else None
        return Training(
            self._written(self.best, provenance, None), tuple(self.history), self.best_epoch, early
        )

    def _written(
        self, weights: Mapping[str, Tensor], provenance: Mapping[str, object], epoch: int | None
    ) -> Model:
        values = {name: tensor.cpu().numpy() for name, tensor in weights.items()}
        for name, kept in self.keep.items():
            if values[name][~kept.cpu().numpy()].any():
                raise CheckFailed(
                    f"training moved weights of '{name}' that the mask removes", where=self.model.name
                )
        proto = self.graph.write_back(values).proto
        arguments = dict(provenance) | ({} if epoch is None else {"epoch": epoch})
        onnx_model.add_provenance(proto, "train", arguments, self.model.sha256)
        return onnx_model.from_proto(proto, self.model.name)

    def _weights(self) -> dict[str, Tensor]:
        return {name: torch.as_tensor(array) for name, array in self.graph.snapshot().items()}

    def _hold(self) -> None:
        with torch.no_grad():
            for name, kept in self.keep.items():
                self.graph.parameters[name].masked_fill_(~kept, 0.0)


def _provenance(data: Dataset, settings: Settings, mask: Mask | None) -> dict[str, object]:
    arguments: dict[str, object] = {
        **asdict(settings),
        "learning_rate": settings.initial_rate,
        "data_sha256": hashlib.sha256(data.images.tobytes() + data.labels.tobytes()).hexdigest(),
    }
    if mask is not None:
        arguments["mask_sha256"] = hashlib.sha256(to_bytes(mask)).hexdigest()
    plain: dict[str, object] = json.loads(json.dumps(arguments))  # tuples as lists, as they will be read
    return plain


def _is_small(model: Model) -> bool:
    return sum(array.size for array in onnx_model.initializers(model.proto).values()) <= _SMALL


def _masks(graph: TrainableGraph, mask: Mask | None, model: Model) -> dict[str, Tensor]:
    """The mask as tensors beside the weights that it covers."""
    keep: dict[str, Tensor] = {}
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
