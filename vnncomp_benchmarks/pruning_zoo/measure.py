"""What pruning does to one file: validity, agreement, size, cost and time before and after."""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from secateur.formats import onnx_model
from secateur.formats.errors import SecateurError
from secateur.pipeline import flops, onnxrt
from secateur.pipeline.prune import LayerReport, Shrunk, prune, shrink

TOLERANCE = 1e-4
ALIVE = "none of them is dead"  # what `shrink` says of a layer that `prune` has spared
SECONDS = 0.3  # to time a network, at least
TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}


@dataclass
class Record:
    """One file pruned and shrunk. `refused` is the reason why it was not, `broken` what went wrong.

    Pairs are before and after; `milliseconds` are of one sample in onnxruntime on one thread; `difference` between
    masked and shrunk is the worst, relative to the largest output. `left_alone` counts, by reason, the layers
    that kept all their channels.
    """

    file: str
    model: str
    exporter: str
    opset: int | None
    style: str = ""
    parameters: tuple[int, int] | None = None
    multiply_adds: tuple[int, int] | None = None
    milliseconds: tuple[float, float] | None = None
    difference: float | None = None
    layers: int = 0
    left_alone: dict[str, int] = field(default_factory=dict)
    refused: str = ""
    broken: str = ""


def measure(record: Record, path: Path, sparsity: float, granularity: str = "channel") -> None:
    """Prune the model at `path` by magnitude, layer by layer, shrink it, and write down what came of it."""
    try:
        dense = onnx_model.read(str(path))
        pruned = prune(dense, "magnitude", sparsity=sparsity, granularity=granularity, scope="layer")
        small = shrink(onnx_model.from_proto(pruned.proto))
    except SecateurError as error:
        record.refused = error.message
        return
    except Exception as error:  # a defect: to be shown beside the others, not to end the table
        record.broken = f"{type(error).__name__}: {error}"
        return
    record.broken = _faults(small, whole=granularity == "channel")
    record.layers = len(small.layers)
    alone = [_reason(layer) for layer in small.layers if layer.before == layer.after]
    record.left_alone = dict(Counter(alone))
    record.parameters = (parameters(dense.proto), parameters(small.proto))
    record.multiply_adds = (flops.count(dense).multiply_adds, flops.count(small.proto).multiply_adds)
    if pruned.pruned and record.multiply_adds[1] >= record.multiply_adds[0]:
        record.broken = f"{pruned.pruned} {granularity}s are masked, nothing became smaller"
    before, masked, after = (onnxrt.session(proto) for proto in (dense.proto, pruned.proto, small.proto))
    record.difference = _difference(masked, after)
    if not record.difference <= TOLERANCE:
        record.broken = f"shrunk and masked differ by {record.difference:.1e}"
    record.milliseconds = _milliseconds(before, after)


def _faults(small: Shrunk, whole: bool) -> str:
    """Why the result is not valid, or, where all layers were pruned (`whole`), leaves one alone without a reason."""
    try:
        onnx.checker.check_model(small.proto, full_check=True)
    except Exception as error:
        return f"invalid: {next(iter(str(error).strip().splitlines()), type(error).__name__)}"
    if not whole:
        return ""
    spared = [layer for layer in small.layers if layer.before == layer.after]
    silent = [layer.name for layer in spared if _reason(layer) in ("", ALIVE)]
    return f"left alone without a reason: {', '.join(silent)}" if silent else ""


def _reason(layer: LayerReport) -> str:
    """Why a layer was left alone, without the names of nodes, so that reasons can be counted."""
    return re.sub(r" '[^']*'", "", layer.kept_because or "")


def parameters(proto: onnx.ModelProto) -> int:
    """Elements of floating-point tensors, of initializers and of Constant nodes alike."""
    tensors = [*proto.graph.initializer]
    tensors += [
        entry.t for node in proto.graph.node if node.op_type == "Constant" for entry in node.attribute
    ]
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    return sum(int(np.prod(tensor.dims)) for tensor in tensors if tensor.data_type in kinds)


def _difference(first: ort.InferenceSession, second: ort.InferenceSession) -> float:
    """The worst over 16 random inputs one by one, and over a batch of three where the batch is free."""
    generator = np.random.default_rng(1)
    worst = 0.0
    free = all(isinstance(value.shape[0], str) for value in first.get_inputs() if value.shape)
    for batch in [1] * 16 + [3] * free:
        feeds = _feeds(first, batch, generator)
        outputs = zip(first.run(None, feeds), second.run(None, feeds), strict=True)
        worst = max(worst, *(onnxrt.difference(a, b) for a, b in outputs))
    return worst


def _feeds(
    session: ort.InferenceSession, batch: int, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    feeds = {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        if shape and batch > 1:
            shape[0] = batch
        feeds[value.name] = generator.standard_normal(shape).astype(TYPES[value.type])
    return feeds


def _milliseconds(*sessions: ort.InferenceSession) -> tuple[float, ...]:
    """Medians of this thread's processor time, which other processes hardly touch; the sessions take turns."""
    feeds = [_feeds(session, 1, np.random.default_rng(1)) for session in sessions]
    taken: list[list[float]] = [[] for _ in sessions]
    for session, feed in zip(sessions, feeds, strict=True):
        session.run(None, feed)
    deadline = time.perf_counter() + SECONDS
    while time.perf_counter() < deadline or len(taken[0]) < 9:
        for session, feed, times in zip(sessions, feeds, taken, strict=True):
            started = time.thread_time()
            session.run(None, feed)
            times.append(1000 * (time.thread_time() - started))
    return tuple(statistics.median(times) for times in taken)
