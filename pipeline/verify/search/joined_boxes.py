"""Several instances of one network with few inputs, whose boxes are split in shared batches.

The network is folded once for all their boxes (see `hull`). A domain is a part of one instance's box: only clauses of
that instance are ever open there, and it begins with the bounds of neurons that are known on that box. What a domain's
bound is alone it is here, but for rounding and the magnitudes that rounding errors are taken from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.root import NodeBounds
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.region import hull
from secateur.pipeline.verify.region.fold import Folded, free_inputs
from secateur.pipeline.verify.search.input_split import SMALLEST_WIDTH, Region, most_boxes
from secateur.pipeline.verify.search.joined import Member
from secateur.pipeline.verify.search.members import Owned, Rows, Together

MOST_NEURONS = 512
"""Of a network folded for several boxes. Where more are left, a domain's arithmetic costs more than sharing saves."""


def groups(graph: BoundGraph, each: Sequence[NodeBounds], most_inputs: int) -> list[list[int]]:
    """Which instances share batches, by the bounds of the nodes of `graph` on each one's box: one after the other, as
    long as on all their boxes together few inputs vary and few neurons are left."""
    sources = [graph.preactivation(p) for p in graph.relus]

    def fits(nodes: NodeBounds) -> bool:
        neurons = sum(int((~(nodes.values[p][1] <= 0)).sum()) for p in sources)
        return len(free_inputs(nodes.box)) <= most_inputs and neurons <= MOST_NEURONS

    known = [NodeBounds(nodes.box, {p: nodes.values[p] for p in (0, *sources)}) for nodes in each]
    return hull.groups(known, fits)


def search(
    members: Sequence[Member],
    graph: BoundGraph,
    nodes: Sequence[NodeBounds],
    *,
    batch: Callable[[BoundGraph], int],
    most: int,
    expired: Callable[[], bool],
) -> None:
    """Split the boxes of new instances of `graph`, in shared batches, as `input_split.solve` does.

    `nodes` are the bounds of the nodes of `graph` on each one's box. `batch` says how many domains of a folded graph
    one takes. One of which so many as `most` domains were looked at leaves; what is open then is in the members' own
    stores, from which their own searches go on.
    """
    shared = hull.Hull.of(graph, nodes, graph.foldable)
    folded, box = shared.folded, shared.nodes.box
    problems = [member.problem for member in members]
    clauses = Owned.of(problems, folded.inputs)
    together = Together(members, clauses, most, expired)
    region = Region(folded, clauses)
    whose = torch.arange(len(members), device=box.lower.device)
    least_width = torch.full_like(box.lower, float("inf"))  # of inputs that are fixed in a member's box
    for i, place in enumerate(clauses.places):
        least_width[i, place] = (box.upper - box.lower)[i, place] * SMALLEST_WIDTH
    together.store.put(
        owner=whose,
        bound=torch.full_like(box.lower[:, 0], -float("inf")),
        lower=box.lower,
        upper=box.upper,
        open=whose.unsqueeze(1) == clauses.owner,
        weights=clauses.equal_weights(torch.float64).expand(len(members), -1, -1),
        **region.inherited(shared.nodes),
    )
    size = most_boxes(batch(folded.graph), max(len(problem.constant) for problem in problems))
    while rows := together.take(size):
        halved = region.halved(rows, least_width[rows["owner"]], together.suspect)
        assert halved is not None
        together.looked_at(rows["owner"], halved.stuck)
        for half in halved.halves:
            together.store.put(**half)
    arguments = [_arguments(folded, region, problem.folded) for problem in problems]

    def own(i: int, rows: Rows) -> Rows:
        place, (first, end) = clauses.places[i], together.firsts[i : i + 2]
        return {
            "bound": rows["bound"],
            "lower": rows["lower"][:, place],
            "upper": rows["upper"][:, place],
            "open": rows["open"][:, first:end],
            "weights": rows["weights"][:, first:end, : problems[i].constant.shape[1]],
            "least": rows["least"][:, arguments[i]],
            "most": rows["most"][:, arguments[i]],
        }

    together.part(own)
    for member in members:
        progress = member.progress
        if len(progress.store):
            progress.parts = [member.problem.folded.box]
            progress.bound = -float("inf") if progress.undecided else progress.store.least()


def _arguments(shared: Folded, region: Region, own: Folded) -> Tensor:
    """Where the neurons' arguments of one member's own network are among those of the shared one."""
    starts, start = {}, 0
    for position, size in region.layout.sizes.items():
        starts[position] = start
        start += size
    kept = {original: (place, neurons) for place, (original, neurons) in shared.neurons.items()}
    places = [own.inputs[:0]]
    for original, neurons in own.neurons.values():
        place, among = kept[original]
        places.append(starts[shared.graph.preactivation(place)] + torch.searchsorted(among, neurons))
    return torch.cat(places)
