"""Residual branches, which can be zeroed as a whole, and convolutions whose zeros leave independent groups."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import gcd, prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from secateur.pipeline import onnxgraph
from secateur.pipeline.onnxgraph import attribute, set_attribute
from secateur.pipeline.prune import layers, views

Indices = NDArray[np.intp]

_AFFINE = ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization")
_ZERO_TO_ZERO = {
    *("Relu", "LeakyRelu", "Elu", "Gelu", "HardSwish", "Tanh", "Identity", "Dropout", "Cast"),
    *("MaxPool", "AveragePool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice"),
}


@dataclass(frozen=True)
class Branch:
    """What is added to a shortcut: values computed, by more layers, from what the shortcut is computed from, too.

    `zeros` are the initializers whose zeroing makes the branch exactly zero, so that the addition does nothing
    (`shrink` then removes both); `weights` are the weights of all layers in it, in graph order. The addition gives it
    its `name`.
    """

    name: str
    zeros: tuple[str, ...]
    weights: tuple[str, ...]


def residual_branches(model: onnx.ModelProto) -> tuple[Branch, ...]:
    """The residual branches in graph order.

    Of the two values that an Add joins, the branch is the one with more layers on the way back to what both depend on.
    Nothing else may read what is computed on that way, and its last layer can be zeroed: weight and bias, or
    the scale and shift of a normalisation behind it, which no other node shares.

    Raises:
        UnsupportedError: quantised or sparse weights.
    """
    graph = model.graph
    weights = {layer.node.output[0]: layer.weight for layer in layers.find(model)}
    makers, readers, uses = onnxgraph.producers(graph), onnxgraph.readers(graph), onnxgraph.uses(graph)
    constants = views.find(graph)
    outputs = {value.name for value in graph.output}
    branches = []
    for node in graph.node:
        if node.op_type != "Add" or any(name in constants for name in node.input):
            continue
        first, second = (_ancestors(name, makers) for name in node.input)
        own = (first - second, second - first)
        counts = [sum(name in weights for name in side) for side in own]
        chosen = int(counts[1] > counts[0])
        inside = own[chosen]
        read = {reader.output[0] for name in inside for reader, _ in readers.get(name, ())}
        zeros = _zeroing(node.input[chosen], makers, constants, uses)
        if counts[0] == counts[1] or zeros is None or inside & outputs or read - inside - {node.output[0]}:
            continue
        found = [weights[part.output[0]] for part in graph.node if part.output[0] in inside & weights.keys()]
        branches.append(Branch(node.name or node.output[0], zeros, tuple(dict.fromkeys(found))))
    return tuple(branches)


def _ancestors(value: str, makers: dict[str, onnx.NodeProto]) -> set[str]:
    """The value and everything that nodes compute on the way to it, by the nodes' first outputs."""
    seen: set[str] = set()
    frontier = [value]
    while frontier:
        node = makers.get(frontier.pop())
        if node is not None and node.output[0] not in seen:
            seen.add(node.output[0])
            frontier.extend(onnxgraph.reads(node))
    return seen


def _zeroing(
    value: str,
    makers: dict[str, onnx.NodeProto],
    constants: dict[str, views.Constant],
    uses: Counter[str],
) -> tuple[str, ...] | None:
    """The initializers to zero for `value` to be zero; None where there is no safe choice."""

    def alone(names: list[str]) -> tuple[str, ...] | None:
        tensors = [constants[name].tensor if name in constants else None for name in names]
        private = all(
            t is not None and uses[t] == 1 and uses[n] == 1 for t, n in zip(tensors, names, strict=True)
        )
        return tuple(t for t in tensors if t is not None) if private else None

    node = makers.get(value)
    if node is None:
        return None
    given = [name for name in node.input if name]
    if node.op_type in layers.OPERATORS:
        fixed = [name for name in given if name in constants]
        return alone(fixed) if len(fixed) == len(given) - 1 else None
    if node.op_type in _AFFINE:
        return alone(given[1:3])
    if node.op_type in _ZERO_TO_ZERO:
        return _zeroing(given[0], makers, constants, uses)
    fixed = [name for name in given if name in constants]
    rest = [name for name in given if name not in constants]
    if node.op_type == "Mul":
        found = [_zeroing(name, makers, constants, uses) for name in rest]
        return alone(fixed) if fixed else next((zeros for zeros in found if zeros is not None), None)
    if node.op_type == "Add" and len(fixed) == 1:
        shift, zeros = alone(fixed), _zeroing(rest[0], makers, constants, uses)
        return None if shift is None or zeros is None else zeros + shift
    return None


# --- grouped convolutions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regrouped:
    """A convolution that became a grouped one."""

    name: str
    weight: str
    groups: int


