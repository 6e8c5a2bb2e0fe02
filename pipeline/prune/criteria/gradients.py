"""Criteria by gradients: what the loss, its gradient's norm or the flow through the network loses with a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secateur.pipeline.prune.criteria.context import Context, Criterion, Need, Option, Saliency

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.pipeline.prune.criteria.differentiable import Batches


def snip(context: Context) -> Saliency:
    """|w · ∂L/∂w|, L the mean loss over all data: Lee et al. 2019 (1810.02340), the derivative by a mask's entry. The
    formula is the same at initialisation and after training; with the robust loss as in Sehwag et al. 2020."""
    from secateur.pipeline.prune.criteria import differentiable

    names = [layer.weight for layer in context.layers]
    with differentiable.network(context) as graph:
        batches = differentiable.Batches.of(context, graph, "SNIP")
        total = _gradients_on_all(batches, names, 1.0)
        return {
            name: _numpy((graph.parameters[name] * g).abs()) for name, g in zip(names, total, strict=True)
        }


def taylor(context: Context) -> Saliency:
    """Mean over batches of |w · ∂L/∂w|: the first-order Taylor estimate of what the loss changes when the weight goes.
    Molchanov et al. 2017 (1611.06440), eq. 8. With one batch it is SNIP's score."""
    return _taylor(context, channels=False)


def taylor_channel(context: Context) -> Saliency:
    """Mean over batches of (Σ w · ∂L/∂w)², the sum over the channel's weights: Molchanov et al. 2019 (1906.10771),
    eqs. 8 and 9."""
    return _taylor(context, channels=True)


def _taylor(context: Context, channels: bool) -> Saliency:
    from secateur.pipeline.prune.criteria import differentiable

    names = [layer.weight for layer in context.layers]
    with differentiable.network(context) as graph:
        batches = differentiable.Batches.of(context, graph, "Taylor")
        result: Saliency = {}
        for x, y in batches.split(context.options["batch"]):
            share = len(x) / len(batches)
            found = differentiable.gradients(graph, names, x, y)
            for layer, gradient in zip(context.layers, found, strict=True):
                products = _numpy(graph.parameters[layer.weight] * gradient)
                if channels:
                    rows = np.moveaxis(products, layer.channel_axis, 0)
                    scores = np.square(rows.reshape(len(rows), -1).sum(axis=1))
                else:
                    scores = np.abs(products)
                result[layer.weight] = result.get(layer.weight, 0.0) + share * scores
        return result


def grasp(context: Context) -> Saliency:
    """w · (H g), g the gradient and H the Hessian of the loss over all data, logits divided by the temperature: a
    weight scores low when the gradient's norm rises without it. Wang et al. 2020 (2002.07376), eqs. 8 and 9, with the
    sign turned. Meant for networks at initialisation."""
    import torch

    from secateur.pipeline.prune.criteria import differentiable

    names, temperature = [layer.weight for layer in context.layers], context.options["temperature"]
    with differentiable.network(context) as graph:
        batches = differentiable.Batches.of(context, graph, "GraSP")
        total = _gradients_on_all(batches, names, temperature)
        weights = [graph.parameters[name] for name in names]
        products = [torch.zeros_like(weight) for weight in weights]
        for x, y in batches.split():
            found = differentiable.gradients(graph, names, x, y, temperature=temperature, create_graph=True)
            inner = torch.stack([(g * whole).sum() for g, whole in zip(found, total, strict=True)]).sum()
            second = torch.autograd.grad(inner, weights, materialize_grads=True)
            for product, part in zip(products, second, strict=True):
                product += part * (len(x) / len(batches))
        return {
            name: _numpy(weight * product)
            for name, weight, product in zip(names, weights, products, strict=True)
        }


def synflow(context: Context) -> Saliency:
    """|w| · ∂R/∂|w| for R = the sum of the outputs for an input of ones, all weights made positive, without biases and
    running means: Tanaka et al. 2020 (2006.05467), eqs. 3 and 4, in float64. Made for schedules of many steps: in one
    step it may cut a network in two."""
    import torch

    from secateur.pipeline.prune import layers
    from secateur.pipeline.prune.criteria import differentiable

    proto = context.model.proto
    positive = {layer.weight for layer in layers.find(proto, context.model.name)}
    norms = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    positive |= {node.input[1] for node in norms}
    means = {node.input[3] for node in norms}
    names = [layer.weight for layer in context.layers]
    with differentiable.network(context) as graph:
        graph.double()
        with torch.no_grad():
            for name, tensor in [*graph.parameters.items(), *graph.statistics.items()]:
                if name in positive:
                    tensor.abs_()
                elif name in graph.parameters or name in means:
                    tensor.zero_()
        flow = graph(graph.inputs(np.ones((1, *graph.input_shape), np.float32))).sum()
        weights = [graph.parameters[name] for name in names]
        found = torch.autograd.grad(flow, weights, materialize_grads=True)
        return {name: _numpy(w * g) for name, w, g in zip(names, weights, found, strict=True)}


def _gradients_on_all(batches: Batches, names: list[str], temperature: float) -> list[Tensor]:
    """The gradients of the mean loss over all data."""
    from secateur.pipeline.prune.criteria import differentiable

    total: list[Tensor] = []
    for x, y in batches.split():
        found = differentiable.gradients(batches.graph, names, x, y, temperature=temperature)
        parts = [gradient * (len(x) / len(batches)) for gradient in found]
        total = [a + b for a, b in zip(total, parts, strict=True)] if total else parts
    return total


def _numpy(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().cpu().double().numpy())


LOSS = (
    Option("loss", "plain", "of the samples as they are, or attacked within ε", choices=("plain", "robust")),
    Option("attack-steps", 1, "of the robust loss: 1 is FGSM, more are PGD", minimum=1),
)
_BATCH = Option("batch", 32, "samples a batch, over which scores are averaged", minimum=1)
_NEEDS: frozenset[Need] = frozenset({"data", "gradients"})
CRITERIA = {
    "snip": Criterion(
        snip,
        "weight",
        "|w · ∂L/∂w| of the mean loss (SNIP)",
        "Lee et al. 2019 (1810.02340)",
        _NEEDS,
        LOSS,
        reduction="sum",
        normaliser="layer",
    ),
    "taylor": Criterion(
        taylor,
        "weight",
        "mean |w · ∂L/∂w| over batches (first-order Taylor)",
        "Molchanov et al. 2017 (1611.06440)",
        _NEEDS,
        (*LOSS, _BATCH),
        reduction="sum",
        normaliser="layer",
    ),
    "taylor-channel": Criterion(
        taylor_channel,
        "channel",
        "mean (Σ w · ∂L/∂w)² over batches, the sum over a channel's weights",
        "Molchanov et al. 2019 (1906.10771)",
        _NEEDS,
        (*LOSS, _BATCH),
        normaliser="none",
    ),
    "grasp": Criterion(
        grasp,
        "weight",
        "w · H g: what the gradient's norm loses with the weight (GraSP)",
        "Wang et al. 2020 (2002.07376)",
        _NEEDS,
        (*LOSS, Option("temperature", 200.0, "that logits are divided by", minimum=1e-3)),
        reduction="sum",
    ),
    "synflow": Criterion(
        synflow,
        "weight",
        "|w| · ∂R/∂|w| of the flow R through positive weights; for schedules of many steps",
        "Tanaka et al. 2020 (2006.05467)",
        frozenset({"gradients"}),
        reduction="sum",
        normaliser="none",
    ),
}
