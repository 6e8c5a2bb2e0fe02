"""Witnesses replayed: onnxruntime's outputs on the model as stored, the property evaluated exactly as written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline import onnxrt


@dataclass(frozen=True)
class Witness:
    """An input that satisfies the query, and the outputs that onnxruntime computes for it (both flat).

    The input is a point of the property (float64 numbers, float32 ones wherever the property has any); the network is
    fed its rounding to the type of its own input, as the competition's checker does.
    """

    x: NDArray[np.float64]
    y: NDArray[np.floating]


class Replay:
    """Replays candidate witnesses of one model; the onnxruntime session is opened once, when first needed."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._runner: onnxrt.Runner | None = None

    def outputs(self, x: NDArray[np.floating]) -> NDArray[np.floating]:
        """The outputs (n, n_out) at inputs (n, n_in)."""
        if self._runner is None:
            self._runner = onnxrt.Runner(self._model)
        return np.asarray(self._runner(x))

    def check(self, query: Query, x: NDArray[np.floating]) -> Witness | None:
        """The witness, when the flat input `x` satisfies `query`; None when it does not."""
        x = np.asarray(x, dtype=np.float64).reshape(-1)
        y = self.outputs(x[None])[0]
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return None
        return Witness(x, y) if query.holds(x.tolist(), y.tolist()) else None


def check_witness(model: Model, query: Query, x: NDArray[np.floating]) -> tuple[bool, NDArray[np.floating]]:
    """Whether `x` (flat) satisfies `query` on `model`, and the outputs (flat) that onnxruntime gives for it."""
    replay = Replay(model)
    y = replay.outputs(np.asarray(x).reshape(1, -1))[0]
    return replay.check(query, x) is not None, y
