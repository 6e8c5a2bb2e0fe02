"""A bench on which models are measured, all on the same images in the same way; one flat record each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from secateur.formats import onnx_model
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model
from secateur.pipeline import compute, onnxrt
from secateur.pipeline.measures import accuracy, attacks, proofs, size
from secateur.pipeline.measures.attacks import Flags, Strength, Transfer
from secateur.pipeline.measures.bounds import METHODS
from secateur.pipeline.measures.images import Floats, Images
from secateur.pipeline.train.evaluate import check_fit
from secateur.pipeline.verify.engine import Engine

GROUPS = {
    "accuracy": "standard accuracy, overall and a class",
    "calibration": "expected calibration error",
    "attacks": "accuracy under FGSM and PGD",
    "transfer": "accuracy on what PGD made on the dense net",
    "bounds": "unstable ratio, instability, widths; certified accuracy by IBP and CROWN",
    "alpha-crown": "the same, with certified accuracy by α-CROWN, too",
    "complete": "certified accuracy by complete verification, overall and a class; sub-domains, seconds, memory",
    "size": "parameters, floating-point operations",
    "speed": "milliseconds an image in onnxruntime",
}
"""What can be measured, by groups."""

SCHEMA = 2
"""Part of every fingerprint: raised when the meaning of a measure changes."""

Step = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How models are measured. `timeout`: seconds of complete verification an image; `attacked`: so many of the first
    images are attacked (None: all); `seed`: of the attacks and of the search."""

    groups: tuple[str, ...] = tuple(GROUPS)
    timeout: float = 60.0
    attacked: int | None = None
    strength: Strength = field(default_factory=Strength)
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for group in self.groups:
            if group not in GROUPS:
                raise InputError(f"unknown measure '{group}': expected one of {', '.join(GROUPS)}")
        if self.attacked is not None and self.attacked < 1:
            raise InputError(f"{self.attacked} attacked images: expected 1 or more")


