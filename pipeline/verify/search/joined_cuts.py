"""Several instances of one network whose arguments of nonlinear nodes are cut in shared batches.

The network is embedded once, between the inputs that vary in any of their boxes and its outputs (see `hull`): all have
the same arguments, and a domain is one clause of an instance with its bounds of them. What a domain's bound is alone it
is here, but for rounding and the magnitudes that rounding errors are taken from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.bounding.root import NodeBounds
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.region import hull
from secateur.pipeline.verify.search.cut_split import Rows, Search
from secateur.pipeline.verify.search.joined import Member
from secateur.pipeline.verify.search.members import Owned, Together


def groups(each: Sequence[NodeBounds]) -> list[list[int]]:
    """Which instances share batches, by the bounds of the nodes on each one's box."""
    return hull.groups([NodeBounds(nodes.box, {0: nodes.values[0]}) for nodes in each], lambda _: True)


def search(
    members: Sequence[Member],
    graph: BoundGraph,
    nodes: Sequence[NodeBounds],
    *,
    first: Schedule,
    schedule: Schedule,
    batch: Callable[[int], int],
    most: int,
    expired: Callable[[], bool],
) -> None:
    """Cut arguments of new instances of `graph`, in shared batches, as `cut_split.Search` does.

    `nodes` are the bounds of the nodes of `graph` on each one's box. `batch` says how many domains of so many arguments
    one takes. One of which so many as `most` domains were looked at leaves; what is open then is in the members' own
    stores, from which their own searches go on.
    """
    embedded = hull.Hull.of(graph, nodes, foldable=False)
    problems = [member.problem for member in members]
    clauses = Owned.of(problems, embedded.folded.inputs)
    owner = clauses.owner
    shared = Search(embedded.folded, embedded.nodes, clauses, owner=owner)
    together = Together(members, clauses, most, expired)
    size = max(1, batch(shared.arguments.lower.shape[1]) // 2)
    new, steps = shared.roots(), first
    while new:
        bounded = shared.bounded(new, steps, expired, together.suspect)
        assert bounded is not None
        together.looked_at(owner[new["clause"]], bounded.stuck)
        together.store.put(owner=owner[bounded.rows["clause"]], **bounded.rows)
        picked = together.take(size)
        new, steps = shared.halves(picked) if picked else {}, schedule

    def own(i: int, rows: Rows) -> Rows:
        return {
            "clause": rows["clause"] - together.firsts[i],
            "lower": rows["lower"],
            "upper": rows["upper"],
            "multipliers": rows["multipliers"],
            "weights": rows["weights"][:, : problems[i].constant.shape[1]],
            "bound": rows["bound"],
            "argument": rows["argument"],
        }

    together.part(own)
