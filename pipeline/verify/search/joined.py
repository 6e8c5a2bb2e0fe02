"""Several instances of one network as one problem, so that their domains share batches.

Folded for different boxes, a network has other neurons left on each. The folded networks are padded to the largest of
each layer with neurons (and inputs) that are always zero, and stacked (`graph.stacked`); what belongs to a domain (its
maps, box, bounds of neurons) is that of its clause's instance. A domain's bound is what it is alone, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.bounding.specification import NEVER
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, Node
from secateur.pipeline.verify.graph.operations import Dense, Sparse
from secateur.pipeline.verify.graph.stacked import Parts, Stacked
from secateur.pipeline.verify.region.fold import Folded
from secateur.pipeline.verify.search import relu_split
from secateur.pipeline.verify.search.problem import REPLAYED, Problem, Progress

Rows = dict[str, Tensor]


def alike(folded: Folded) -> tuple[object, ...] | None:
    """Folded networks of which this is the same can be joined; None: with no other."""
    kinds = tuple((type(node.operation), node.inputs) for node in folded.graph.nodes)
    if not folded.neurons or any(kind is Sparse for kind, _ in kinds):
        return None
    return kinds


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
        """The first `REPLAYED` of every instance."""
        where = torch.nonzero(satisfied).flatten()
        owner = self.owner[clause[where]]
        first = torch.searchsorted(owner, owner)  # owners ascend
        return where[torch.arange(len(where), device=where.device) - first < REPLAYED].tolist()

    def _on(self, graph: BoundGraph, owner: Tensor) -> BoundGraph:
        """The stacked graph for a batch of rows that belong to `owner` (B,), ascending."""
        parts = Parts.of(owner, len(self.members))
        return BoundGraph(
            tuple(
                replace(node, operation=replace(node.operation, parts=parts))
                if isinstance(node.operation, Stacked)
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


def join(members: Sequence[Problem]) -> Joined:
    """One problem of several whose networks are `alike`."""
    folds = [member.folded for member in members]
    rows, constant = (
        _stacked_rows([getattr(member, name) for member in members], value)
        for name, value in (("rows", 0.0), ("constant", NEVER))
    )
    width = max(fold.box.lower.shape[1] for fold in folds)
    direct = None
    if any(member.direct is not None for member in members):
        own = [
            m.rows.new_zeros(*m.rows.shape[:2], f.box.lower.shape[1]) if m.direct is None else m.direct
            for m, f in zip(members, folds, strict=True)
        ]
        direct = _stacked_rows([pad(each, (0, width - each.shape[2])) for each in own], 0.0)
    counts = torch.tensor([len(member.constant) for member in members], device=rows.device)
    owner = torch.arange(len(members), device=rows.device).repeat_interleave(counts)
    first = members[0]
    joined = Joined(
        rows, direct, constant, _padded(folds), first.dtype, first.filtered, tuple(members), owner
    )
    joined.places = tuple(_places(joined, member) for member in members)
    return joined


def _places(joined: Joined, member: Problem) -> Tensor:
    device = joined.rows.device
    places, start = [], 0
    for position, size in joined.layout.sizes.items():
        places.append(torch.arange(start, start + member.layout.sizes[position], device=device))
        start += size
    return torch.cat(places)


def _stacked_rows(each: Sequence[Tensor], value: float) -> Tensor:
    """Tensors (P, S, …) one after the other, padded to the largest S."""
    most = max(tensor.shape[1] for tensor in each)
    return torch.cat([pad(t, (*[0, 0] * (t.dim() - 2), 0, most - t.shape[1]), value=value) for t in each])


def _padded(folds: Sequence[Folded]) -> Folded:
    """The folded networks as one, whose tensors lead with their number."""
    first = folds[0]
    sizes = [max(fold.graph.nodes[p].size for fold in folds) for p in range(len(first.graph.nodes))]

    def side(tensors: Sequence[Tensor], size: int) -> Tensor:
        return torch.cat([pad(tensor, (0, size - tensor.shape[1])) for tensor in tensors])

    nodes = []
    for position, node in enumerate(first.graph.nodes):
        operation = node.operation
        if isinstance(operation, Dense):
            maps = [fold.graph.nodes[position].operation for fold in folds]
            operation = _stack(
                [each for each in maps if isinstance(each, Dense)], sizes[position], sizes[node.inputs[0]]
            )
        nodes.append(Node(node.name, operation, node.inputs, (sizes[position],)))
    box = Box(*(side([getattr(f.box, name) for f in folds], sizes[0]) for name in ("lower", "upper")))
    everything = {p: torch.arange(sizes[p], device=box.lower.device) for p in (0, *first.neurons)}
    return Folded(
        BoundGraph(tuple(nodes)),
        box,
        everything[0],
        {p: (original, everything[p]) for p, (original, _) in first.neurons.items()},
        {
            p: (
                side([f.bounds[p][0] for f in folds], sizes[p]),
                side([f.bounds[p][1] for f in folds], sizes[p]),
            )
            for p in first.bounds
        },
        {p: side([f.magnitudes[p] for f in folds], sizes[p]) for p in first.magnitudes},
    )


def _stack(maps: Sequence[Dense], outputs: int, inputs: int) -> Stacked:
    weight = torch.stack(
        [pad(m.weight, (0, inputs - m.weight.shape[1], 0, outputs - m.weight.shape[0])) for m in maps]
    )
    bias = None
    if any(m.bias is not None for m in maps):
        bias = torch.stack(
            [
                weight.new_zeros(outputs) if m.bias is None else pad(m.bias, (0, outputs - len(m.bias)))
                for m in maps
            ]
        )
    return Stacked(weight, bias, padded=weight.device.type != "cpu")


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
    """Branch and bound of new instances whose networks are `alike`, in shared batches, as `relu_split.solve`.

    One of which so many as `most` domains were looked at leaves, as do domains in which nothing is left to split: what
    is open is then in the members' own stores, from which their own searches go on.
    """
    problem = join([member.problem for member in members])
    counts = torch.zeros(len(members), dtype=torch.long, device=problem.owner.device)
    over = torch.zeros(len(members), dtype=torch.bool, device=problem.owner.device)
    starts = torch.searchsorted(
        problem.owner, torch.arange(len(members), device=problem.owner.device)
    ).tolist()

    def suspect(x: Tensor, clause: int) -> bool:
        i = int(problem.owner[clause])
        member = members[i]
        own = x[: member.problem.folded.graph.input.size]
        if member.outcome != "sat" and member.suspect(own, clause - starts[i]):
            member.outcome, over[i] = "sat", True
        return False

    together = Progress()
    clause = torch.arange(len(problem.owner), device=problem.owner.device)
    signs = clause.new_zeros((len(clause), problem.layout.total), dtype=torch.int8)
    new: Rows = {"clause": clause, "signs": signs, "weights": problem.weights()}
    leaving: list[Rows] = []
    while True:
        counts += torch.bincount(problem.owner[new["clause"]], minlength=len(members))
        over |= counts >= most
        begun = "multipliers" in new
        relu_split.bounded(problem, new, None, schedule if begun else first, expired, suspect, together)
        picked: Rows = {}
        while len(together.store) and not expired() and not len(picked.get("clause", ())):
            picked = together.store.take(batch)
            owner = problem.owner[picked["clause"]]
            stays = ~over[owner] & (picked["neuron"][:, 0] >= 0)
            leaving.append({name: values[~stays] for name, values in picked.items()})
            order = torch.argsort(owner[stays], stable=True)
            picked = {name: values[stays][order] for name, values in picked.items()}
        if not len(picked.get("clause", ())):
            break
        new = relu_split.children(picked, batch // relu_split.SHORT)
    if len(together.store):
        leaving.append(together.store.drain())
    for i, member in enumerate(members):
        member.progress.domains += int(counts[i])
        for rows in leaving:
            mine = problem.rows_of(i, rows)
            if len(mine["clause"]):
                member.progress.store.put(**mine)
        if member.outcome != "sat" and not len(member.progress.store):
            member.outcome = "unsat"
