"""One region, folded and bounded by the checker of certificates, as a network that the search works on.

So the search sees the very numbers that checking will find: the engine proposes slopes, the checker's bounds count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from secateur.formats.certificate import SLOPES
from secateur.formats.query import Floats
from secateur.pipeline.certificate import folding
from secateur.pipeline.certificate.folding import Choice, Columns, Slopes
from secateur.pipeline.certificate.lines import Folded as Checkable
from secateur.pipeline.certificate.lines import Layer
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.optimise import optimise
from secateur.pipeline.verify.bounding.relaxation import Relaxations, ReluRelaxation, Schedule
from secateur.pipeline.verify.bounding.root import CHUNK_NUMBERS
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, Node
from secateur.pipeline.verify.graph.operations import Input, Relu, Sum
from secateur.pipeline.verify.memory import scaled
from secateur.pipeline.verify.region.fold import Folded, affine_map


def optimised(schedule: Schedule, device: torch.device, expired: Callable[[], bool]) -> Choice:
    """Slopes by ascent in float32, for every layer's unstable neurons."""

    def choose(folded: Checkable, layer: Layer, columns: Columns) -> Slopes | None:
        chosen = layer.unstable
        if not len(chosen) or not sum(map(len, columns)) or expired():
            return None
        last = folding.restricted(layer, chosen)
        graph, places = _graph((*folded.layers, last), len(folded.lower), device)
        graph = graph.to(torch.float32, device)
        box = _box(folded, device).to(torch.float32)
        relaxations: Relaxations = {
            places[number]: ReluRelaxation.of(*_bounds(each, device, torch.float32))
            for number, each in enumerate(folded.layers)
            if each is not None and len(each.bias)
        }
        values = np.zeros((2, len(chosen), sum(map(len, columns))), np.uint8)
        widest = max(node.size for node in graph.nodes)
        for rows in torch.arange(len(chosen), device=device).split(
            max(1, scaled(CHUNK_NUMBERS) // (2 * widest))
        ):
            unit = torch.zeros(1, len(rows), len(chosen), device=device)
            unit[0, torch.arange(len(rows), device=device), rows] = 1.0
            best = optimise(
                graph, relaxations, box, graph.output, torch.cat([unit, -unit], 1), schedule, expired=expired
            )
            values[:, rows.cpu().numpy()] = _in_columns(folded, columns, places, best.multipliers).reshape(
                2, len(rows), -1
            )
        return Slopes(layer.neurons[chosen], values)

    return choose


def _in_columns(
    folded: Checkable, columns: Columns, places: dict[int, int], multipliers: dict[int, Tensor]
) -> np.ndarray:
    """Multipliers (1, R, n) as slopes (R, U) of the columns, in 255ths."""
    parts = []
    for number, own in enumerate(columns, 1):
        if len(own):
            where = np.searchsorted(folded.layer(number).neurons, own)
            slopes = multipliers[places[number]][0].cpu().numpy()[:, where]
            parts.append(np.rint(slopes * SLOPES).clip(0, SLOPES).astype(np.uint8))
    return np.concatenate(parts, 1)


def searchable(folded: Checkable, device: torch.device) -> Folded:
    """The network of a search. Its bounds are made rigorous by the checker alone: it has no `magnitudes`."""
    graph, places = _graph(folded.layers, len(folded.lower), device)
    neurons = {places[number]: number for number in range(1, len(folded.layers) - 1) if number in places}
    return Folded(
        graph,
        _box(folded, device),
        torch.arange(len(folded.lower), device=device),
        {p: (number - 1, torch.from_numpy(folded.layer(number).neurons)) for p, number in neurons.items()},
        {p: _bounds(folded.layer(number), device, torch.float64) for p, number in neurons.items()},
        {},
    )


def _box(folded: Checkable, device: torch.device) -> Box:
    lower, upper = (_tensor(side, device).unsqueeze(0) for side in (folded.lower, folded.upper))
    return Box(lower, upper)


def _bounds(layer: Layer, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    low, high = (_tensor(side, device).unsqueeze(0).to(dtype) for side in (layer.low, layer.high))
    return low, high


def _tensor(array: Floats, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(array)).to(device)


def _graph(
    layers: Sequence[Layer | None], inputs: int, device: torch.device
) -> tuple[BoundGraph, dict[int, int]]:
    """The layers as a bound graph that ends in the last one's arguments, and the positions of the others' ReLUs."""
    nodes = [Node("input", Input(), (), (inputs,))]
    places = {0: 0}
    for number, layer in enumerate(layers):
        if layer is None or not len(layer.bias):
            continue
        size, bias = len(layer.bias), _tensor(layer.bias, device)
        maps = layer.maps or {0: np.zeros((size, inputs))}
        parts: list[int] = []
        for source, matrix in maps.items():
            own = affine_map(_tensor(matrix, device), None if parts else bias)
            parts.append(len(nodes))
            nodes.append(Node(f"{number}/{source}", own, (places[source],), (size,)))
        if len(parts) > 1:
            nodes.append(Node(f"{number}", Sum((1.0,) * len(parts)), tuple(parts), (size,)))
        if number + 1 < len(layers):
            nodes.append(Node(f"{number}/relu", Relu(), (len(nodes) - 1,), (size,)))
            places[number] = len(nodes) - 1
    return BoundGraph(tuple(nodes)), places
