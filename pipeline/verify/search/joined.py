"""Several instances of one network as one problem, so that their domains share batches.

Folded for different boxes, a network has other neurons left on each. The folded networks are padded to the largest of
each layer with neurons (and inputs) that are always zero, layers and paths that only some have are zero in the others,
and maps stand side by side (`graph.stacked`); what belongs to a domain (its maps, box, bounds of neurons) is that of
its clause's instance. A domain's bound is what it is alone, but for rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from secateur.pipeline.verify.bounding.branching import LEVELS
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.bounding.specification import NEVER
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, Node
from secateur.pipeline.verify.graph.operations import Dense, Input, Relu, Sparse, Sum
from secateur.pipeline.verify.graph.stacked import Beside, Map, Parts, Stacked
from secateur.pipeline.verify.region.fold import Folded
from secateur.pipeline.verify.search import relu_split
from secateur.pipeline.verify.search.problem import REPLAYED, Problem, Progress

Rows = dict[str, Tensor]


def first_hits(owner: Tensor, satisfied: Tensor) -> list[int]:
    """Of the rows of a batch, which belong to `owner` (B,), the first `REPLAYED` satisfied ones of every instance."""
    where = torch.nonzero(satisfied).flatten()
    where = where[torch.argsort(owner[where], stable=True)]
    own = owner[where]
    first = torch.searchsorted(own, own)
    return where[torch.arange(len(where), device=where.device) - first < REPLAYED].tolist()


@dataclass
class Joined(Problem):
    """The clauses of all `members`, in order; make it with `join`.

    `owner` (P,): each clause's member; `places`: for each member the positions of its own neurons among all U of the
    padded layers. The fields of `folded` are those of all members, (I, …).
    """

    members: tuple[Problem, ...] = ()
    owner: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    places: tuple[Tensor, ...] = ()

    def folded_of(self, clause: Tensor) -> Folded:
        owner, folded = self.owner[clause], self.folded
        return replace(
            folded,
            graph=self._on(folded.graph, owner),
            box=folded.box[owner],
            bounds={p: (low[owner], high[owner]) for p, (low, high) in folded.bounds.items()},
            magnitudes={p: magnitude[owner] for p, magnitude in folded.magnitudes.items()},
        )

    def fast_of(self, clause: Tensor) -> BoundGraph:
        return self._on(self.fast, self.owner[clause])

    def bounds_of(self, clause: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        owner = self.owner[clause]
        return {p: (low[owner], high[owner]) for p, (low, high) in self.folded.bounds.items()}

    def box_of(self, clause: Tensor, dtype: torch.dtype) -> Box:
        return self.folded.box.to(dtype)[self.owner[clause]]

    def hits(self, clause: Tensor, satisfied: Tensor) -> list[int]:
        return first_hits(self.owner[clause], satisfied)

    def _on(self, graph: BoundGraph, owner: Tensor) -> BoundGraph:
        """The stacked graph for a batch of rows that belong to `owner` (B,), ascending."""
        parts = Parts.of(owner, len(self.members))
        return BoundGraph(
            tuple(
                replace(node, operation=replace(node.operation, parts=parts))
                if isinstance(node.operation, Beside | Stacked)
                else node
                for node in graph.nodes
            )
        )

    def rows_of(self, member: int, rows: Rows) -> Rows:
        """Those rows of domains that belong to a member, as its own search has them."""
        mine = torch.nonzero(self.owner[rows["clause"]] == member).flatten()
        own, place = self.members[member], self.places[member]
        first = int(torch.searchsorted(self.owner, member))
        number = place.new_full((self.layout.total + 1,), -1)  # the last is that of "no neuron", -1
        number[place] = torch.arange(len(place), device=place.device)
        neuron = number[rows["neuron"][mine]]
        levels = min(neuron.shape[1], len(place))
        return {
            "bound": rows["bound"][mine],
            "clause": rows["clause"][mine] - first,
            "signs": rows["signs"][mine][:, place],
            "multipliers": rows["multipliers"][mine][:, place],
            "weights": rows["weights"][mine][:, : own.constant.shape[1]],
            "neuron": neuron[:, :levels],
        }

    def rows_from(self, member: int, rows: Rows) -> Rows:
        """Rows of a member's own search, as those of all members are: what `rows_of` takes apart."""
        place, count = self.places[member], len(rows["clause"])
        neuron = torch.cat([place, place.new_full((1,), -1)])[rows["neuron"]]
        levels = min(LEVELS, self.layout.total)
        return {
            "bound": rows["bound"],
            "clause": rows["clause"] + torch.searchsorted(self.owner, member),
            **{
                name: rows[name].new_zeros(count, self.layout.total).index_copy(1, place, rows[name])
                for name in ("signs", "multipliers")
            },
            "weights": pad(rows["weights"], (0, self.constant.shape[1] - rows["weights"].shape[1])),
            "neuron": pad(neuron, (0, levels - neuron.shape[1]), value=-1),
        }


