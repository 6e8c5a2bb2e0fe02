"""Making a pruned graph smaller: channels that are dead, unread or constant are removed for real."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from secateur.formats import onnx_model
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxgraph, onnxrt
from secateur.pipeline.convert import constants, dead, inputs
from secateur.pipeline.onnxgraph import attribute
from secateur.pipeline.prune import flow, layers
from secateur.pipeline.prune.flow import Flow, Network, Reader

Keep = NDArray[np.bool_]
TOLERANCE = 1e-4


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


def shrink(model: Model, *, seed: int = 0, tolerance: float = TOLERANCE) -> Shrunk:
    """Remove the channels that the rest of the network can do without.

    A channel goes when nobody reads it (all its weights in the layers that read it are zero), when it is exactly
    zero after bias, normalisation and activation, or when it is another constant that can be added to the
    bias of every layer that reads it (Gemm, MatMul followed by a bias, unpadded Conv). Constants are folded
    in float64 and rounded once. This repeats until nothing changes; each layer keeps at least one channel.

    Initializers that are also inputs and constant sub-graphs are cleaned first, since they hide parameters.
    Names of what stays, opset, metadata and a dynamic batch are kept.

    Raises:
        UnsupportedError: quantised or sparse weights, or a model that onnxruntime does not run.
        CheckFailed: in onnxruntime, on random inputs, the result differs by more than `tolerance`.
    """
    layers.find(model.proto, model.name)
    proto = model.proto
    for clean in (inputs, constants):
        if clean.check(proto) is None:
            proto = clean.rewrite(proto)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    network = Network.of(copy)
    found = layers.find(copy, model.name)
    sizes = [network.arrays[layer.weight].shape[layer.channel_axis] for layer in found]
    changed = True
    while changed:  # constants travel forward, unread channels backward
        changed = sum(_shrink_layer(network, layer) for layer in [*found, *reversed(found)]) > 0
    reports = tuple(
        LayerReport(
            layer.name,
            layer.weight,
            before,
            network.arrays[layer.weight].shape[layer.channel_axis],
            flow.follow(network, layer).pinned,
        )
        for layer, before in zip(found, sizes, strict=True)
    )
    if any(report.after < report.before for report in reports):
        _store(network)
        copy = dead.rewrite(copy)
        del copy.graph.value_info[:]
    difference = onnxrt.compare(model, copy, seed=seed, tolerance=tolerance)
    onnx_model.add_provenance(copy, "shrink", {"seed": seed}, model.sha256)
    return Shrunk(copy, reports, parameters(proto), parameters(copy), difference)


def parameters(model: onnx.ModelProto) -> int:
    """Elements of all floating-point initializers."""
    arrays = onnx_model.initializers(model).values()
    return sum(array.size for array in arrays if np.issubdtype(array.dtype, np.floating))


def _shrink_layer(network: Network, layer: layers.Layer) -> bool:
    """Remove what can be removed of one layer's channels; whether anything was."""
    path = flow.follow(network, layer)
    if path.pinned or not path.readers:
        return False
    unread = np.ones(path.size, bool)
    constant = np.ones(path.size, bool)
    for reader in path.readers:
        columns = np.moveaxis(network.arrays[reader.slot.tensor], reader.slot.axis, 0)
        read = columns.reshape(len(columns), -1).any(axis=1)
        absorbable = reader.values == 0
        if _bias_of(network, reader.node) is not None:
            absorbable |= np.isfinite(reader.values)
        unread[reader.slot.channels[read]] = False
        constant[reader.slot.channels[~absorbable & read]] = False
    keep = ~(unread | constant)
    if not keep.any():
        keep[0] = True
    if keep.all():
        return False
    for reader in path.readers:
        _fold(network, reader, keep)
    _remove(network, path, keep)
    return True


