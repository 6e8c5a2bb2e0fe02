"""The bound graph: a network as a directed acyclic graph of affine and nonlinear operations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from secateur.pipeline.verify.graph.operations import (
    Affine,
    Bilinear,
    Concat,
    Operation,
    Permute,
    Relu,
    Reshape,
    Scale,
    Select,
)

LARGEST_MATRIX = 150_000_000
"""Numbers of the largest matrix between two layers of neurons that is ever written out."""


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: its (ONNX output) name, its inputs as positions in the graph, its shape without N."""

    name: str
    operation: Operation
    inputs: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, eq=False)
class BoundGraph:
    """Nodes in topological order; the first is the input, the last the output."""

    nodes: tuple[Node, ...]

    @property
    def input(self) -> Node:
        return self.nodes[0]

    @property
    def output(self) -> int:
        return len(self.nodes) - 1

    @cached_property
    def relus(self) -> tuple[int, ...]:
        """Positions of the ReLU nodes, in order."""
        return tuple(i for i, node in enumerate(self.nodes) if isinstance(node.operation, Relu))

    @cached_property
    def nonlinear(self) -> tuple[int, ...]:
        """Positions of the nonlinear nodes, in order."""
        return tuple(i for i, node in enumerate(self.nodes) if i and not isinstance(node.operation, Affine))

    @property
    def elementwise(self) -> bool:
        """Whether all its nonlinear nodes go coordinate by coordinate."""
        return not any(isinstance(self.nodes[p].operation, Bilinear) for p in self.nonlinear)

    @property
    def piecewise_linear(self) -> bool:
        """Whether ReLUs are its only nonlinear nodes."""
        return len(self.relus) == len(self.nonlinear)

    @property
    def foldable(self) -> bool:
        """Whether it is made of ReLUs, and dense matrices between its layers of them are of a size to work with."""
        layers = [self.input.size, *(self.nodes[p].size for p in self.relus), self.nodes[self.output].size]
        return self.piecewise_linear and max(a * b for a, b in pairwise(layers)) <= LARGEST_MATRIX

    @cached_property
    def bounded(self) -> dict[int, bool]:
        """The affine nodes whose bounds the relaxations rest on, and whether all their numbers matter (True) or only
        those that straddle zero, because nothing but ReLUs reads them.

        Where a node only moves numbers, it is the node that they come from.
        """
        result: dict[int, bool] = {}
        for position in self.nonlinear:
            everything = not isinstance(self.nodes[position].operation, Relu)
            for source in self.nodes[position].inputs:
                while isinstance(self.nodes[source].operation, Reshape | Permute | Select):
                    (source,) = self.nodes[source].inputs
                if isinstance(self.nodes[source].operation, Affine):
                    result[source] = result.get(source, False) or everything
        return result

    @cached_property
    def exact(self) -> frozenset[int]:
        """The nodes that intervals bound exactly, but for rounding: on the way from the input to them one operation at
        most mixes numbers, and none is nonlinear."""
        mixing = [0.0]
        for node in self.nodes[1:]:
            apart = isinstance(node.operation, Reshape | Permute | Select | Scale | Concat)
            own = 0 if apart else 1 if isinstance(node.operation, Affine) else math.inf
            mixing.append(own + max(mixing[source] for source in node.inputs))
        return frozenset(position for position, count in enumerate(mixing) if count <= 1)

    @cached_property
    def last_use(self) -> tuple[int, ...]:
        """For every node the position of the last node that reads it."""
        last = list(range(len(self.nodes)))
        for position, node in enumerate(self.nodes):
            for source in node.inputs:
                last[source] = position
        return tuple(last)

    def preactivation(self, relu: int) -> int:
        """The node whose value the ReLU at `relu` is applied to."""
        return self.nodes[relu].inputs[0]

    @property
    def bytes(self) -> int:
        """What its numbers take."""
        fields = (value for node in self.nodes for value in vars(node.operation).values())
        return sum(_bytes(value) for value in fields if isinstance(value, Tensor))

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> BoundGraph:
        """The same graph with its numbers of another type, on another device."""
        target = torch.device(device)
        return BoundGraph(
            tuple(replace(node, operation=node.operation.to(dtype, target)) for node in self.nodes)
        )

    def values(self, x: Tensor, until: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Positions and values (N, *shape) of all nodes at the inputs x (N, *input shape), in order.

        A value is forgotten after its last use.
        """
        end = self.output if until is None else until
        known: dict[int, Tensor] = {0: x}
        yield 0, x
        for position in range(1, end + 1):
            node = self.nodes[position]
            known[position] = node.operation.forward(*(known[source] for source in node.inputs))
            yield position, known[position]
            for source in node.inputs:
                if self.last_use[source] <= position:
                    known.pop(source, None)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs (N, *output shape) at x (N, *input shape)."""
        *_, (_, value) = self.values(x)
        return value


def _bytes(tensor: Tensor) -> int:
    if tensor.layout == torch.strided:
        return tensor.numel() * tensor.element_size()
    return sum(_bytes(part) for part in (tensor.crow_indices(), tensor.col_indices(), tensor.values()))


FLOOR, SMALL = 1e-300, 1e-280
"""γ_n says nothing of underflow: a product below 1e-308 may lose all of itself. FLOOR exceeds that loss, and what is
smaller than SMALL is widened by as much."""


def affine_interval(
    operation: Affine, pairs: list[tuple[Tensor, Tensor]], magnitude: Tensor
) -> tuple[Tensor, Tensor]:
    """Bounds of an affine operation over boxes given as (lower, upper) an input.

    Interval arithmetic in centre and radius (Gowal et al. 2018, "On the effectiveness of interval bound
    propagation"). `magnitude` bounds |L||x| + |b| on the boxes; the rounding error is γ_n times that.
    """
    if operation.terms == 0 or isinstance(operation, Select):  # moves numbers only: exact
        return operation.forward(*(low for low, _ in pairs)), operation.forward(*(high for _, high in pairs))
    centres = [(low + high) / 2 for low, high in pairs]
    # The radius is taken from the rounded centre, upwards, so that the pair encloses [low, high].
    radii = [
        torch.maximum(high - c, c - low) * (1 + 4 * unit(c))
        for (low, high), c in zip(pairs, centres, strict=True)
    ]
    centre, radius = operation.forward(*centres), operation.absolute(*radii)
    # |centre| and radius are each at most 2 M, and so are the sums that they are computed by.
    radius = radius + gamma(4 * operation.terms + 16, centre) * magnitude
    if bool((magnitude < SMALL).any()):  # underflow, or nothing at all: which, the signs of the factors tell
        reached = operation.magnitude(
            *((c.abs() + r > 0).to(c.dtype) for c, r in zip(centres, radii, strict=True))
        )
        radius = torch.where((magnitude < SMALL) & (reached > 0), radius + SMALL, radius)
    # ∞ - ∞ is NaN, of which nothing is known: no comparison may take it for a stable neuron.
    return _known(centre - radius, -math.inf), _known(centre + radius, math.inf)


def _known(bound: Tensor, otherwise: float) -> Tensor:
    return torch.nan_to_num(bound, nan=otherwise, posinf=math.inf, neginf=-math.inf)


def unit(tensor: Tensor) -> float:
    """The unit roundoff u of the tensor's number type (half the distance from 1 to the next number)."""
    return torch.finfo(tensor.dtype).eps / 2


def gamma(terms: int, tensor: Tensor) -> float:
    """γ_n = n·u / (1 - n·u): the relative error of a sum of n products (Higham 2002, 3.1), n doubled for the
    rounding of the error bound itself."""
    error = 2 * terms * unit(tensor)
    return error / (1 - error)