def regroup(model: onnx.ModelProto) -> tuple[Regrouped, ...]:
    """Turn convolutions whose kernels are zero outside blocks (in some order of channels) into grouped ones, in place.

    Input and output channels that share a kernel that is not zero belong together. Where they fall apart into groups
    of equal sizes, the Conv becomes Gather (input channels in the groups' order), grouped Conv, Gather (back); a Gather
    that changes nothing is left out. So it does where filters fall apart into as many groups of equal sizes as they
    have sets of inputs, of equal sizes: an input that several groups read is gathered several times. What is left of
    the weight has no zero kernel; the function is the same up to the order of summation.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    uses = onnxgraph.uses(graph)
    done, nodes = [], []
    for node in graph.node:
        weight = tensors.get(node.input[1]) if node.op_type == "Conv" else None
        private = all(uses[name] == 1 and name in tensors for name in node.input[1:] if name)
        if weight is None or not private or attribute(node, "group", 1) != 1:
            nodes.append(node)
            continue
        kernels = numpy_helper.to_array(weight)
        nonzero = kernels.reshape(*kernels.shape[:2], -1).any(axis=2)
        orders = _groups(nonzero) or _groups_that_overlap(nonzero)
        if orders is None:
            nodes.append(node)
            continue
        before, after = orders  # [groups, channels a group]
        parts = [kernels[np.ix_(rows, columns)] for rows, columns in zip(after, before, strict=True)]
        weight.CopyFrom(numpy_helper.from_array(np.concatenate(parts), weight.name))
        if len(node.input) > 2 and node.input[2]:
            bias = tensors[node.input[2]]
            bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias)[after.ravel()], bias.name))
        nodes += _between_gathers(graph, node, kernels.shape[1], before.ravel(), np.argsort(after.ravel()))
        set_attribute(node, "group", len(before))
        done.append(Regrouped(node.name or node.output[0], weight.name, len(before)))
    if done:
        onnxgraph.replace_nodes(graph, nodes)
    return tuple(done)


def _between_gathers(
    graph: onnx.GraphProto, node: onnx.NodeProto, inputs: int, before: Indices, after: Indices
) -> list[onnx.NodeProto]:
    """The node, reading its input in the order `before`, its output brought into the order `after`."""
    nodes = [node]
    for place, order, value in ((0, before, node.input[0]), (1, after, node.output[0])):
        if np.array_equal(order, np.arange(len(after) if place else inputs)):
            continue
        moved = onnxgraph.unused_name(graph, f"{value}_grouped" if place else f"{node.output[0]}_input")
        name = onnxgraph.unused_name(graph, f"{moved}_order")
        graph.initializer.append(numpy_helper.from_array(order.astype(np.int64), name))
        ends = ([moved, name], [value]) if place else ([value, name], [moved])
        gather = helper.make_node("Gather", *ends, onnxgraph.unused_name(graph, f"{moved}_gather"), axis=1)
        if place:
            node.output[0] = moved
            nodes.append(gather)
        else:
            node.input[0] = moved
            nodes.insert(0, gather)
    return nodes


def _groups(kernels: NDArray[np.bool_]) -> tuple[Indices, Indices] | None:
    """Input and output channels of equal groups, [groups, channels a group] each, for `kernels` [outputs, inputs] that
    are not zero; None where there is only one group. Channels ascend in a group, and groups by their first."""
    outputs, inputs = kernels.shape
    if kernels.all():
        return None
    rows, columns = np.nonzero(kernels)
    links = coo_array((np.ones(len(rows), bool), (rows, columns + outputs)), (outputs + inputs,) * 2)
    count, label = connected_components(links, directed=False)
    sizes = np.stack(
        [np.bincount(part, minlength=count) for part in (label[:outputs], label[outputs:])], axis=1
    )
    most = gcd(outputs, inputs)
    for groups in sorted((n for n in range(2, min(most, count) + 1) if most % n == 0), reverse=True):
        bins = _packed(sizes, groups)
        if bins is not None:
            found = [
                np.stack([np.flatnonzero(bins[part] == group) for group in range(groups)])
                for part in (label[outputs:], label[:outputs])
            ]
            order = np.argsort(found[1][:, 0])
            return found[0][order], found[1][order]
    return None


def _groups_that_overlap(kernels: NDArray[np.bool_]) -> tuple[Indices, Indices] | None:
    """As `_groups`, of filters that read the same inputs; None where sizes differ, or filters have little in common."""
    reads, label = np.unique(kernels, axis=0, return_inverse=True)
    label, counts, sizes = label.reshape(-1), np.bincount(label.reshape(-1)), reads.sum(axis=1)
    if len(reads) < 2 or counts[0] < 2 or np.ptp(counts) or np.ptp(sizes) or not sizes[0]:
        return None
    before = np.stack([np.flatnonzero(inputs) for inputs in reads])
    after = np.stack([np.flatnonzero(label == group) for group in range(len(reads))])
    order = np.argsort(after[:, 0])
    return before[order], after[order]


def _packed(sizes: NDArray[np.intp], groups: int) -> Indices | None:
    """Put parts of `sizes` [parts, 2] into groups of equal sizes, the largest first, each where it fits; the group of
    every part, or None where this fails."""
    room = np.tile(sizes.sum(axis=0) // groups, (groups, 1))
    bins = np.zeros(len(sizes), np.intp)
    for part in sorted(range(len(sizes)), key=lambda part: (-prod(sizes[part] + 1), part)):
        fits = np.flatnonzero((room >= sizes[part]).all(axis=1))
        if not len(fits):
            return None
        bins[part] = fits[0]
        room[fits[0]] -= sizes[part]
    return bins
