"""What is known of a graph before its channels are followed: shapes, constants, and what is computed from shapes.

Shapes come from onnxruntime, which runs the graph on one sample of zeros with zeros for large weights, and asks
for the shape of every value instead of the value. What is *static* (computed from shapes and small
constants, such as the target of a Reshape) is asked for itself. Where the model leaves its batch open, a second
run with two samples tells which dimensions and which static values depend on it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from secateur.formats.errors import UnsupportedError
from secateur.formats.onnx_model import Model, in_parts
from secateur.pipeline import onnxgraph, onnxrt
from secateur.pipeline.onnxgraph import attribute
from secateur.pipeline.prune import views

Array = NDArray[np.generic]
Shape = tuple[int, ...]

_LARGE = 1024  # elements from which an initializer is no shape, and replaced by zeros when only shapes are asked for
_SHAPES = ("Shape", "Size")
_NO_TENSOR = ("Sequence", "Optional", "StringNormalizer")


@dataclass(frozen=True)
class Static:
    """A value computed from shapes, for one sample; `varies`: where it depends on the batch."""

    value: Array
    varies: NDArray[np.bool_]


class Network:
    """A model with the facts that rules ask for. The model is not changed; nor may it change meanwhile.

    `model` and `graph` may lack the values of large initializers: `array` gives them.

    Raises:
        UnsupportedError: onnxruntime cannot run the model.
    """

    def __init__(self, model: Model | onnx.ModelProto) -> None:
        self.model, self._weights = in_parts(model)
        self.graph = self.model.graph
        self.opset = next((o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self.inputs = {value.name for value in self.graph.input}
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        self.readers = onnxgraph.readers(self.graph)
        self.outputs = {value.name for value in self.graph.output}
        self._arrays: dict[str, Array] = {}
        self.constants = views.find(self.graph)
        self.static_names = self._find_static()
        self._zero: dict[tuple[str, int], NDArray[np.bool_]] = {}
        session, names = self._ready()
        first, values = self._observe(session, names, 1)
        self.shapes = first
        self.varying = {name: (False,) * len(shape) for name, shape in first.items()}
        self.static = {name: Static(v, np.zeros(v.shape, bool)) for name, v in values.items()}
        if self._open_batch():
            try:
                second, again = self._observe(session, names, 2)
            except UnsupportedError:  # it says so, but runs one sample only
                return
            for name, shape in first.items():
                other = second[name]
                if len(other) == len(shape):
                    self.varying[name] = tuple(a != b for a, b in zip(shape, other, strict=True))
            for name, v in values.items():
                same = again[name].shape == v.shape
                varies = v != again[name] if same else np.ones(v.shape, bool)
                self.static[name] = Static(v, np.asarray(varies))

    @cached_property
    def places(self) -> dict[str, int]:
        """For each value that a node makes, the node's place in the graph."""
        return {name: place for place, node in enumerate(self.graph.node) for name in node.output if name}

    @cached_property
    def uses(self) -> Counter[str]:
        return onnxgraph.uses(self.graph)

    @cached_property
    def foldable(self) -> set[str]:
        """Values that nodes compute from constants alone (other than as views of them)."""
        found: set[str] = set()
        for node in self.graph.node:
            fixed = all(name in self.constants or name in found for name in node.input if name)
            if fixed and node.output[0] not in self.constants and node.op_type not in onnxgraph.RANDOM:
                found.update(node.output if any(node.input) and not any(onnxgraph.subgraphs(node)) else ())
        return found

    def array(self, name: str) -> Array | None:
        """The value of a constant, or of a static value that does not depend on the batch; else None."""
        if name in self.constants:
            return self._array(name)
        static = self.static.get(name)
        return static.value if static is not None and not static.varies.any() else None

    def tensor(self, name: str) -> onnx.TensorProto:
        """An initializer with its values."""
        known = self.tensors[name]
        return numpy_helper.from_array(self._weights[name], name) if name in self._weights else known

    def shared(self, tensor: str) -> bool:
        """Whether an initializer has several readers, counting through its views (Identity, Transpose, …)."""
        return self.final_uses[tensor] > 1

    def zero(self, name: str, axis: int) -> NDArray[np.bool_]:
        """Which positions of the constant's axis hold zeros only; remembered, as large weights take a while."""
        key = (name, axis)
        if key not in self._zero:
            array = self._array(name)
            others = tuple(i for i in range(array.ndim) if i != axis)
            self._zero[key] = ~np.asarray(array.any(axis=others))
        return self._zero[key]

    def _array(self, name: str) -> Array:
        if name in self._arrays:
            return self._arrays[name]
        if name in self._weights:
            return self._weights[name]
        if name in self.tensors:
            array: Array = numpy_helper.to_array(self.tensors[name])
        else:
            array = self._viewed(self.graph.node[self.places[name]])
        if array.size <= _LARGE:
            self._arrays[name] = array
        return array

    def _viewed(self, node: onnx.NodeProto) -> Array:
        tensor = onnxgraph.constant_tensor(node)
        if tensor is not None:
            return np.asarray(numpy_helper.to_array(tensor))
        array = self._array(node.input[0])
        if node.op_type == "Transpose":
            return np.asarray(np.transpose(array, attribute(node, "perm", None)))
        if node.op_type == "Cast":
            kind: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(attribute(node, "to"))
            return array.astype(kind)
        if node.op_type == "Unsqueeze":
            sizes = iter(array.shape)
            rank = len(self.constants[node.output[0]].axes)
            added = attribute(node, "axes", None) or self._array(node.input[1]).tolist()
            marks = {axis % rank for axis in added}
            return array.reshape([1 if axis in marks else next(sizes) for axis in range(rank)])
        return array

    @cached_property
    def final_uses(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        views = {name for name, found in self.constants.items() if found.tensor not in (None, name)}
        for name, count in self.uses.items():
            constant = self.constants.get(name)
            if constant is not None and constant.tensor is not None:
                into_views = sum(node.output[0] in views for node, _ in self.readers.get(name, ()))
                counts[constant.tensor] += count - into_views
        return counts

    def _number(self, name: str) -> bool:
        """Whether a constant may take part in computing shapes: whole numbers, or a single real one."""
        if name not in self.constants:
            return False
        tensor = self.tensors.get(name)
        if tensor is not None and prod(tensor.dims) > _LARGE:
            return False
        array = self._array(name)
        return array.size <= _LARGE and (array.dtype.kind in "iub" or array.size == 1)

    def _find_static(self) -> set[str]:
        """Values computed from shapes (and whole numbers), by name."""
        static: set[str] = set()
        for node in self.graph.node:
            if node.op_type in onnxgraph.RANDOM or any(onnxgraph.subgraphs(node)):
                continue
            if any(mark in node.op_type for mark in _NO_TENSOR):
                continue
            if node.op_type == "ConstantOfShape" and filled(node).dtype.kind == "f":
                continue  # a value that others may be added to, not a shape
            inputs = [name for name in node.input if name]
            if node.op_type in _SHAPES or (
                inputs
                and node.output[0] not in self.constants
                and all(name in static or self._number(name) for name in inputs)
            ):
                static.update(name for name in node.output if name)
        return static

    def _open_batch(self) -> bool:
        dims = [list(v.type.tensor_type.shape.dim) for v in self.graph.input if v.name not in self.tensors]
        return any(d and not d[0].dim_value for d in dims)

    def _ready(self) -> tuple[ort.InferenceSession, dict[str, str]]:
        """A session that gives static values, and the shapes of all others; for each value, the output to ask for."""
        skeleton = self._skeleton()
        graph = skeleton.graph
        names: dict[str, str] = {}
        for node in self.graph.node:
            for name in node.output if not any(mark in node.op_type for mark in _NO_TENSOR) else ():
                if name in self.static_names:
                    names[name] = name
                elif name:
                    names[name] = f"shape of {name}"
                    graph.node.append(helper.make_node("Shape", [name], [names[name]]))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in names.values())
        return onnxrt.session(skeleton, frugal=True), names

    def _observe(
        self, session: ort.InferenceSession, names: dict[str, str], batch: int
    ) -> tuple[dict[str, Shape], dict[str, Array]]:
        """The shape of every value and the static values, for `batch` samples."""
        feeds = onnxrt.zeros(session, batch)
        results = onnxrt.answers(session, list(names.values()), feeds)
        found = dict(zip(names, results, strict=True))
        values = {name: value for name, value in found.items() if name in self.static_names}
        shapes = {name: value.shape for name, value in (feeds | values).items()}
        shapes |= {name: tuple(tensor.dims) for name, tensor in self.tensors.items()}
        shapes |= {name: tuple(value.tolist()) for name, value in found.items() if name not in values}
        return shapes, values

    def _skeleton(self) -> onnx.ModelProto:
        """The model with its large initializers as inputs, so that they cost no memory."""
        skeleton = onnx.ModelProto(ir_version=max(self.model.ir_version, 4))
        skeleton.opset_import.extend(self.model.opset_import)
        skeleton.functions.extend(self.model.functions)
        graph = skeleton.graph
        graph.name = self.graph.name
        graph.node.extend(self.graph.node)
        graph.input.extend(value for value in self.graph.input if value.name not in self.tensors)
        for name, tensor in self.tensors.items():
            if prod(tensor.dims) <= _LARGE or tensor.data_type not in _FEEDABLE:
                graph.initializer.append(tensor)
            else:
                graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        return skeleton


_FEEDABLE = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.INT64,
    TensorProto.INT32,
)


def filled(node: onnx.NodeProto) -> Array:
    """The number that a ConstantOfShape repeats."""
    fill = attribute(node, "value")
    return np.zeros(1, np.float32) if fill is None else np.asarray(numpy_helper.to_array(fill))
