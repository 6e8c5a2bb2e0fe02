"""The judge of conversions: what a network gives on samples in onnxruntime, before and after each pass."""

from __future__ import annotations

import numpy as np
import onnx

from secateur.formats.errors import CheckFailed, SecateurError
from secateur.pipeline import onnxrt
from secateur.pipeline.convert.passes.table import Pass
from secateur.pipeline.onnxrt import Array, Function

_ELEMENTS = 2**18  # of inputs, in all samples together


class Judge:
    """Holds a model's outputs on random inputs, and compares with them those of each model that comes of it.

    There are 64 inputs, fewer of large ones, and `examples` [N, ...], when given. A difference is relative to the
    largest output, `tolerance` the largest that passes for rounding.

    Raises:
        UnsupportedError: onnxruntime cannot run the model.
    """

    def __init__(
        self, model: onnx.ModelProto, seed: int, tolerance: float, examples: Array | None = None
    ) -> None:
        self._inputs = onnxrt.count_inputs(model)
        samples = min(64, max(8, _ELEMENTS // max(1, self._inputs)))
        self._x: Array = onnxrt.sample_inputs(self._inputs, seed=seed, samples=samples)
        if examples is not None:
            self._x = np.concatenate([self._x, np.asarray(examples, np.float32).reshape(len(examples), -1)])
        self._tolerance = self._loosest = tolerance
        self._model = model
        self._first = self._last = self._run(model)

    def export(self, function: Function) -> None:
        """Hold the model against what it was exported from.

        Raises:
            CheckFailed: they differ.
        """
        self._first = function(self._x)
        self._compare(self._first, self._last, self._tolerance, "the exporter: the model")

    def step(self, model: onnx.ModelProto, step: Pass) -> float:
        """How far `model`, which the pass `step` made of the last one, differs from it.

        Raises:
            CheckFailed: by more than rounding, or than the pass may; names the pass.
        """
        if step.name == "outputs":
            self._leave_out({value.name for value in model.graph.output})
        tolerance = max(self._tolerance, step.tolerance or 0.0)
        self._loosest = max(self._loosest, tolerance)
        before = self._last
        try:
            self._last = self._run(model)
        except SecateurError as error:
            raise CheckFailed(f"the pass '{step.written}' breaks the model: {error.message}") from None
        self._model = model
        return self._compare(before, self._last, tolerance, f"the pass '{step.written}': the rewritten model")

    def whole(self) -> float:
        """How far the last model differs from the first.

        Raises:
            CheckFailed: by more than rounding.
        """
        return self._compare(
            self._first, self._last, self._loosest, "all passes together: the rewritten model"
        )

    def _run(self, model: onnx.ModelProto) -> Array:
        """Outputs, a row a sample; of a model with a batch of N, which takes N samples at once, row by row."""
        batch = onnxrt.count_inputs(model) // self._inputs
        rows = -(-len(self._x) // batch)
        together = np.resize(self._x, (rows, batch * self._inputs))  # samples again fill the last row
        return onnxrt.Runner(model, frugal=True)(together).reshape(rows * batch, -1)[: len(self._x)]

    def _leave_out(self, kept: set[str]) -> None:
        """Forget what the last model gave for outputs that are not `kept`."""
        columns: list[int] = []
        first = 0
        for value in self._model.graph.output:
            alone = onnx.ModelProto()
            alone.CopyFrom(self._model)
            del alone.graph.output[:]
            alone.graph.output.append(value)
            size = onnxrt.count_outputs(alone)
            columns += range(first, first + size) if value.name in kept else ()
            first += size
        self._first, self._last = self._first[:, columns], self._last[:, columns]

    def _compare(self, before: Array, after: Array, tolerance: float, who: str) -> float:
        if before.shape[1] != after.shape[1]:
            raise CheckFailed(f"{who} has {after.shape[1]} outputs, the original {before.shape[1]}")
        worst = onnxrt.difference(before, after)
        if not worst <= tolerance:
            raise CheckFailed(
                f"{who} differs from the original by {worst:.3g} (relative to the largest output; "
                f"tolerance {tolerance:g}) on {len(after)} inputs in onnxruntime"
            )
        return worst
