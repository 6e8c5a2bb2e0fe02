"""One network made ready for several boxes at once, so that parts of all of them share batches.

The bounds of a node that hold on each of some boxes hold on their union when the least lower and the largest upper one
is taken. By these the network is folded (or embedded): what is left out, and the magnitudes that rounding errors are
taken from, are right for every part of any of the boxes. Between the boxes nothing need hold, and nothing is searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.root import NodeBounds
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.region.embed import embed, embedded_bounds
from secateur.pipeline.verify.region.fold import Folded, fold, free_inputs


@dataclass(frozen=True)
class Hull:
    """A network made ready for I boxes.

    `folded`: as of `fold` (or `embed`), its box the least that holds all; `nodes`: each one's own box (I, inputs left)
    and the bounds of at least those nodes of `folded.graph` that relaxations rest on, (I, *shape).
    """

    folded: Folded
    nodes: NodeBounds

    @staticmethod
    def of(graph: BoundGraph, each: Sequence[NodeBounds], foldable: bool) -> Hull:
        """`each` are the bounds of the nodes of `graph` (float64) on one box (B = 1)."""
        together = stacked(each)
        if not foldable:
            folded, _ = embed(graph, union(together))
            return Hull(folded, embedded_bounds(folded.graph, folded.inputs, together))
        folded = fold(graph, union(together))

        def kept_of(position: int, kept: Tensor) -> tuple[Tensor, Tensor]:
            low, high = together.values[position]
            return low.flatten(1)[:, kept], high.flatten(1)[:, kept]

        values = {0: kept_of(0, folded.inputs)}
        for place, (original, kept) in folded.neurons.items():
            values[folded.graph.preactivation(place)] = kept_of(graph.preactivation(original), kept)
        return Hull(folded, NodeBounds(Box(*values[0]), values))


def groups(each: Sequence[NodeBounds], fits: Callable[[NodeBounds], bool]) -> list[list[int]]:
    """Which boxes (B = 1 each, with some nodes' bounds) are made ready together: one after the other as long as what
    is known on all of them `fits`, and what varies in each varies in all together."""
    found: list[list[int]] = []
    so_far: NodeBounds | None = None
    for i, own in enumerate(each):
        wider = own if so_far is None else union(stacked([so_far, own]))
        varies = bool(torch.isin(free_inputs(own.box), free_inputs(wider.box)).all())
        if so_far is not None and varies and fits(wider):
            found[-1].append(i)
            so_far = wider
        else:
            found.append([i])
            so_far = own
    return found


def stacked(each: Sequence[NodeBounds]) -> NodeBounds:
    """Bounds of the same nodes on one box each (B = 1) as those on all boxes."""
    values = {
        position: (
            torch.cat([nodes.values[position][0] for nodes in each]),
            torch.cat([nodes.values[position][1] for nodes in each]),
        )
        for position in each[0].values
    }
    return NodeBounds(Box(*values[0]), values)


def union(nodes: NodeBounds) -> NodeBounds:
    """Bounds (B = 1) that hold on all boxes of `nodes`."""

    def least(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        return low.amin(0, keepdim=True), high.amax(0, keepdim=True)

    values = {position: least(*pair) for position, pair in nodes.values.items()}
    return NodeBounds(Box(*values[0]), values)
