"""What the checker makes of an ONNX file: affine nodes and ReLUs on flat vectors, weights in float64 as stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from secateur.formats.query import Floats
from secateur.pipeline.certificate.maps import Map


@dataclass(frozen=True)
class Affine:
    """value = Σ map(value of source) + bias, n numbers. `bias_size` is at least |bias| and whatever its computation
    summed up, `terms` counts those sums."""

    parts: tuple[tuple[int, Map], ...]
    bias: Floats
    bias_size: Floats
    terms: int

    @cached_property
    def absolute(self) -> tuple[tuple[int, Map], ...]:
        """The parts with their maps of absolute values."""
        return tuple((source, each.absolute()) for source, each in self.parts)


@dataclass(frozen=True)
class Relu:
    """max(value of source, 0)."""

    source: int


@dataclass(frozen=True)
class Network:
    """Nodes in order: what each is made of lies before it. Node 0 is the input (None), the last one the output."""

    nodes: tuple[Affine | Relu | None, ...]
    sizes: tuple[int, ...]

    @property
    def output(self) -> int:
        return len(self.nodes) - 1

    @cached_property
    def relus(self) -> tuple[int, ...]:
        """Positions of the ReLUs, in order; elsewhere they go by their number in this list."""
        return tuple(i for i, node in enumerate(self.nodes) if isinstance(node, Relu))

    def forward(self, x: Floats) -> Floats:
        """The outputs (N, outputs) at x (N, inputs), in float64."""
        values = [x]
        for node in self.nodes[1:]:
            if isinstance(node, Relu):
                values.append(np.maximum(values[node.source], 0.0))
            elif node is not None:
                values.append(node.bias + sum(each.forward(values[source]) for source, each in node.parts))
        return values[-1]
