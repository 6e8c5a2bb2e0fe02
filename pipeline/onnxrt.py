"""Running ONNX models in onnxruntime: the judge of every rewrite and of every witness.

A network is seen as a function of flat vectors: row i of `x` holds one whole input (all graph inputs in
order, each flattened, as VNN-LIB 1.0 numbers them), row i of the result one whole output likewise. A symbolic
dimension counts as 1.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from math import prod

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from secateur.formats import onnx_parts
from secateur.formats.errors import CheckFailed, InputError, UnsupportedError
from secateur.formats.onnx_model import Model, in_parts

Array = NDArray[np.generic]
Function = Callable[[Array], Array]

_CHUNK = 256  # samples a call, and
_CHUNK_ELEMENTS = 2**18  # input elements a call: they bound the memory of activations
_REBATCH_FROM = 8  # samples from which a second session with a free batch dimension pays
BATCH_TOLERANCE = (
    1e-3  # kernels differ between batch sizes by rounding; a wrong re-batching differs by far more
)
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


def session(
    model: Model | onnx.ModelProto, *, threads: int = 1, frugal: bool = False
) -> ort.InferenceSession:
    """A quiet CPU session with `threads` threads; a `frugal` one lets go of a value's memory after its last reader
    (and asks for shapes as soon as they are known), where an ordinary one keeps it for the next run.

    Raises:
        UnsupportedError: onnxruntime does not load the model (unknown operator or opset, clashing shapes).
    """
    proto, name = (model.proto, model.name) if isinstance(model, Model) else (model, None)
    return _session(proto, threads, frugal, name)


def _session(
    proto: onnx.ModelProto, threads: int, frugal: bool, name: str | None = None
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if frugal:
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UnsupportedError(f"onnxruntime does not load it: {_reason(error)}", where=name) from None


def input_shape(model: Model | onnx.ModelProto) -> tuple[int, ...]:
    """The shape of the only graph input, batch dimension included, symbolic dimensions as 1.

    Raises:
        UnsupportedError: not exactly one graph input.
    """
    inputs = _graph_inputs(model)
    if len(inputs) != 1:
        raise UnsupportedError(
            f"expected a network with 1 input, found {len(inputs)}: {', '.join(v.name for v in inputs)}",
            where=model.name if isinstance(model, Model) else None,
        )
    return _shape(inputs[0])


def count_inputs(model: Model | onnx.ModelProto) -> int:
    """Elements of all graph inputs together (one sample)."""
    return sum(prod(_shape(value)) for value in _graph_inputs(model))


def count_outputs(model: Model | onnx.ModelProto) -> int:
    """Elements of all graph outputs together (one sample), found by running zeros when not declared."""
    graph = in_parts(model)[0].graph
    if all(value.type.tensor_type.HasField("shape") for value in graph.output) and not any(
        _symbolic(dim) for value in graph.output for dim in list(value.type.tensor_type.shape.dim)[1:]
    ):
        return sum(prod(_shape(value)) for value in graph.output)
    return int(run(model, np.zeros((1, count_inputs(model)), np.float32)).shape[1])


class _Loaded:
    """A session of a model, and the weights to feed it: onnxruntime copies initializers, inputs it doesn't."""

    def __init__(self, session: ort.InferenceSession, weights: Mapping[str, Array]) -> None:
        self._session = session
        self._weights = weights
        self.inputs = [value for value in session.get_inputs() if value.name not in weights]
        self._outputs = [value.name for value in session.get_outputs()]

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """All outputs; UnsupportedError where onnxruntime fails."""
        return answers(self._session, self._outputs, {**feeds, **self._weights})


