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

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.formats.errors import UnsupportedError
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.relaxation import Relaxations, ReluRelaxation, Schedule
from secateur.pipeline.verify.bounding.root import CHUNK_NUMBERS, Ascent, NodeBounds, tighten
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, Node, affine_interval, unit
from secateur.pipeline.verify.graph.operations import Affine, Dense, Input, Relu, Sparse, Sum
from secateur.pipeline.verify.memory import scaled
from secateur.pipeline.verify.region.refine import Allowance, Refinement

SPARSE_FROM, SPARSE_SHARE = 100_000, 0.05
"""Matrices of so many numbers, so few of which are not zero, are kept sparse (13 times faster at 1 %, measured)."""


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


def free_inputs(box: Box) -> Tensor:
    """The flat positions of the inputs of one box (B = 1) that can vary.

    A side of an ulp or two is a decimal that float64 cannot hold: fixed, too (`_Folding` counts its rounding).
    """
    largest = torch.maximum(box.lower.abs(), box.upper.abs())
    return torch.nonzero((box.upper - box.lower > 4 * unit(largest) * largest).flatten()).flatten()


def fold(graph: BoundGraph, bounds: NodeBounds) -> Folded:
    """Fold `graph` (float64) for the one box of `bounds` (B = 1).

    Raises:
        UnsupportedError: it has nonlinear nodes other than ReLUs.
    """
    return _Folding(graph, bounds.box, bounds.values).folded()


def fold_and_bound(
    graph: BoundGraph,
    box: Box,
    schedule: Schedule | None,
    expired: Callable[[], bool] = lambda: False,
    *,
    known: NodeBounds | None = None,
    allowance: Allowance | None = None,
) -> tuple[Folded, NodeBounds]:
    """Fold `graph` (float64) for one box (B = 1) while bounding it: `root.bound_nodes` and `fold` in one.

    Layer by layer, the neurons that intervals leave are bounded by CROWN (and, with a schedule, by α-CROWN in float32,
    evaluated in float64) on the network folded so far. Convolutions are transposed once a layer instead of once a pair
    of layers, and every later step multiplies small dense matrices. Once `expired()`, intervals have to do.

    `known` are bounds of all nodes that hold already: they are intersected with. With an `allowance`, layers are
    refined by branch and bound as well (see `refine`).
    """
    folding = _Folding(
        graph,
        box,
        {} if known is None else known.values,
        lambda *layer: _tightened(*layer, schedule=schedule, allowance=allowance, expired=expired),
    )
    folded = folding.folded()
    return folded, NodeBounds(box, folding.values)


Bounded = tuple[Tensor, Tensor]
"""Lower and upper bounds (1, n)."""


@dataclass(frozen=True)
class _Partial:
    """A network folded up to one layer's pre-activations, whose bounds `interval` are to be tightened."""

    graph: BoundGraph
    box: Box
    bounds: dict[int, Bounded]
    magnitudes: dict[int, Tensor]


