"""Criteria that look at bounds: how surely a channel's ReLUs are active or inactive within ε of the samples.

A ReLU with bounds l ≤ x ≤ u on its argument is unstable when l < 0 < u; certification pays for every unstable one.
Each criterion is the mean, over samples and positions, of a function of (l, u); a layer's channel is judged by the
first ReLU behind it, through normalisation, biases, residual sums and pooling. A Clip from 0 (ReLU6) is a ReLU at its
lower end; layers with other activations behind them (Gelu, Sigmoid, …) have no sides to be sure of, and no scores.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secateur.formats.errors import InputError, UnsupportedError
from secateur.pipeline.prune.criteria.behind import Behind, behind, by_channel
from secateur.pipeline.prune.criteria.context import Context, Criterion, Option, Saliency

if TYPE_CHECKING:
    from secateur.formats.onnx_model import Model

Floats = NDArray[np.float64]
Judge = Callable[[Floats, Floats, Floats], Floats]
"""(lower, upper, γ²) -> score: bounds [samples, channels, positions], γ² broadcast to them."""

_UNKNOWN = 1e100  # what infinite bounds count as, so that means are finite
_NUMBERS = 20_000_000  # of bounds that are held at once


def instability(context: Context) -> Saliency:
    """−mean(max(0, −l·u)): minus the instability measure Σ −l·u over unstable neurons (2206.07311), a neuron."""
    return _mean(context, lambda low, high, _: np.minimum(low * high, 0.0))


def rs(context: Context) -> Saliency:
    """Mean of tanh(1 + l·u): minus the RS loss of Xiao et al. 2019 (1809.03008)."""
    return _mean(context, lambda low, high, _: np.tanh(1 + low * high))


def nrs(context: Context) -> Saliency:
    """Mean of tanh(1 + l·u/γ²): minus the NRSLoss of 2206.07311, γ the scale of the BatchNormalization in front of the
    ReLU, 1 where there is none."""
    return _mean(context, lambda low, high, square: np.tanh(1 + low * high / square))


def unstable_frequency(context: Context) -> Saliency:
    """Minus how often a channel's ReLUs are unstable, l < 0 < u, over samples and positions: the unstable ratio of
    2206.07311, channel by channel."""
    return _mean(context, lambda low, high, _: -((low < 0) & (high > 0)).astype(np.float64))


def bound_width(context: Context) -> Saliency:
    """−mean(u − l): how far the argument may move within ε, the bound tightness of 2206.07311, channel by channel."""
    return _mean(context, lambda low, high, _: low - high)


def _mean(context: Context, judge: Judge) -> Saliency:
    arrays = context.arrays()
    found = behind(context.model.proto, context.layers)
    places = {layer.weight: found[layer.weight] for layer in context.layers if found[layer.weight].relu}
    if not places:
        _refuse(context, found)
    totals: dict[str, Any] = {}
    for bounds in preactivations(context, {place.relu for place in places.values()}):
        for weight, place in places.items():
            if place.relu not in bounds:
                raise UnsupportedError(
                    f"the Relu that gives '{place.relu}' has no bounds", where=context.model.name
                )
            low, high = (
                _by_position(side, place.axis).clip(-_UNKNOWN, _UNKNOWN) for side in bounds[place.relu]
            )
            scores = judge(low, high, _square(place, arrays, low.shape[1]))
            totals[weight] = totals.get(weight, 0.0) + scores.mean(axis=2).sum(axis=0)
    return {
        layer.weight: by_channel(
            layer,
            totals[layer.weight] / len(context.samples()),
            arrays[layer.weight].shape[layer.channel_axis],
        )
        for layer in context.layers
        if layer.weight in totals
    }


def _refuse(context: Context, found: Mapping[str, Behind]) -> None:
    """Raises InputError, which names an activation that no layer can be scored by, where there is one."""
    from secateur.pipeline.onnxgraph import label  # the table of criteria is shown without importing onnx

    for layer in context.layers:
        other = found[layer.weight].activation
        if other is not None:
            raise InputError(
                f"no scores for any layer: {label(other)}, behind {layer.name}, is no ReLU, and neither active nor not",
                where=context.model.name,
            )


def _by_position(values: Floats, axis: int) -> Floats:
    """[samples, …, channels, …] as [samples, channels, positions]."""
    moved = np.moveaxis(values, axis, 1)
    return moved.reshape(*moved.shape[:2], -1)


def _square(place: Behind, arrays: dict[str, NDArray[np.generic]], channels: int) -> Floats:
    """γ², [1, channels, 1]. A channel whose γ is 0 does not depend on the input: any square does."""
    scale = arrays.get(place.batchnorm.input[1]) if place.batchnorm is not None else None
    if scale is None:
        return np.ones((1, 1, 1))
    square = np.square(scale.astype(np.float64)).reshape(1, channels, 1)
    return np.where(square > 0, square, 1.0)


def preactivations(
    context: Context, names: Collection[str | None]
) -> Iterator[dict[str, tuple[Floats, Floats]]]:
    """Bounds on the arguments of ReLUs (see `behind.relus`) over the balls of radius ε (ℓ∞) about the samples, by the
    names of these nodes' outputs, a part of the samples at a time: [n, *shape] each. Balls about images in [0, 1] are
    clipped to it.

    Raises:
        UnsupportedError: an operator that the verifier does not support.
    """
    import torch

    from secateur.pipeline import compute, onnxrt
    from secateur.pipeline.verify.bounding.crown import Box
    from secateur.pipeline.verify.bounding.root import bound_nodes
    from secateur.pipeline.verify.graph.lowering import lower

    images, epsilon = context.samples().images, context.radius()
    compute.configure(context.device)
    model, relus = _with_relus(context.model, names)
    graph = lower(model).to(torch.float64, context.device)
    x = torch.as_tensor(images, dtype=torch.float64).reshape(len(images), *graph.input.shape)
    low, high = x - epsilon, x + epsilon
    if x.min() >= 0 and x.max() <= 1:
        low, high = low.clamp(min=0), high.clamp(max=1)
    shapes = onnxrt.value_shapes(context.model)
    numbers = sum(node.size for node in graph.nodes)
    size = max(1, _NUMBERS // (numbers * (1 if context.options["bounds"] == "ibp" else 100)))
    for lower_part, upper_part in zip(torch.split(low, size), torch.split(high, size), strict=True):
        box = Box(lower_part.to(context.device), upper_part.to(context.device))
        nodes = bound_nodes(graph, box, context.options["bounds"])
        bounds = {}
        for position, sides in nodes.preactivations(graph).items():
            name = relus.get(graph.nodes[position].name)
            if name is None:  # the engine has ReLUs of its own, as parts of other operators
                continue
            shape = (
                len(lower_part),
                *shapes[name][1:],
            )  # the engine keeps a batch dimension of 1 behind its own
            least, most = (side.cpu().numpy().reshape(shape) for side in sides)
            bounds[name] = least, most
        yield bounds


def _with_relus(model: Model, names: Collection[str | None]) -> tuple[Model, dict[str, str]]:
    """The model with a Relu in front of the Clips among the nodes that give `names`; Relu output -> name."""
    import onnx

    from secateur.formats import onnx_model
    from secateur.pipeline import onnxgraph

    chosen = {node.output[0]: node.output[0] for node in model.graph.node if node.output[0] in names}
    clips = [node for node in model.graph.node if node.op_type == "Clip" and node.output[0] in chosen]
    if not clips:
        return model, chosen
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    nodes = []
    for node in proto.graph.node:
        if node.op_type == "Clip" and node.output[0] in chosen:
            relu = onnxgraph.unused_name(proto.graph, f"{node.output[0]}.relu")
            nodes.append(onnx.helper.make_node("Relu", [node.input[0]], [relu]))
            chosen[relu] = chosen.pop(node.output[0])
            node.input[0] = relu
        nodes.append(node)
    onnxgraph.replace_nodes(proto.graph, nodes)
    return onnx_model.from_proto(proto, model.name), chosen


_PAPER = "Li et al. 2022 (2206.07311)"


def _row(score: Callable[[Context], Saliency], summary: str, source: str) -> Criterion:
    bounds = Option(
        "bounds", "ibp", "intervals, or linear bounds (tighter, dearer)", choices=("ibp", "crown")
    )
    return Criterion(
        score,
        "channel",
        summary,
        source,
        frozenset({"data", "bounds"}),
        (bounds,),
        without="no Relu, or Clip from 0, stands behind it",
    )


CRITERIA = {
    "instability": _row(instability, "−l·u of unstable ReLUs, its mean a channel, turned round", _PAPER),
    "rs": _row(
        rs, "tanh(1 + l·u), its mean a channel: the RS loss, turned round", "Xiao et al. 2019 (1809.03008)"
    ),
    "nrs": _row(nrs, "tanh(1 + l·u/γ²), its mean a channel: the NRSLoss, turned round", _PAPER),
    "unstable": _row(unstable_frequency, "how often a channel's ReLUs are unstable, turned round", _PAPER),
    "bound-width": _row(bound_width, "mean width u − l of a channel's bounds, turned round", _PAPER),
}