def _remove(network: Network, path: Flow, keep: Keep) -> None:
    for slot in [*path.slots, *(reader.slot for reader in path.readers)]:
        array = network.arrays[slot.tensor]
        network.arrays[slot.tensor] = np.compress(keep[slot.channels], array, axis=slot.axis)
    for node, spread in path.reshapes:
        _resize(network, node, spread.axis, int(keep[spread.channels].sum()))
    for value, spread in path.spreads.items():
        shape = list(network.shapes[value])
        shape[spread.axis] = int(keep[spread.channels].sum())
        network.shapes[value] = tuple(shape)


def _resize(network: Network, node: onnx.NodeProto, axis: int, size: int) -> None:
    """Make a Reshape give `size` positions along `axis`; entries 0 and −1 follow by themselves."""
    name = node.input[1]
    target = network.arrays.get(name)
    if target is None:  # computed (x.view(x.size(0), -1)): `flow` has made sure that it flattens
        del node.input[1:]
        del node.attribute[:]
        node.op_type = "Flatten"
        return
    if target[axis] <= 0:
        return
    target = target.copy()
    target[axis] = size
    if network.uses[name] > 1:
        network.uses[name] -= 1
        name = onnxgraph.unused_name(network.graph, f"{name}_shrunk")
        node.input[1] = name
        network.uses[name] = 1
        network.graph.initializer.append(numpy_helper.from_array(target, name))
    network.arrays[name] = target


# --- folding constants ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bias:
    """Where a layer's bias is: the node and input that hold it, and the factor it is multiplied by."""

    node: onnx.NodeProto
    index: int
    factor: float = 1.0


def _bias_of(network: Network, node: onnx.NodeProto) -> _Bias | None:
    """The bias that can take up a constant input of `node`, or None: a padded Conv sees zeros at the border."""
    if node.op_type == "Gemm":
        bias = _Bias(node, 2, float(attribute(node, "beta", 1.0)))
    elif node.op_type == "Conv":
        padded = any(attribute(node, "pads", ())) or attribute(node, "auto_pad", "NOTSET").startswith("SAME")
        if padded:
            return None
        bias = _Bias(node, 2)
    elif node.op_type == "MatMul":
        following = network.readers.get(node.output[0], [])
        if len(following) != 1 or network.uses[node.output[0]] != 1 or following[0][0].op_type != "Add":
            return None
        bias = _Bias(following[0][0], 1 - following[0][1])
    else:
        return None
    name = bias.node.input[bias.index] if bias.index < len(bias.node.input) else ""
    private = network.arrays.get(name) is not None and network.uses[name] == 1
    if name and not private:
        return None
    return bias if bias.factor else None


def _fold(network: Network, reader: Reader, keep: Keep) -> None:
    """Add what the removed channels' constants contribute to the reader's bias."""
    gone = ~keep[reader.slot.channels]
    values = np.where(gone & np.isfinite(reader.values), reader.values, 0.0)
    bias = _bias_of(network, reader.node)
    if bias is None or not values.any():
        return
    weight = network.arrays[reader.slot.tensor]
    columns = np.moveaxis(weight.astype(np.float64), reader.slot.axis, 0)
    change = np.tensordot(values, columns, axes=1)  # [outputs], or [outputs, *kernel]
    change = change.reshape(len(change), -1).sum(axis=1)
    if reader.node.op_type == "Gemm":
        change *= float(attribute(reader.node, "alpha", 1.0))
    change /= bias.factor
    node = bias.node
    if bias.index >= len(node.input) or not node.input[bias.index]:
        name = onnxgraph.unused_name(network.graph, f"{node.name or node.output[0]}.bias")
        while len(node.input) <= bias.index:
            node.input.append("")
        node.input[bias.index] = name
        network.uses[name] = 1
        network.graph.initializer.append(numpy_helper.from_array(np.zeros(0, weight.dtype), name))
        network.arrays[name] = change.astype(weight.dtype)
        return
    name = node.input[bias.index]
    old = network.arrays[name]
    network.arrays[name] = (old.astype(np.float64) + change).astype(old.dtype)


def _store(network: Network) -> None:
    for tensor in network.graph.initializer:
        array = network.arrays[tensor.name]
        if tuple(tensor.dims) != array.shape or not np.array_equal(numpy_helper.to_array(tensor), array):
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