class _Folding:
    """A fold in progress; `values` holds the bounds of the original's nodes, given or found."""

    def __init__(
        self,
        graph: BoundGraph,
        box: Box,
        given: dict[int, Bounded],
        tighten: Callable[[_Partial, Bounded], Bounded] | None = None,
    ) -> None:
        if not graph.piecewise_linear:
            other = next(n for n in graph.nodes[1:] if not isinstance(n.operation, Affine | Relu))
            raise UnsupportedError(
                f"node '{other.name}': this verifier knows ReLUs and affine operations only",
                hint="use --verifier crown",
            )
        self.graph, self.tighten = graph, tighten
        self.values = {0: (box.lower, box.upper), **given}
        lower, upper = box.lower.flatten(), box.upper.flatten()
        largest = torch.maximum(box.lower.abs(), box.upper.abs())
        free = free_inputs(box)
        if len(free) == 0:
            free = torch.zeros(1, dtype=torch.long, device=lower.device)
        self.fixed = lower.clone()
        self.fixed[free] = 0.0
        self.box = Box(lower[free].unsqueeze(0), upper[free].unsqueeze(0))
        self.kept: dict[int, Tensor] = {0: free}
        self.nodes = [Node(graph.input.name, Input(), (), (len(free),))]
        self.place = {0: 0}
        self.neurons: dict[int, tuple[int, Tensor]] = {}
        self.bounds: dict[int, Bounded] = {}
        self.magnitudes = {0: largest.flatten(1)[:, free]}
        # Of the chains of affine operations that end in a node: its magnitude, and its terms.
        self.chains: dict[int, tuple[Tensor, int]] = {0: (largest, 8)}

    def folded(self) -> Folded:
        for position, node in enumerate(self.graph.nodes[1:], 1):
            if isinstance(node.operation, Affine):
                chains = [self.chains[source] for source in node.inputs]
                magnitude = node.operation.magnitude(*(chain for chain, _ in chains))
                self.chains[position] = (
                    magnitude,
                    max(terms for _, terms in chains) + node.operation.terms + 2,
                )
                if position not in self.values:
                    pairs = [self.values[source] for source in node.inputs]
                    exact = node.operation.magnitude(*(torch.maximum(a.abs(), b.abs()) for a, b in pairs))
                    self.values[position] = affine_interval(node.operation, pairs, exact)
            else:
                self._relu(position)
        output = self.graph.output
        if output not in self.kept:
            everything = torch.arange(self.graph.nodes[output].size, device=self.fixed.device)
            self._append(output, *self._dense(output, everything))
        else:  # the output is a ReLU: its neurons left out are zero
            self._scatter(output)
        graph = BoundGraph(tuple(self.nodes))
        return Folded(graph, self.box, self.kept[0], self.neurons, self.bounds, self.magnitudes)

    def _relu(self, position: int) -> None:
        """Fold the ReLU at `position` and, when asked to, bound its argument on the network folded so far."""
        target = self.graph.preactivation(position)
        low, high = (side.flatten(1) for side in self.values[target])
        wanted = torch.nonzero(~(high[0] <= 0)).flatten()
        if len(wanted):
            layer = self._dense(target, wanted)
            if self.tighten is not None and self.bounds:
                count = len(self.nodes)
                self._append(target, *layer)
                partial = _Partial(BoundGraph(tuple(self.nodes)), self.box, self.bounds, self.magnitudes)
                tight = self.tighten(partial, (low[:, wanted], high[:, wanted]))
                for extra in range(count, len(self.nodes)):
                    del self.magnitudes[extra]
                del self.nodes[count:]
                low, high = low.index_copy(1, wanted, tight[0]), high.index_copy(1, wanted, tight[1])
                shape = self.graph.nodes[target].shape
                self.values[target] = (low.unflatten(1, shape), high.unflatten(1, shape))
                alive = torch.nonzero(~(tight[1][0] <= 0)).flatten()
                wanted = wanted[alive]
                matrices, bias, magnitude = layer
                layer = ({s: m[alive] for s, m in matrices.items()}, bias[alive], magnitude[:, alive])
        clamped = (self.values[target][0].clamp(min=0), self.values[target][1].clamp(min=0))
        if self.tighten is not None or position not in self.values:
            self.values[position] = clamped
        self.chains[position] = (self.values[position][1], 0)
        self.kept[position] = wanted
        if len(wanted):
            self._append(target, *layer)
            low, high = low[:, wanted], high[:, wanted]
            self.nodes.append(
                Node(self.graph.nodes[position].name, Relu(), (len(self.nodes) - 1,), (len(wanted),))
            )
            place = self.place[position] = len(self.nodes) - 1
            self.neurons[place], self.bounds[place] = (position, wanted), (low, high)
            self.magnitudes[place] = torch.maximum(low.abs(), high.abs())

    def _dense(self, target: int, wanted: Tensor) -> tuple[dict[int, Tensor], Tensor, Tensor]:
        """The dense maps into the neurons `wanted` of node `target`, their bias and magnitude."""
        fixed = self.fixed.reshape(1, *self.graph.input.shape)
        matrices, bias = _matrices(self.graph, target, wanted, self.kept, fixed)
        magnitude, terms = self.chains[target]
        # `backward` takes at least len(wanted) + 8 terms for this node, to which those of the chain are added; the 8
        # alone are counted, since neurons may still be left out.
        return matrices, bias, magnitude.flatten(1)[:, wanted] * (1.0 + terms / 8)

    def _append(self, target: int, matrices: dict[int, Tensor], bias: Tensor, magnitude: Tensor) -> None:
        """Append the nodes of one layer's dense maps; the last of them is the layer's pre-activation."""
        name, size = self.graph.nodes[target].name, len(bias)
        if not matrices:  # depends on no neuron left: a constant
            matrices = {0: bias.new_zeros(size, len(self.kept[0]))}
        parts: list[int] = []
        for source, matrix in matrices.items():
            operation = affine_map(matrix, None if parts else bias)
            parts.append(len(self.nodes))
            self.nodes.append(Node(f"{name}/{len(parts)}", operation, (self.place[source],), (size,)))
        if len(parts) > 1:
            self.nodes.append(Node(name, Sum((1.0,) * len(parts)), tuple(parts), (size,)))
        for position in range(parts[0], len(self.nodes)):
            self.magnitudes[position] = magnitude

    def _scatter(self, output: int) -> None:
        """The output of a network that ends in a ReLU: its kept neurons in their places, zeros elsewhere."""
        size, kept = self.graph.nodes[output].size, self.kept[output]
        matrix = self.fixed.new_zeros(size, len(kept))
        matrix[kept, torch.arange(len(kept), device=kept.device)] = 1.0
        matrices = {output: matrix} if len(kept) else {}
        magnitude = self.values[output][1].flatten(1)
        self._append(output, matrices, self.fixed.new_zeros(size), magnitude)


