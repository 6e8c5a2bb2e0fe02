"""Criteria that look at what the channels do on data, recorded in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from secateur.pipeline.prune.criteria.behind import behind, by_channel
from secateur.pipeline.prune.criteria.context import Context, Criterion, Saliency

_SAMPLES = 64  # whose activations are held at once


def mean_activation(context: Context) -> Saliency:
    """Mean |a| over samples and positions of what the activation behind the layer gives a channel: Molchanov et al.
    2017 (1611.06440), section 2.2."""
    return _average(context, lambda values: np.abs(values))


def apoz(context: Context) -> Saliency:
    """1 − APoZ, where APoZ is the average percentage of zeros, over samples and positions, behind the activation of a
    channel: Hu et al. 2016 (1607.03250)."""
    return _average(context, lambda values: values != 0)


def _average(context: Context, of: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> Saliency:
    """The mean over samples and positions, channel by channel, of a function of the activations."""
    found = behind(context.model.proto, context.layers)
    values = {
        layer.weight: place.activation.output[0]
        for layer in context.layers
        if (place := found[layer.weight]).activation is not None
    }
    totals: dict[str, NDArray[np.float64]] = {}
    for part in record(context, list(dict.fromkeys(values.values()))):
        for layer in context.layers:
            if layer.weight in values:
                here = np.moveaxis(of(part[values[layer.weight]]), found[layer.weight].axis, 0)
                means = here.reshape(len(here), -1).mean(axis=1, dtype=np.float64)
                samples = len(part[values[layer.weight]])
                totals[layer.weight] = totals.get(layer.weight, 0.0) + means * samples
    sizes = _channels(context)
    return {
        layer.weight: by_channel(layer, totals[layer.weight] / len(context.samples()), sizes[layer.weight])
        for layer in context.layers
        if layer.weight in totals
    }


def _channels(context: Context) -> dict[str, int]:
    dims = context.shapes()
    return {layer.weight: dims[layer.weight][layer.channel_axis] for layer in context.layers}


def record(context: Context, values: Sequence[str]) -> Iterator[dict[str, NDArray[np.float32]]]:
    """The values of that name on the context's samples, in parts: name -> [n, *shape of a sample].

    Raises:
        InputError: there are no data, or they do not fit the network.
        UnsupportedError: onnxruntime cannot run the model.
    """
    images = context.samples().images
    if not values:
        return
    import onnx

    from secateur.pipeline import onnxrt

    shapes = onnxrt.value_shapes(context.model)
    copy = onnx.ModelProto.FromString(context.model.proto.SerializeToString())
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values)
    runner = onnxrt.Runner(copy)
    ends = np.cumsum([prod(shapes[name]) for name in values])
    for first in range(0, len(images), _SAMPLES):
        rows = np.asarray(runner(images[first : first + _SAMPLES]), np.float32)
        parts = np.split(rows, ends[:-1], axis=1)
        yield {
            name: part.reshape(len(rows), *shapes[name][1:]) for name, part in zip(values, parts, strict=True)
        }


_WITHOUT = "no activation stands behind it"
CRITERIA = {
    "activation": Criterion(
        mean_activation,
        "channel",
        "mean |activation| of a channel over the data",
        "Molchanov et al. 2017 (1611.06440)",
        frozenset({"data"}),
        without=_WITHOUT,
    ),
    "apoz": Criterion(
        apoz,
        "channel",
        "1 − the share of zeros behind a channel's activation over the data (APoZ)",
        "Hu et al. 2016 (1607.03250)",
        frozenset({"data"}),
        normaliser="none",
        without=_WITHOUT,
    ),
}
