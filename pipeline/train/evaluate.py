"""How often a model is right, measured in onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.formats.dataset import Dataset
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt


@dataclass(frozen=True)
class Evaluation:
    """`confusion[i, j]` counts the images of class i that were given class j."""

    confusion: NDArray[np.int64]

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        return int(np.trace(self.confusion))

    @property
    def accuracy(self) -> float:
        return self.correct / self.images

    @property
    def per_class(self) -> list[float | None]:
        """The share of each class's images that were given that class; None for a class without images."""
        totals = self.confusion.sum(axis=1)
        return [
            int(self.confusion[label, label]) / int(total) if total else None
            for label, total in enumerate(totals)
        ]

    def to_dict(self) -> dict[str, object]:
        return {
            "accuracy": self.accuracy,
            "correct": self.correct,
            "images": self.images,
            "per_class": self.per_class,
            "confusion": self.confusion.tolist(),
        }


def evaluate(model: Model, data: Dataset) -> Evaluation:
    """Count, over all images of `data`, what class `model` gives them.

    Raises:
        InputError: the images or the classes do not fit the network.
    """
    given = predictions(model, data)
    size = max(data.classes, int(given.max(initial=0)) + 1)
    confusion = np.zeros((size, size), np.int64)
    np.add.at(confusion, (data.labels, given), 1)
    return Evaluation(confusion)


def predictions(model: Model, data: Dataset) -> NDArray[np.int64]:
    """The class [n] that `model` gives each image: its largest output, the first of equals."""
    check_fit(model, data)
    outputs = onnxrt.run(model, data.images)
    return np.asarray(outputs.argmax(axis=1), dtype=np.int64)


def check_fit(model: Model, data: Dataset) -> None:
    """
    Raises:
        InputError: no images, images of another size than the network's input, or more classes than outputs.
    """
    if len(data.images) == 0:
        raise InputError("no images", where=data.name)
    inputs, found = onnxrt.count_inputs(model), int(np.prod(data.images.shape[1:]))
    if inputs != found:
        size = "×".join(str(size) for size in data.images.shape[1:])
        raise InputError(
            f"the network has {inputs} inputs, the images of {data.name} have {found} values ({size})",
            where=model.name,
        )
    outputs = onnxrt.count_outputs(model)
    if outputs < data.classes:
        raise InputError(
            f"the network has {outputs} outputs, {data.name} has {data.classes} classes", where=model.name
        )