class Runner:
    """A model ready to be run many times: `runner(x)`, x [N, inputs] (or [N, ...shape]) -> [N, outputs].

    Several samples are run in one batch (with a batch dimension fixed to 1 freed) when that gives
    the same values on the first samples, otherwise one by one. A `frugal` runner feeds large models their weights
    instead of letting onnxruntime copy (and prepare) them, which rounds a little differently.
    """

    def __init__(
        self, model: Model | onnx.ModelProto | ort.InferenceSession, *, threads: int = 1, frugal: bool = False
    ) -> None:
        self._threads = threads
        self._proto: onnx.ModelProto | None = None
        self._weights: Mapping[str, Array] = {}
        if isinstance(model, ort.InferenceSession):
            ready = model
        else:
            name = model.name if isinstance(model, Model) else None
            if frugal:
                self._proto, weights = onnx_parts.apart(*in_parts(model))
                self._weights = dict(weights)
            else:
                self._proto = model.proto if isinstance(model, Model) else model
            ready = _session(self._proto, threads, bool(self._weights), name)
        self._single = _Loaded(ready, self._weights)
        self._inputs = self._single.inputs
        self._shapes = [_ort_shape(value.shape) for value in self._inputs]
        self._batched: _Loaded | None = None
        self._tried = any(len(shape) < 2 or shape[0] != 1 for shape in self._shapes)

    @property
    def inputs(self) -> int:
        return sum(prod(shape) for shape in self._shapes)

    def __call__(self, x: Array) -> Array:
        """Outputs [N, outputs] for inputs `x` ([N, inputs], or [N, ...] with as many elements a row).

        Raises:
            InputError: the rows do not have as many elements as the network has inputs.
            UnsupportedError: onnxruntime fails while running.
        """
        x = np.asarray(x)
        count = len(x) if x.ndim else 0
        if count and x.size != count * self.inputs:
            found = f"{x.size / count:g} in an array of shape {x.shape}"
            raise InputError(f"expected {self.inputs} input values a sample, found {found}")
        if count == 0:
            return self._run(self._single, np.zeros((1, self.inputs), np.float32))[:0]
        rows = x.reshape(count, self.inputs)
        step = max(1, min(_CHUNK, _CHUNK_ELEMENTS // max(1, self.inputs)))
        if min(count, step) > 1 and not self._tried:
            self._try_batch(rows)
        if self._batched is None:
            return np.concatenate([self._run(self._single, row[None]) for row in rows])
        return np.concatenate([self._run(self._batched, rows[i : i + step]) for i in range(0, count, step)])

    def together(self, rows: Array) -> Array:
        """All rows [N, inputs] in one call, whatever the batch is declared to be."""
        return self._run(self._single, rows)

    def _run(self, ready: _Loaded, rows: Array) -> Array:
        count, start = len(rows), 0
        feeds: dict[str, Array] = {}
        for value, shape in zip(self._inputs, self._shapes, strict=True):
            dtype = _TYPES.get(value.type)
            if dtype is None:
                raise UnsupportedError(f"input '{value.name}' is a {value.type}: expected numbers")
            part = rows[:, start : start + prod(shape)]
            feeds[value.name] = np.ascontiguousarray(part, dtype).reshape(
                shape if count == 1 else (count, *shape[1:])
            )
            start += prod(shape)
        outputs = ready.run(feeds)
        if any(np.size(output) % count for output in outputs):
            raise UnsupportedError("the outputs do not divide into one row a sample")
        return np.concatenate([np.asarray(output).reshape(count, -1) for output in outputs], axis=1)

    def _try_batch(self, rows: Array) -> None:
        """Find a session that runs several samples at once; keep it when it agrees with one by one."""
        free = all(not _is_fixed(value.shape[0]) for value in self._inputs)
        if not free and (self._proto is None or len(rows) < _REBATCH_FROM):
            return
        self._tried = True
        probe = rows[:3]
        singles = np.concatenate([self._run(self._single, row[None]) for row in probe])
        try:
            candidate = self._single
            if not free and self._proto is not None:
                freed = free_batch(self._proto, but=self._weights)
                candidate = _Loaded(_session(freed, self._threads, bool(self._weights)), self._weights)
            together = self._run(candidate, probe)
        except UnsupportedError:
            return
        if together.shape == singles.shape and difference(singles, together) <= BATCH_TOLERANCE:
            self._batched = candidate


def run(model: Model | onnx.ModelProto | ort.InferenceSession, x: Array) -> Array:
    """Outputs [N, outputs] of `model` on `x` [N, inputs] or [N, ...]; see `Runner`."""
    return Runner(model)(x)


def run_together(model: Model | onnx.ModelProto, x: Array) -> Array:
    """As `run`, but all samples in one call, with no fall-back: UnsupportedError where that fails."""
    runner = Runner(model)
    return runner.together(np.asarray(x).reshape(len(x), runner.inputs))


def free_batch(proto: onnx.ModelProto, symbol: str = "batch", but: Container[str] = ()) -> onnx.ModelProto:
    """A copy whose inputs (`but` for some) and outputs lead with the dimension `symbol`; inferred shapes are dropped.

    Whether the graph inside allows other batch sizes is for the caller to try.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.value_info[:]
    for value in [*_graph_inputs(copy), *copy.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and value.name not in but:
            dims[0].dim_param = symbol
    return copy


def value_shapes(model: Model | onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that nodes compute for one sample of zeros, by running it."""
    found = values(model, np.zeros(count_inputs(model), np.float32))
    return {name: value.shape for name, value in found.items()}


def values(model: Model | onnx.ModelProto, x: Array) -> dict[str, Array]:
    """Every tensor that nodes compute for the sample `x` [inputs], and the inputs that it is made of, by name."""
    rest, weights = onnx_parts.apart(*in_parts(model))
    copy = onnx.ModelProto()
    copy.CopyFrom(rest)
    known = {value.name for value in copy.graph.output}
    inner = [name for node in copy.graph.node for name in node.output if name and name not in known]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    ready = session(copy, frugal=True)
    feeds, first = zeros(ready, but=weights), 0
    for name, empty in feeds.items():
        feeds[name] = x[first : first + empty.size].reshape(empty.shape).astype(empty.dtype)
        first += empty.size
    names = [value.name for value in ready.get_outputs()]
    return {**feeds, **dict(zip(names, answers(ready, names, {**feeds, **weights}), strict=True))}


def zeros(ready: ort.InferenceSession, batch: int = 1, but: Container[str] = ()) -> dict[str, Array]:
    """An input of zeros, without the inputs named in `but`: `batch` where the leading dimension (or one of the same
    name) is symbolic, else 1. They share one memory: not to be written to."""
    values = [value for value in ready.get_inputs() if value.name not in but]
    names = {value.shape[0] for value in values if value.shape and not _is_fixed(value.shape[0])}
    shapes = [
        tuple(
            dim if _is_fixed(dim) else batch if axis == 0 or (dim and dim in names) else 1
            for axis, dim in enumerate(value.shape)
        )
        for value in values
    ]
    types = [np.dtype(_TYPES.get(value.type, np.float32)) for value in values]
    sizes = [prod(shape) * kind.itemsize for shape, kind in zip(shapes, types, strict=True)]
    memory = np.zeros(max(sizes, default=0), np.uint8)
    return {
        value.name: memory[:size].view(kind).reshape(shape)
        for value, shape, kind, size in zip(values, shapes, types, sizes, strict=True)
    }


def answers(ready: ort.InferenceSession, names: list[str], feeds: dict[str, Array]) -> list[Array]:
    """The named outputs for `feeds`; UnsupportedError where onnxruntime fails while running."""
    try:
        return [np.asarray(value) for value in ready.run(names, feeds)]
    except Exception as error:
        raise UnsupportedError(f"onnxruntime cannot run it: {_reason(error)}") from None


def sample_inputs(inputs: int, *, seed: int, samples: int) -> NDArray[np.float32]:
    """Random inputs [samples, inputs]: half uniform on [0, 1] (pixels), half standard normal (the rest)."""
    generator = np.random.default_rng(seed)
    half = samples // 2
    uniform = generator.random((samples - half, inputs), np.float32)
    normal = generator.standard_normal((half, inputs), np.float32)
    return np.concatenate([uniform, normal])


def enough(model: Model | onnx.ModelProto) -> int:
    """How many inputs a comparison takes by itself: 64, or fewer large ones: 2¹⁸ elements' worth, but at least 8."""
    return min(64, max(8, _CHUNK_ELEMENTS // max(1, count_inputs(model))))


def compare(
    a: Model | onnx.ModelProto | Function,
    b: Model | onnx.ModelProto | Function,
    *,
    seed: int = 0,
    samples: int | None = None,
    tolerance: float = 1e-4,
    real_inputs: Array | None = None,
    frugal: bool = True,
) -> float:
    """Worst |a(x) − b(x)| / max(1, max |a(x)|) over random inputs (and `real_inputs` [N, ...], when given).

    Left to itself it draws as many as are `enough`. One side runs after the other, `frugal` as in `Runner`.

    Either side may be a model or a function [N, inputs] -> [N, outputs]; one must be a model.

    Raises:
        CheckFailed: the difference exceeds `tolerance`, or shapes or non-finite outputs differ.
        InputError: `real_inputs` have another number of elements.
    """
    models = [side for side in (a, b) if not callable(side)]
    inputs = count_inputs(models[0])
    if samples is None:
        samples = enough(models[0])
    x: Array = sample_inputs(inputs, seed=seed, samples=samples)
    if real_inputs is not None:
        real = np.asarray(real_inputs, np.float32).reshape(len(real_inputs), -1)
        if real.shape[1] != inputs:
            raise InputError(f"the data's samples have {real.shape[1]} elements, the network {inputs} inputs")
        x = np.concatenate([x, real])
    first, second = (side(x) if callable(side) else Runner(side, frugal=frugal)(x) for side in (a, b))
    if first.shape != second.shape:
        raise CheckFailed(f"the rewritten model has {second.shape[1]} outputs, the original {first.shape[1]}")
    worst = difference(first, second)
    if not worst <= tolerance:
        raise CheckFailed(
            f"the rewritten model differs from the original by {worst:.3g} (relative to the largest output; "
            f"tolerance {tolerance:g}) on {len(x)} inputs in onnxruntime"
        )
    return worst


def difference(a: Array, b: Array) -> float:
    """Worst |a − b| / max(1, max |a|); infinite where shapes or non-finite values differ."""
    if a.shape != b.shape:
        return float("inf")
    first, second = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(first)
    if not np.array_equal(finite, np.isfinite(second)) or not np.array_equal(
        first[~finite], second[~finite], equal_nan=True
    ):
        return float("inf")
    scale = max(1.0, float(np.abs(first[finite]).max(initial=0.0)))
    return float(np.abs(first[finite] - second[finite]).max(initial=0.0)) / scale


def _graph_inputs(model: Model | onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    graph = in_parts(model)[0].graph
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def _symbolic(dim: onnx.TensorShapeProto.Dimension) -> bool:
    return bool(dim.WhichOneof("value") != "dim_value" or dim.dim_value <= 0)


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(1 if _symbolic(dim) else dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _is_fixed(dim: object) -> bool:
    return isinstance(dim, int) and dim > 0


def _ort_shape(shape: list[object]) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) and dim > 0 else 1 for dim in shape)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
