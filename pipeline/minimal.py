"""A minimal part of a model that still shows a failure: delta debugging over its nodes.

First the model is cut behind, by bisection: what leads to one value. Then in front: what comes after others,
which become inputs of the sizes that they had, or constants of the values that they had. Then nodes are left
out in ever smaller runs down to single ones (Zeller and Hildebrandt 2002, "Simplifying and isolating
failure-inducing input", ddmin), until none of those left can go. Every part that is tried is a valid model,
with the weights that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference

from secateur.formats import onnx_parts
from secateur.formats.errors import CheckFailed
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxgraph, onnxrt

Failure = Callable[[onnx.ModelProto], bool]
"""Whether a model shows the failure."""


@dataclass(frozen=True)
class Minimal:
    """The smallest part found, its nodes' labels, how many models were tried, and whether the search was finished."""

    proto: onnx.ModelProto
    nodes: tuple[str, ...]
    trials: int
    finished: bool


class Stopped(Exception):
    """The search was asked to stop."""


def reduce(
    model: Model,
    fails: Failure,
    *,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda trials, nodes: None,
) -> Minimal:
    """The smallest part of `model` for which `fails` holds that leaving out nodes leads to: deterministic, as `fails`.

    `progress` is called after each trial with the number of trials and of nodes left; `stop` ends the search
    with what it has. The values recorded are those of the random input of `seed`.

    Raises:
        CheckFailed: the model does not show the failure.
    """
    search = _Search(_Parts(model, seed), fails, stop, progress)
    whole = list(range(len(model.graph.node)))
    if not fails(model.proto):
        raise CheckFailed("the model does not show the failure", where=model.name)
    finished = True
    try:
        search.behind(whole)
        search.in_front()
        search.single()
    except Stopped:
        finished = False
    proto = model.proto if search.best is None else search.best
    return Minimal(proto, tuple(onnxgraph.label(node) for node in proto.graph.node), search.trials, finished)


class _Parts:
    """Models made of some of a model's nodes."""

    def __init__(self, model: Model, seed: int) -> None:
        self.model = model.proto
        self.nodes = list(model.graph.node)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        x = onnxrt.sample_inputs(onnxrt.count_inputs(model), seed=seed, samples=1)[0]
        self._values = onnxrt.values(model, x)
        self._declared = _declared(model.proto, self._values)
        self.outputs = [value.name for value in model.graph.output]

    def build(self, chosen: Sequence[int], *, frozen: bool) -> onnx.ModelProto | None:
        """The model of the `chosen` nodes (in order); what they lack becomes inputs, of all but the first (that is no
        input of the model as it is) a constant, if `frozen`. None where a value's size is not known, or nothing
        is left that is computed from an input."""
        nodes = [self.nodes[i] for i in chosen]
        made = {name for node in nodes for name in node.output if name}
        read = list(
            dict.fromkeys(name for node in nodes for name in onnxgraph.reads(node) if name not in made)
        )
        lacking = [name for name in read if name not in self._tensors]
        used = {name for node in nodes for name in onnxgraph.reads(node)}
        results = [name for name in self.outputs if name in made]
        results += [
            name
            for node in nodes
            for name in node.output
            if name and name not in used and name not in results
        ]
        if not lacking or any(name not in self._declared for name in (*lacking, *results)):
            return None
        inputs = lacking[:1] if frozen else lacking
        part = onnx.ModelProto(ir_version=max(self.model.ir_version, 4), producer_name="secateur")
        part.opset_import.extend(self.model.opset_import)
        part.functions.extend(self.model.functions)
        part.graph.name = self.model.graph.name or "part"
        part.graph.node.extend(nodes)
        part.graph.input.extend(self._declared[name] for name in inputs)
        part.graph.output.extend(self._declared[name] for name in results)
        part.graph.initializer.extend(self._tensors[name] for name in read if name in self._tensors)
        for name in lacking[len(inputs) :]:
            if name not in self._values:
                return None
            part.graph.initializer.append(numpy_helper.from_array(self._values[name], name))
        return part

    def leading_to(self, last: int) -> list[int]:
        """The nodes that the value of node `last` is computed by, it included."""
        needed, chosen = {name for name in self.nodes[last].output if name}, []
        for i in range(last, -1, -1):
            if any(name in needed for name in self.nodes[i].output):
                chosen.append(i)
                needed.update(onnxgraph.reads(self.nodes[i]))
        return chosen[::-1]


class _Search:
    def __init__(
        self, parts: _Parts, fails: Failure, stop: Callable[[], bool], progress: Callable[[int, int], None]
    ) -> None:
        self._parts, self._fails, self._stop, self._progress = parts, fails, stop, progress
        self.best: onnx.ModelProto | None = None
        self.trials = 0
        self._chosen: list[int] = []
        self._tried: dict[tuple[int, ...], bool] = {}

    def behind(self, whole: list[int]) -> None:
        """The shortest prefix: what leads to one node's value."""
        self._chosen = whole
        low, high = -1, len(whole) - 1  # what leads to `high` fails, as far as is known
        while low + 1 < high:
            middle = (low + high) // 2
            if self._try(self._parts.leading_to(middle)):
                high = middle
            else:
                low = middle
        if len(self._chosen) == len(whole):
            self._try(self._parts.leading_to(high))

    def in_front(self) -> None:
        """The shortest suffix of what is left."""
        nodes = self._chosen
        low, high = 0, len(nodes)  # the suffix from `low` fails
        while low + 1 < high:
            middle = (low + high) // 2
            if self._try(nodes[middle:]):
                low = middle
            else:
                high = middle

    def single(self) -> None:
        """Leave out runs of nodes, then single ones, until none can go."""
        size = max(1, len(self._chosen) // 2)
        while True:
            before, start = len(self._chosen), 0
            while start < len(self._chosen):
                rest = self._chosen[:start] + self._chosen[start + size :]
                if not (rest and self._try(rest)):
                    start += size
            if size > 1:
                size //= 2
            elif len(self._chosen) == before:
                return

    def _try(self, chosen: list[int]) -> bool:
        """Whether these nodes alone show the failure; then they are what is left."""
        key = tuple(chosen)
        if key in self._tried:
            return self._tried[key]
        self._tried[key] = False
        for frozen in (False, True):
            part = self._parts.build(chosen, frozen=frozen)
            if part is None or not _is_valid(part):
                continue
            if self._stop():
                raise Stopped
            self.trials += 1
            failed = self._fails(part)
            if failed:
                self.best, self._chosen, self._tried[key] = part, chosen, True
            self._progress(self.trials, len(self._chosen))
            if failed or len(part.graph.input) == 1:  # frozen, it would be the same
                break
        return self._tried[key]


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx_parts.check(model)
    except Exception:
        return False
    return True


def _declared(
    model: onnx.ModelProto, values: dict[str, NDArray[np.generic]]
) -> dict[str, onnx.ValueInfoProto]:
    """How values are declared as inputs and outputs: as inferred, where all sizes but the batch's are known, else with
    the sizes that they had."""
    declared = {
        name: onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in values.items()
    }
    inferred = shape_inference.infer_shapes(onnx_parts.apart(model)[0], data_prop=True).graph
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        dims = list(value.type.tensor_type.shape.dim)
        if value.type.tensor_type.HasField("shape") and all(dim.dim_value > 0 for dim in dims[1:]):
            declared[value.name] = value
    return declared
