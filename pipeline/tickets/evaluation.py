"""What is measured of each network."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.formats.dataset import Dataset
from secateur.formats.onnx_model import Model


@dataclass(frozen=True)
class Evaluation:
    images: int = 100
    timeout: float = 5.0


def measure(model: Model, data: Dataset, how: Evaluation, epsilon: float) -> dict[str, object]:
    from secateur.pipeline.train.evaluate import evaluate

    return {"accuracy": evaluate(model, data).accuracy}