def join(members: Sequence[Problem], *, stacked: bool | None = None) -> Joined:
    """One problem of several instances of one network, each of which has neurons left.

    `stacked`: their maps as one tensor (default: but on the CPU).
    """
    folds = [member.folded for member in members]
    rows, constant = (
        stacked_rows([getattr(member, name) for member in members], value)
        for name, value in (("rows", 0.0), ("constant", NEVER))
    )
    width = max(fold.box.lower.shape[1] for fold in folds)
    direct = None
    if any(member.direct is not None for member in members):
        own = [
            m.rows.new_zeros(*m.rows.shape[:2], f.box.lower.shape[1]) if m.direct is None else m.direct
            for m, f in zip(members, folds, strict=True)
        ]
        direct = stacked_rows([pad(each, (0, width - each.shape[2])) for each in own], 0.0)
    counts = torch.tensor([len(member.constant) for member in members], device=rows.device)
    owner = torch.arange(len(members), device=rows.device).repeat_interleave(counts)
    first = members[0]
    padded = _padded(folds, rows.device.type != "cpu" if stacked is None else stacked)
    joined = Joined(rows, direct, constant, padded, first.dtype, first.filtered, tuple(members), owner)
    joined.places = tuple(_places(joined, member) for member in members)
    return joined


def _places(joined: Joined, member: Problem) -> Tensor:
    sizes = {original: len(kept) for original, kept in member.folded.neurons.values()}
    places, start = [], 0
    for original, everything in joined.folded.neurons.values():
        places.append(torch.arange(start, start + sizes.get(original, 0), device=joined.rows.device))
        start += len(everything)
    return torch.cat(places)


def stacked_rows(each: Sequence[Tensor], value: float) -> Tensor:
    """Tensors (P, S, …) one after the other, padded to the largest S."""
    most = max(tensor.shape[1] for tensor in each)
    return torch.cat([pad(t, (*[0, 0] * (t.dim() - 2), 0, most - t.shape[1]), value=value) for t in each])


OUTPUT = sys.maxsize
"""What stands for the network's output among the positions of the original's ReLUs."""


@dataclass(frozen=True)
class _Layer:
    """How a folded network comes to one layer of neurons, or to its output: positions of the ReLU (or the output), of
    the sum of maps before it, and of the maps by the original position of what each reads, a ReLU or (0) the input."""

    place: int
    end: int
    maps: dict[int, int]


def _layers(folded: Folded) -> dict[int, _Layer]:
    """By the original position of the layer's ReLU, or `OUTPUT`."""
    graph = folded.graph
    original = {0: 0} | {place: position for place, (position, _) in folded.neurons.items()}
    layers: dict[int, _Layer] = {}
    maps: dict[int, int] = {}
    for place, node in enumerate(graph.nodes):
        if isinstance(node.operation, Dense | Sparse):
            maps[original[node.inputs[0]]] = place
        if place in folded.neurons:
            layers[original[place]], maps = _Layer(place, graph.preactivation(place), maps), {}
    return {**layers, OUTPUT: _Layer(graph.output, graph.output, maps)}


def _padded(folds: Sequence[Folded], stacked: bool) -> Folded:
    """The folded networks as one, whose tensors lead with their number."""
    like = folds[0].box.lower
    layers = [_layers(fold) for fold in folds]

    def side(tensors: Iterable[Tensor | None], size: int) -> Tensor:
        """Tensors (1, n), or None for zeros, as one (I, size)."""
        nothing = like.new_zeros(1, 0)
        return torch.cat(
            [pad(t, (0, size - t.shape[1])) for t in (nothing if t is None else t for t in tensors)]
        )

    width = max(fold.box.lower.shape[1] for fold in folds)
    nodes = [Node(folds[0].graph.input.name, Input(), (), (width,))]
    place = {0: 0}
    bounds: dict[int, tuple[Tensor, Tensor]] = {}
    magnitudes = {0: side((fold.magnitudes[0] for fold in folds), width)}
    for target in sorted(set().union(*layers)):
        own = [(fold, each.get(target)) for fold, each in zip(folds, layers, strict=True)]
        size = max(fold.graph.nodes[layer.end].size for fold, layer in own if layer)
        first = len(nodes)
        for source in sorted(set().union(*(layer.maps for _, layer in own if layer))):
            maps = [_map(fold, layer.maps.get(source)) if layer else None for fold, layer in own]
            sizes = (size, nodes[place[source]].size)
            operation = Stacked.of(maps, sizes, like) if stacked else Beside(tuple(maps), sizes)
            nodes.append(Node(f"{target}/{source}", operation, (place[source],), (size,)))
        count = len(nodes) - first
        if count > 1:
            nodes.append(Node(f"{target}", Sum((1.0,) * count), tuple(range(first, len(nodes))), (size,)))
        magnitude = side((fold.magnitudes[layer.end] if layer else None for fold, layer in own), size)
        magnitudes |= dict.fromkeys(range(first, len(nodes)), magnitude)
        if target != OUTPUT:
            here = place[target] = len(nodes)
            nodes.append(Node(f"{target}/relu", Relu(), (here - 1,), (size,)))
            low, high = (
                side((fold.bounds[layer.place][i] if layer else None for fold, layer in own), size)
                for i in (0, 1)
            )
            bounds[here] = low, high
            magnitudes[here] = side(
                (fold.magnitudes[layer.place] if layer else None for fold, layer in own), size
            )
    box = Box(*(side((getattr(fold.box, name) for fold in folds), width) for name in ("lower", "upper")))
    everything = [torch.arange(node.size, device=like.device) for node in nodes]
    neurons = {here: (target, everything[here]) for target, here in place.items() if here}
    return Folded(BoundGraph(tuple(nodes)), box, everything[0], neurons, bounds, magnitudes)