class Bench:
    """Measures models on `images` (see `images.choose`); what models share is made once."""

    def __init__(self, images: Images, settings: Settings | None = None) -> None:
        self.images = images
        self.settings = settings or Settings()
        attacked = self.settings.attacked or len(images.data)
        self._attacked = min(attacked, len(images.data))
        self._transfer: Transfer | None = None

    @property
    def steps(self) -> int:
        """How often `measure` calls its `step`."""
        groups = set(self.settings.groups)
        by_image = bool({"bounds", "alpha-crown"} & groups) + ("complete" in groups)
        return len(groups - {"bounds", "alpha-crown", "complete"}) + len(self.images.chosen) * by_image

    def fingerprint(self, model: Model, dense: Model | None = None) -> str:
        """A hash of all that a record depends on: the model, the images, the settings, and the dense model where
        attacks are transferred."""
        parts = asdict(self.settings) | {"groups": self._groups(dense), "device": ""}
        source = dense.sha256 if dense is not None and "transfer" in self._groups(dense) else ""
        text = json.dumps(
            [SCHEMA, onnx_model.tool_version(), model.sha256, self.images.sha256, parts, source]
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def measure(
        self, model: Model, *, dense: Model | None = None, step: Step = lambda status: None
    ) -> dict[str, Any]:
        """The model's record: columns as in `formats.measurements`, but for most of its `PLACE`, which callers know.

        `dense` is the model on which attacks to transfer are made; without one there are none. `step` is told after
        each image that is bounded or verified, and after each other group.

        Raises:
            InputError: images or classes do not fit the network.
            UnsupportedError: an operator that the verifier does not support, where it is needed.
            CheckFailed: a proof and a counterexample of the same property: a defect.
        """
        compute.configure(self.settings.device)
        check_fit(model, self.images.data)
        return _Measuring(self, model, dense, self._groups(dense), step).record()

    def transfer(self, dense: Model) -> Transfer:
        """What PGD makes of the images on `dense`; that of the last one asked for is kept."""
        if self._transfer is None or self._transfer.model_sha256 != dense.sha256:
            check_fit(dense, self.images.data)
            s = self.settings
            self._transfer = attacks.transfer(
                dense, self.images, self._attacked, s.strength, s.seed, s.device
            )
        return self._transfer

    @property
    def attacked(self) -> int:
        """How many images are attacked, the first ones."""
        return self._attacked

    def _groups(self, dense: Model | None) -> tuple[str, ...]:
        """The groups in the table's order."""
        wanted: Collection[str] = self.settings.groups
        return tuple(
            group for group in GROUPS if group in wanted and (group != "transfer" or dense is not None)
        )


class _Measuring:
    """One model on the bench."""

    def __init__(
        self, bench: Bench, model: Model, dense: Model | None, groups: tuple[str, ...], step: Step
    ) -> None:
        self.bench, self.model, self.dense, self.groups, self.step = bench, model, dense, groups, step
        self.images, self.settings = bench.images, bench.settings
        self.labels = self.images.data.labels
        self.outputs = np.asarray(onnxrt.run(model, self.images.inputs.images), np.float64)
        self.right: Flags = self.outputs.argmax(axis=1) == self.labels
        self.classes = max(self.images.data.classes, self.outputs.shape[1])
        self.margins = np.full(len(self.labels), np.inf)  # the least that attacks have left, in onnxruntime
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            device = self.settings.device
            self._engine = Engine(self.model, device, compute.memory(device))
        return self._engine

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "fingerprint": self.bench.fingerprint(self.model, self.dense),
            "model": self.model.name,
            "model_sha256": self.model.sha256,
            "data": self.images.data.name,
            "epsilon": float(self.images.epsilon),
        }
        whole: dict[str, Callable[[], dict[str, Any]]] = {
            "accuracy": self.accuracy,
            "calibration": self.calibration,
            "attacks": self.attacks,
            "transfer": self.transfer,
            "size": lambda: dict(size.sizes(self.model)),
            "speed": lambda: {"milliseconds": size.milliseconds(self.model)},
        }
        for group, measured in whole.items():
            if group in self.groups:
                found |= measured()
                self.step(f"{group} of {self.model.name}")
        if {"bounds", "alpha-crown", "complete"} & set(self.groups):
            found |= self.certified()
        return found

    def certified(self) -> dict[str, Any]:
        chosen = list(self.images.chosen)
        found = proofs.certify(
            self.engine,
            self.images.queries(self.model),
            self.right[chosen],
            methods=self.methods,
            completely="complete" in self.groups,
            timeout=self.settings.timeout,
            seed=self.settings.seed,
            step=self.step,
        )
        names = [query.name for query in self.images.queries(self.model)]
        settled = proofs.check(found["image_proof"], self.margins[chosen], names, self.model.name)
        found |= proofs.rungs(settled, self.methods)
        if "complete" in self.groups:
            found |= proofs.spread(settled, self.labels[chosen], self.classes)
        return found | {"image_index": chosen, "image_proof": settled}

    @property
    def methods(self) -> tuple[str, ...]:
        """By which bounds certified accuracy is measured."""
        if "alpha-crown" in self.groups:
            return METHODS
        return METHODS[:-1] if "bounds" in self.groups else ()

    def accuracy(self) -> dict[str, Any]:
        shares = accuracy.per_class(self.right, self.labels, self.classes)
        return {
            "accuracy": float(self.right.mean()),
            "accuracy_images": len(self.right),
            "class_accuracy": shares,
            **{f"class_accuracy_{name}": value for name, value in accuracy.spread(shares).items()},
        }

    def calibration(self) -> dict[str, Any]:
        last = next(node for node in self.model.graph.node if self.model.graph.output[0].name in node.output)
        shares = accuracy.probabilities(self.outputs, ends_in_softmax=last.op_type == "Softmax")
        return {"calibration_error": accuracy.calibration_error(shares, self.labels)}

    def attacks(self) -> dict[str, Any]:
        """Each attack is asked only where the one before has left the network right."""
        right = self.right[: self.bench.attacked]
        points = attacks.fgsm(self.engine, self.images, right)
        withstood = right & self._right(points)
        points = attacks.pgd(self.engine, self.images, right, self.settings.strength, self.settings.seed)
        return {
            "attacked_images": len(right),
            "fgsm_accuracy": float(withstood.mean()),
            "pgd_accuracy": float((right & self._right(points)).mean()),
        }

    def transfer(self) -> dict[str, Any]:
        assert self.dense is not None
        made = self.bench.transfer(self.dense)
        right = self.right[: len(made.points)]
        withstood = right & self._right(made.points)
        tried = right & made.fooled
        success = float((tried & ~withstood).sum() / tried.sum()) if tried.any() else None
        return {
            "attacked_images": len(right),
            "transfer_accuracy": float(withstood.mean()),
            "transfer_success": success,
        }

    def _right(self, points: Floats) -> Flags:
        """Of the first n images, which points in their place [n, inputs] are classified right; `margins` take note."""
        outputs, labels = attacks.outputs(self.model, points), self.labels[: len(points)]
        rows = np.arange(len(points))
        own = outputs[rows, labels].copy()
        scale = np.maximum(1.0, np.abs(outputs).max(axis=1))
        outputs[rows, labels] = -np.inf
        margins = (own - outputs.max(axis=1)) / scale
        self.margins[: len(points)] = np.minimum(self.margins[: len(points)], margins)
        return np.asarray(margins > 0)
