"""Making a pruned graph smaller: channels that are dead, unread or constant are removed for real."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from secateur.formats import onnx_model
from secateur.formats.onnx_model import Model, in_parts
from secateur.pipeline import onnxgraph, onnxrt
from secateur.pipeline.convert.passes import constants, dead, inputs
from secateur.pipeline.prune import layers, views
from secateur.pipeline.prune.blocks import regroup
from secateur.pipeline.prune.channels import folding
from secateur.pipeline.prune.channels.edit import Edit
from secateur.pipeline.prune.channels.follow import Flow, follow
from secateur.pipeline.prune.channels.groups import gather
from secateur.pipeline.prune.channels.network import Network
from secateur.pipeline.prune.channels.rules import RULES

TOLERANCE = 1e-4
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_ALIVE = "none of them is dead"


@dataclass(frozen=True)
class LayerReport:
    """A layer's output channels before and after, and why none could be removed (None: they could)."""

    name: str
    weight: str
    before: int
    after: int
    kept_because: str | None

    def summary(self) -> str:
        """One line for people."""
        reason = f" (left alone: {self.kept_because})" if self.kept_because else ""
        return f"{self.name}: {self.before} -> {self.after} channels{reason}"


@dataclass(frozen=True)
class Shrunk:
    """The smaller model, what went layer by layer, elements of float initializers before (constants cleaned)
    and after, and the worst difference in onnxruntime (relative to the largest output)."""

    proto: onnx.ModelProto
    layers: tuple[LayerReport, ...]
    parameters_before: int
    parameters_after: int
    difference: float

    def summary(self) -> str:
        """One line for people."""
        gone = sum(layer.before - layer.after for layer in self.layers)
        return (
            f"removed {gone:,} channels: {self.parameters_before:,} -> {self.parameters_after:,} parameters; "
            f"worst difference {self.difference:.1e}"
        )

    def to_dict(self) -> dict[str, object]:
        return {
            "parameters_before": self.parameters_before,
            "parameters_after": self.parameters_after,
            "difference": self.difference,
            "layers": [vars(layer) for layer in self.layers],
        }


def shrink(
    model: Model,
    *,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    real_inputs: NDArray[np.float32] | None = None,
) -> Shrunk:
    """Remove the channels that the rest of the network can do without.

    Channels that must go together (see `channels`; in attention, features of all heads or whole heads) go when nobody
    reads them (all their weights in the layers that read them are zero), when they are exactly zero where they are
    read, or when they are another constant that can be added to the bias of every layer that reads it (Gemm, MatMul
    followed by a bias, unpadded Conv). An Add, Sub or Mul of a computed constant takes the constant alone, and
    disappears where that is zero, so that branches without effect go as a whole. Constants are folded in float64 and
    rounded once. This repeats until nothing changes; every axis keeps at least one channel. At last, convolutions whose
    kernels are zero outside blocks become grouped ones.

    Initializers that are also inputs, and weights computed from constants, are cleaned first, since they hide
    parameters. Names of what stays, opset, metadata and a dynamic batch are kept.

    Raises:
        UnsupportedError: quantised or sparse weights, or a model that onnxruntime does not run.
        CheckFailed: in onnxruntime, on random inputs and on `real_inputs` [N, …], when given, the result differs by
            more than `tolerance`.
    """
    layers.find(model.light, model.name)
    now: Model | onnx.ModelProto = model
    if inputs.check(model.light) is None:
        now = inputs.rewrite(model.proto)
    if _hides_weights(in_parts(now)[0]):
        now = constants.rewrite(now.proto if isinstance(now, Model) else now)
    proto = in_parts(now)[0]
    before, sizes = parameters(proto), _widths(proto)
    found = layers.find(proto, model.name)
    while True:  # constants travel forward, unread channels backward
        network = Network(now)
        flow, heads = (follow(network, RULES, view) for view in ("channels", "heads"))
        smaller = _step(flow) or _step(heads)
        if smaller is None:
            break
        now = proto = smaller
    left = _widths(proto)
    pinned = dict(gather(flow, layers.find(proto, model.name)).pinned)
    reports = []
    for layer in found:
        old, new = sizes[layer.weight], left.get(layer.weight, 0)
        kept = pinned.get(layer.name, _ALIVE) if new == old else None
        reports.append(LayerReport(layer.name, layer.weight, old, new, kept))
    small = onnx.ModelProto()
    if isinstance(now, Model):  # nothing changed yet
        small.CopyFrom(model.proto)
    else:
        small = proto
    dead.sweep(small.graph)
    regroup(small)
    difference = onnxrt.compare(model, small, seed=seed, tolerance=tolerance, real_inputs=real_inputs)
    onnx_model.add_provenance(small, "shrink", {"seed": seed}, model.sha256)
    return Shrunk(small, tuple(reports), before, parameters(small), difference)


def _step(flow: Flow) -> onnx.ModelProto | None:
    """The model without what is constant or unread, or None."""
    alive = np.ones(int(flow.classes.max(initial=-1)) + 1, bool)
    edit = Edit(flow, alive)
    if folding.drop_constant_branches(flow, edit):
        return edit.run()
    alive = folding.needed(flow)
    if alive.all():
        return None
    edit = Edit(flow, alive)
    folding.fold(flow, alive, edit)
    return edit.run()


def _hides_weights(model: onnx.ModelProto) -> bool:
    """Whether numbers to shrink lie in Constant nodes, or are computed from initializers (other than as views)."""
    known, graph = views.find(model.graph), model.graph
    arrays = {
        tensor.name for tensor in graph.initializer if tensor.data_type in _FLOATS and prod(tensor.dims) > 1
    }
    for node in graph.node:
        tensor = onnxgraph.constant_tensor(node)
        if tensor is not None and tensor.data_type in _FLOATS and prod(tensor.dims) > 1:
            return True
        computed = (
            node.input and node.output[0] not in known and all(name in known for name in node.input if name)
        )
        if computed and any(name and known[name].tensor in arrays for name in node.input):
            return True
    return False


def _widths(model: onnx.ModelProto) -> dict[str, int]:
    """Output channels of each layer (of one group, for a grouped ConvTranspose), by weight."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return {layer.weight: tensors[layer.weight].dims[layer.channel_axis] for layer in layers.find(model)}


def parameters(model: onnx.ModelProto) -> int:
    """Elements of all floating-point initializers."""
    return sum(prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type in _FLOATS)