def _map(folded: Folded, position: int | None) -> Map:
    operation = None if position is None else folded.graph.nodes[position].operation
    return operation if isinstance(operation, Dense | Sparse) else None


@dataclass
class Member:
    """One of the instances whose domains share batches: its problem, progress, and judge of points (see
    `relu_split.solve`). `outcome`: "unsat" or "sat" where its search is over."""

    problem: Problem
    progress: Progress
    suspect: Callable[[Tensor, int], bool]
    outcome: str = "unknown"


def search(
    members: Sequence[Member],
    *,
    first: Schedule,
    schedule: Schedule,
    batch: int,
    most: int,
    expired: Callable[[], bool],
) -> None:
    """Branch and bound of instances of one network, each of which has neurons left, in shared batches, as
    `relu_split.solve`: from what is open of each, or from its root where nothing is.

    One of which so many as `most` domains were looked at here leaves, as do domains in which nothing is left to split:
    what is open is then in the members' own stores, from which their own searches go on.
    """
    problem = join([member.problem for member in members])
    device = problem.owner.device
    counts = torch.zeros(len(members), dtype=torch.long, device=device)
    over = torch.zeros(len(members), dtype=torch.bool, device=device)
    starts = torch.searchsorted(problem.owner, torch.arange(len(members), device=device)).tolist()

    def suspect(x: Tensor, clause: int) -> bool:
        i = int(problem.owner[clause])
        member = members[i]
        own = x[: member.problem.folded.graph.input.size]
        if member.outcome != "sat" and member.suspect(own, clause - starts[i]):
            member.outcome, over[i] = "sat", True
        return False

    fresh = torch.tensor([not len(member.progress.store) for member in members], device=device)
    together = Progress()
    for i, member in enumerate(members):
        if len(member.progress.store):
            together.store.put(**problem.rows_from(i, member.progress.store.drain()))
    clause = torch.nonzero(fresh[problem.owner]).flatten()
    signs = clause.new_zeros((len(clause), problem.layout.total), dtype=torch.int8)
    new: Rows = {"clause": clause, "signs": signs, "weights": problem.weights()[clause]}
    leaving: list[Rows] = []
    while True:
        if len(new["clause"]):
            counts += torch.bincount(problem.owner[new["clause"]], minlength=len(members))
            over |= counts >= most
            begun = "multipliers" in new
            relu_split.bounded(problem, new, None, schedule if begun else first, expired, suspect, together)
        if not len(together.store) or expired():
            break
        picked = together.store.take(batch)
        owner = problem.owner[picked["clause"]]
        stays = ~over[owner] & (picked["neuron"][:, 0] >= 0)
        leaving.append({name: values[~stays] for name, values in picked.items()})
        order = torch.argsort(owner[stays], stable=True)
        picked = {name: values[stays][order] for name, values in picked.items()}
        new = relu_split.children(picked, batch // relu_split.SHORT) if len(order) else picked
    leaving = [rows for rows in (*leaving, together.store.drain()) if rows]
    rest = {name: torch.cat([rows[name] for rows in leaving]) for name in (leaving[0] if leaving else ())}
    for i, member in enumerate(members):
        member.progress.domains += int(counts[i])
        if rest:
            member.progress.store.put(**problem.rows_of(i, rest))
        if member.outcome != "sat" and not len(member.progress.store) and not member.progress.undecided:
            member.outcome = "unsat"
