"""A network folded for one input box: dense maps between the neurons that still matter there.

On a box, most ReLUs of a trained (and more so of a pruned) network are stable. Inactive ones are left out, inputs of
zero width become part of the biases, and every chain of affine operations between two ReLUs becomes one matrix whose
rows and columns are the neurons left: unstable ones, and active ones as identities. The result is a `BoundGraph`
again, of `Dense` and `Sum` nodes, so that everything that works on the whole network works on the folded one.

**Rounding.** A folded weight is a float64 sum of products along paths through the original operations. Its error is at
most γ_n times the same sum over absolute values, n the number of terms along the path; what it can change of a
neuron's value is then at most γ_n M, where M is the magnitude |L_k|(…(|L_1||h| + |b_1|)…) + |b_k| of the chain.
`Folded.magnitudes` holds this M for every node (scaled for the chain's n), for the rounding argument of `crown`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.pipeline.verify.crown import Box
from secateur.pipeline.verify.graph import BoundGraph, Node
from secateur.pipeline.verify.operations import Affine, Dense, Input, Relu, Sum
from secateur.pipeline.verify.root import CHUNK_NUMBERS, NodeBounds


@dataclass(frozen=True)
class Folded:
    """The folded graph (float64) of one box, and how it relates to the original.

    `box`: its input box (1, inputs left). `inputs`: the flat positions of those inputs. `neurons`: for every ReLU of
    the folded graph (by position there) the original ReLU's position and the flat positions of the neurons kept.
    `bounds`: bounds of their pre-activations, (1, n) each. `magnitudes`: see the module's docstring, (1, n).
    """

    graph: BoundGraph
    box: Box
    inputs: Tensor
    neurons: dict[int, tuple[int, Tensor]]
    bounds: dict[int, tuple[Tensor, Tensor]]
    magnitudes: dict[int, Tensor]


def fold(graph: BoundGraph, bounds: NodeBounds) -> Folded:
    """Fold `graph` (float64) for the one box of `bounds` (B = 1)."""
    lower, upper = (side.flatten() for side in (bounds.box.lower, bounds.box.upper))
    free = torch.nonzero(upper > lower).flatten()
    if len(free) == 0:
        free = torch.zeros(1, dtype=torch.long, device=lower.device)
    fixed = lower.clone()
    fixed[free] = 0.0
    kept: dict[int, Tensor] = {0: free}
    for relu in graph.relus:
        _, high = bounds.values[graph.preactivation(relu)]
        kept[relu] = torch.nonzero(~(high.flatten() <= 0)).flatten()
    largest = {relu: bounds.values[relu][1] for relu in graph.relus}
    largest[0] = torch.maximum(bounds.box.lower.abs(), bounds.box.upper.abs())
    chain_magnitude, chain_terms = _chains(graph, largest)

    nodes = [Node(graph.input.name, Input(), (), (len(free),))]
    place = {0: 0}
    neurons: dict[int, tuple[int, Tensor]] = {}
    new_bounds: dict[int, tuple[Tensor, Tensor]] = {}
    magnitudes: dict[int, Tensor] = {0: largest[0].flatten(1)[:, free]}
    for layer in (*graph.relus, None):
        target = graph.output if layer is None else graph.preactivation(layer)
        wanted = torch.arange(graph.nodes[target].size, device=lower.device) if layer is None else kept[layer]
        if len(wanted) == 0:
            continue
        matrices, bias = _matrices(graph, target, wanted, kept, fixed.reshape(1, *graph.input.shape))
        # `backward` takes at least len(wanted) + 8 terms for this node, to which those of the chain are added.
        scale = 1.0 + chain_terms[target] / (len(wanted) + 8)
        magnitude = chain_magnitude[target].flatten(1)[:, wanted] * scale
        parts: list[int] = []
        for source, matrix in matrices.items():
            operation = Dense(matrix, bias if not parts else None)
            nodes.append(
                Node(f"{graph.nodes[target].name}/{len(parts)}", operation, (place[source],), (len(wanted),))
            )
            magnitudes[len(nodes) - 1] = magnitude
            parts.append(len(nodes) - 1)
        if not parts:  # depends on no neuron left: a constant
            operation = Dense(bias.new_zeros(len(wanted), len(free)), bias)
            nodes.append(Node(graph.nodes[target].name, operation, (0,), (len(wanted),)))
            magnitudes[len(nodes) - 1] = magnitude
            parts.append(len(nodes) - 1)
        if len(parts) > 1:
            nodes.append(
                Node(graph.nodes[target].name, Sum((1.0,) * len(parts)), tuple(parts), (len(wanted),))
            )
            magnitudes[len(nodes) - 1] = magnitude
        if layer is None:
            break
        low, high = (side.flatten(1)[:, wanted] for side in bounds.values[target])
        nodes.append(Node(graph.nodes[layer].name, Relu(), (len(nodes) - 1,), (len(wanted),)))
        place[layer] = len(nodes) - 1
        neurons[len(nodes) - 1] = (layer, wanted)
        new_bounds[len(nodes) - 1] = (low, high)
        magnitudes[len(nodes) - 1] = torch.maximum(low.abs(), high.abs())
    box = Box(lower[free].unsqueeze(0), upper[free].unsqueeze(0))
    return Folded(BoundGraph(tuple(nodes)), box, free, neurons, new_bounds, magnitudes)


def refold(folded: Folded, bounds: NodeBounds) -> Folded:
    """`folded` for a part of its box: `bounds` (B = 1) are those of its graph's nodes there.

    Neurons that are inactive on the part are left out; the weights of the others are the same numbers. Magnitudes are
    kept: what bounds a sum of absolute values on the whole box does so on a part.
    """
    graph = folded.graph
    kept = {0: torch.arange(graph.input.size, device=folded.inputs.device)}
    for relu in graph.relus:
        _, high = bounds.values[graph.preactivation(relu)]
        kept[relu] = torch.nonzero(high.flatten() > 0).flatten()
    nodes = [graph.input]
    place = {0: 0}
    neurons: dict[int, tuple[int, Tensor]] = {}
    new_bounds: dict[int, tuple[Tensor, Tensor]] = {}
    magnitudes = {0: folded.magnitudes[0]}
    targets = [*graph.relus, graph.output]
    for position, node in enumerate(graph.nodes[1:], 1):
        target = next(relu for relu in targets if relu >= position)
        rows = kept[target] if target in kept else torch.arange(node.size, device=folded.inputs.device)
        operation = node.operation
        if isinstance(operation, Dense):
            weight = operation.weight[rows][:, kept[node.inputs[0]]]
            operation = Dense(weight, None if operation.bias is None else operation.bias[rows])
        place[position] = len(nodes)
        magnitudes[len(nodes)] = folded.magnitudes[position][:, rows]
        if position in folded.neurons:
            original, chosen = folded.neurons[position]
            neurons[len(nodes)] = (original, chosen[rows])
            low, high = bounds.values[graph.preactivation(position)]
            new_bounds[len(nodes)] = (low[:, rows], high[:, rows])
        nodes.append(Node(node.name, operation, tuple(place[s] for s in node.inputs), (len(rows),)))
    return Folded(BoundGraph(tuple(nodes)), bounds.box, folded.inputs, neurons, new_bounds, magnitudes)


def _chains(graph: BoundGraph, largest: dict[int, Tensor]) -> tuple[dict[int, Tensor], dict[int, int]]:
    """For every affine node the magnitude of the chains of affine operations that end in it, and their terms.

    Terms are those of the products along a path, of the biases summed over each node on it, and of the inputs of zero
    width that join the bias.
    """
    magnitude: dict[int, Tensor] = {}
    terms: dict[int, int] = {}
    for position, node in enumerate(graph.nodes):
        if position in largest:
            magnitude[position], terms[position] = largest[position], graph.input.size if position == 0 else 0
        elif isinstance(node.operation, Affine):
            magnitude[position] = node.operation.magnitude(*(magnitude[s] for s in node.inputs))
            terms[position] = max(terms[s] for s in node.inputs) + node.operation.terms + node.size + 2
    return magnitude, terms


def _matrices(
    graph: BoundGraph, target: int, wanted: Tensor, kept: dict[int, Tensor], fixed: Tensor
) -> tuple[dict[int, Tensor], Tensor]:
    """Dense maps from every ReLU (and the input) that reaches `target` through affine operations alone.

    Returns source position → matrix (wanted, neurons kept of the source), and the bias (wanted), in which the inputs
    of zero width are included with their values.
    """
    size = graph.nodes[target].size
    chunk = max(1, CHUNK_NUMBERS // max(node.size for node in graph.nodes))
    pieces: list[tuple[dict[int, Tensor], Tensor]] = []
    for first in range(0, len(wanted), chunk):
        rows = wanted[first : first + chunk]
        a = torch.zeros(len(rows), size, dtype=fixed.dtype, device=fixed.device)
        a.scatter_(1, rows.unsqueeze(1), 1.0)
        pending = {target: a.unflatten(1, graph.nodes[target].shape)}
        bias = fixed.new_zeros(len(rows))
        found: dict[int, Tensor] = {}
        for position in range(target, -1, -1):
            coefficient = pending.pop(position, None)
            if coefficient is None:
                continue
            node = graph.nodes[position]
            if not isinstance(node.operation, Affine):
                flat = coefficient.flatten(1)
                if position == 0:
                    bias = bias + flat @ fixed.flatten()
                if len(kept[position]):
                    found[position] = flat[:, kept[position]]
                continue
            offset = node.operation.offset(coefficient)
            bias = bias if offset is None else bias + offset
            for source, result in zip(node.inputs, node.operation.transpose(coefficient), strict=True):
                pending[source] = pending[source] + result if source in pending else result
        pieces.append((found, bias))
    sources = sorted({source for found, _ in pieces for source in found})
    matrices = {source: torch.cat([found[source] for found, _ in pieces]) for source in sources}
    return matrices, torch.cat([bias for _, bias in pieces])
