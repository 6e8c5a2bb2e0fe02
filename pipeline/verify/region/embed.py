"""A network with smooth nodes for one input box: as it is, between a flat input of what varies and a flat output.

Networks of ReLUs are folded (`fold`); where other functions stand between the affine maps no neuron is ever stable, so
that folding would only multiply matrices out. What the searches need is the same either way: a graph whose input is
the vector of the inputs of positive width and whose output is a vector.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.root import NodeBounds, magnitudes
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, Node
from secateur.pipeline.verify.graph.operations import Input, Reshape, Scale, Select
from secateur.pipeline.verify.region.fold import Folded, free_inputs

FRONT = 2
"""How many nodes stand between the flat input and the network's own."""


def embed(graph: BoundGraph, bounds: NodeBounds) -> tuple[Folded, NodeBounds]:
    """`graph` (float64) for the one box of `bounds` (B = 1), and the bounds of the nodes of the graph that results.

    An input without width (see `fold.free_inputs`) is a constant, of which the last bits may be missing: the margin for
    rounding of the node that adds it, at least 8u of its value, is wider than that.
    """
    box, shape, size = bounds.box, graph.input.shape, graph.input.size
    free = free_inputs(box)
    if len(free) == 0:
        free = torch.zeros(1, dtype=torch.long, device=box.lower.device)
    index = torch.full((size,), -1, dtype=torch.long, device=free.device)
    index[free] = torch.arange(len(free), device=free.device)
    fixed = box.lower.flatten().clone()
    fixed[free] = 0.0
    nodes = [
        Node(graph.input.name, Input(), (), (len(free),)),
        Node(f"{graph.input.name}/free", Select(index, (len(free),), shape), (0,), shape),
        Node(f"{graph.input.name}/all", Scale(None, fixed.reshape(shape)), (1,), shape),
    ]
    for node in graph.nodes[1:]:
        nodes.append(replace(node, inputs=tuple(source + FRONT for source in node.inputs)))
    last = nodes[-1]
    nodes.append(Node(last.name, Reshape(last.shape, (last.size,)), (len(nodes) - 1,), (last.size,)))
    embedded = BoundGraph(tuple(nodes))
    inside = embedded_bounds(embedded, free, bounds)
    return Folded(embedded, inside.box, free, {}, {}, magnitudes(embedded, inside)), inside


def embedded_bounds(embedded: BoundGraph, free: Tensor, bounds: NodeBounds) -> NodeBounds:
    """The bounds of the nodes of an embedded network, whose inputs are those at `free`, by those of its own nodes."""
    inner = Box(bounds.box.lower.flatten(1)[:, free], bounds.box.upper.flatten(1)[:, free])
    front = embedded.nodes[1].operation
    values = {0: (inner.lower, inner.upper), 1: (front.forward(inner.lower), front.forward(inner.upper))}
    values.update({position + FRONT: pair for position, pair in bounds.values.items()})
    low, high = values[embedded.output - 1]
    values[embedded.output] = low.flatten(1), high.flatten(1)
    return NodeBounds(inner, values)