def affine_map(matrix: Tensor, bias: Tensor | None) -> Affine:
    """The map, in the form that is multiplied fastest."""
    if matrix.numel() > SPARSE_FROM and int(torch.count_nonzero(matrix)) < SPARSE_SHARE * matrix.numel():
        return Sparse.of(matrix, bias)
    return Dense(matrix, bias)


def _tightened(
    partial: _Partial,
    interval: Bounded,
    *,
    schedule: Schedule | None,
    allowance: Allowance | None,
    expired: Callable[[], bool],
) -> Bounded:
    """CROWN's (α-CROWN's, and a refinement's) bounds of the last node of a partly folded network, within `interval`."""
    graph, box, magnitudes = partial.graph, partial.box, partial.magnitudes
    relaxations: Relaxations = {p: ReluRelaxation.of(*bound) for p, bound in partial.bounds.items()}
    if not expired():
        interval = tighten(graph, interval, relaxations, magnitudes, box, graph.output)
    if schedule is not None and not expired():
        rough: Relaxations = {
            p: ReluRelaxation.of(*(side.float() for side in bound)) for p, bound in partial.bounds.items()
        }
        ascent = Ascent(graph.to(torch.float32, box.lower.device), rough, schedule)
        interval = tighten(graph, interval, relaxations, magnitudes, box, graph.output, ascent)
    if allowance is not None and not expired():
        refinement = Refinement(graph, box, partial.bounds, magnitudes, *interval)
        interval = refinement.run(allowance.share(), expired)
        allowance.spend(refinement.spent)
    return interval


def refold(folded: Folded, bounds: NodeBounds) -> Folded:
    """`folded` for a part of its box: `bounds` (B = 1) are those of its graph's nodes there.

    Neurons that are inactive on the part are left out; the weights of the others are the same numbers. Magnitudes are
    kept: what bounds a sum of absolute values on the whole box does so on a part.
    """
    graph = folded.graph
    kept = {0: torch.arange(graph.input.size, device=folded.inputs.device)}
    for relu in graph.relus:
        _, high = bounds.values[graph.preactivation(relu)]
        kept[relu] = torch.nonzero(~(high.flatten() <= 0)).flatten()
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
        if isinstance(operation, Dense | Sparse):
            weight = operation.weight.to_dense()[rows][:, kept[node.inputs[0]]]
            operation = affine_map(weight, None if operation.bias is None else operation.bias[rows])
        place[position] = len(nodes)
        magnitudes[len(nodes)] = folded.magnitudes[position][:, rows]
        if position in folded.neurons:
            original, chosen = folded.neurons[position]
            neurons[len(nodes)] = (original, chosen[rows])
            low, high = bounds.values[graph.preactivation(position)]
            new_bounds[len(nodes)] = (low[:, rows], high[:, rows])
        nodes.append(Node(node.name, operation, tuple(place[s] for s in node.inputs), (len(rows),)))
    return Folded(BoundGraph(tuple(nodes)), bounds.box, folded.inputs, neurons, new_bounds, magnitudes)


def _matrices(
    graph: BoundGraph, target: int, wanted: Tensor, kept: dict[int, Tensor], fixed: Tensor
) -> tuple[dict[int, Tensor], Tensor]:
    """Dense maps from every ReLU (and the input) that reaches `target` through affine operations alone.

    Returns source position → matrix (wanted, neurons kept of the source), and the bias (wanted), in which the inputs
    of zero width are included with their values.
    """
    size = graph.nodes[target].size
    chunk = max(1, scaled(CHUNK_NUMBERS) // max(node.size for node in graph.nodes))
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
