"""Which input to split: the one to whose width the relaxations owe most of what they lose.

A relaxation's loss is a cost per argument z of the nonlinear nodes (`Relaxation.cost`), weighted with the coefficient
of the node's value in a bound. It shrinks with the interval of z, and that interval is, to first order, the sum over
the inputs of |∂z/∂xᵢ|·(width of i): so the cost is shared among the inputs in these proportions. ∂z/∂x is taken with
every nonlinear node replaced by its secant: one forward pass. A little is added for what a row itself varies by along
each input, which decides where nothing is lost.

The coefficients are those of each row's own CROWN bound: those of the optimised combination leave out what the lower
lines lose, and needed more than 3 times as many domains where rows nearly cancel (ACAS Xu 3_3, property 2). Weighting
inputs by the bound's own coefficients (Wang et al. 2018, "Formal security analysis of neural networks using symbolic
intervals") took more than 20 times as many where most neurons are unstable and the lower lines flat (2_8, property 1);
bounding the children of every input for real took about as many as this.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.crown import Tape, backward
from secateur.pipeline.verify.bounding.optimise import Specification
from secateur.pipeline.verify.bounding.root import NodeBounds
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.graph.operations import Affine, Bilinear, Operation

ROWS = 0.1
"""The share in the score of what the rows vary by."""


def input_scores(graph: BoundGraph, nodes: NodeBounds, rows: Specification) -> Tensor:
    """What splitting each input promises to the rows (B, S) together, (B, inputs), on the B boxes of `nodes`."""
    relaxations = nodes.relaxations(graph)
    tape = Tape()
    backward(graph, relaxations, graph.output, rows.rows, tape=tape)
    width = nodes.box.upper - nodes.box.lower
    # Row i is the change of a node's value across the whole width of input i.
    changes: dict[int, Tensor] = {0: torch.diag_embed(width)}
    score = torch.zeros_like(width)
    for position, node in enumerate(graph.nodes[1:], 1):
        before = [changes[source] for source in node.inputs]
        if isinstance(node.operation, Affine):
            changes[position] = _linear(node.operation, before)
        else:
            pairs = [nodes.values[source] for source in node.inputs]
            changes[position] = _nonlinear(node.operation, pairs, before)
            for a in tape.coefficient[position].split(1, 1) if position in tape.coefficient else ():
                for change, cost in zip(before, relaxations[position].cost(a), strict=True):
                    score += _shares(change, cost)
        for source in node.inputs:
            if source and graph.last_use[source] <= position:
                changes.pop(source, None)
    along = torch.einsum("bso,bio->bsi", rows.rows, changes[graph.output])
    if rows.direct is not None:
        along = along + rows.direct * width.unsqueeze(1)
    return (score + ROWS * along.abs().sum(1)).nan_to_num(nan=0.0)


def _shares(change: Tensor, cost: Tensor) -> Tensor:
    """Costs (B, *shape) distributed over inputs, (B, inputs), as these change (B, inputs, *shape) the argument."""
    size = change.abs().flatten(2)
    share = size / size.sum(1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
    return (share @ cost.flatten(1).unsqueeze(2)).squeeze(2)


def _linear(operation: Affine, changes: list[Tensor]) -> Tensor:
    """The operation's linear part on changes (B, inputs, *shape) of each argument."""
    batch, inputs = changes[0].shape[:2]
    flat = [change.flatten(0, 1) for change in changes]
    changed: Tensor = operation.linear(*flat).unflatten(0, (batch, inputs))
    return changed


def _nonlinear(operation: Operation, pairs: list[tuple[Tensor, Tensor]], changes: list[Tensor]) -> Tensor:
    """About how such changes (B, inputs, *shape) of its arguments change a nonlinear operation."""
    if isinstance(operation, Bilinear):
        x, y = (((low + high) / 2).unsqueeze(1) for low, high in pairs)
        return changes[0] @ y + x @ changes[1]
    secants = _secants(operation, pairs)
    return torch.stack([s.unsqueeze(1) * c for s, c in zip(secants, changes, strict=True)]).sum(0)


def _secants(operation: Operation, pairs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """For each argument the slope (B, *shape) between its bounds, the other arguments at their middles."""
    middles = [(low + high) / 2 for low, high in pairs]
    slopes = []
    for i, (low, high) in enumerate(pairs):
        at_low, at_high = (operation.forward(*middles[:i], side, *middles[i + 1 :]) for side in (low, high))
        slopes.append(((at_high - at_low) / (high - low)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
    return slopes
