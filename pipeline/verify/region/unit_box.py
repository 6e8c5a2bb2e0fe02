"""A folded network with its input box as [-1, 1]^n, for searches.

Where a network is split by its neurons, most of what a bound costs is the input's: a box like any other is read and
compared several times a row, this one is a sum of absolute values and a sign. What is found here is no proof: rounding
moves the box by an ulp or so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, Node
from secateur.pipeline.verify.graph.operations import Dense, Sparse


@dataclass(frozen=True)
class UnitBox(Box):
    """The box [-1, 1]^n (lower and upper (1, n)), for any number of sub-problems."""

    @staticmethod
    def like(box: Box) -> UnitBox:
        """Of as many dimensions as `box` (1, n)."""
        ones = torch.ones_like(box.lower)
        return UnitBox(-ones, ones)

    def minimum(self, coefficient: Tensor) -> Tensor:
        return coefficient.abs().sum(-1).neg_()

    def minimiser(self, coefficient: Tensor) -> Tensor:
        return coefficient.sign().neg_()


def centre_and_radius(box: Box) -> tuple[Tensor, Tensor]:
    """Of one box (1, n), (n,) each."""
    return (box.lower + box.upper)[0] / 2, (box.upper - box.lower)[0] / 2


def on_unit_box(graph: BoundGraph, box: Box) -> BoundGraph:
    """The folded `graph` as a function of u in [-1, 1]^n, where its input is centre + radius·u; `box` is (1, n)."""
    return BoundGraph(tuple(_moved(node, *centre_and_radius(box)) for node in graph.nodes))


def _moved(node: Node, centre: Tensor, radius: Tensor) -> Node:
    operation = node.operation
    if node.inputs != (0,) or not isinstance(operation, Dense | Sparse):
        return node
    weight = operation.weight.to_dense()
    shift = weight @ centre
    bias = shift if operation.bias is None else operation.bias + shift
    scaled = weight * radius
    moved = Sparse.of(scaled, bias) if isinstance(operation, Sparse) else Dense(scaled, bias)
    return replace(node, operation=moved)
