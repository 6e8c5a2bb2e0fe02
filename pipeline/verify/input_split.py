"""Branch and bound over the input box, for networks with few inputs.

A domain is a part of a region's box with those clauses that are not yet refuted there. Its intermediate bounds are
computed anew by CROWN, in float64 with rounding errors taken off, so that a closed domain needs no second look. The
axis to split is the one that the bound depends on most: |coefficient| × width (Wang et al. 2018, "Formal security
analysis of neural networks using symbolic intervals").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from secateur.pipeline.verify.crown import Box, backward
from secateur.pipeline.verify.fold import Folded
from secateur.pipeline.verify.graph import gamma
from secateur.pipeline.verify.problem import Progress
from secateur.pipeline.verify.root import bound_nodes
from secateur.pipeline.verify.store import Store

SMALLEST_WIDTH = 1e-9
"""A box whose sides are all below this share of the root's is not split further: it is undecided."""


def solve(
    folded: Folded,
    rows: Tensor,
    direct: Tensor | None,
    constant: Tensor,
    *,
    batch: int,
    expired: Callable[[], bool],
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> str:
    """Search the box of `folded` for the K clauses in rows (K, S, n_out), direct (K, S, inputs left) or None,
    constant (K, S), all float64. Arguments and result as in `relu_split.solve`; `suspect` gets inputs left."""
    graph, root = folded.graph, folded.box
    clauses, atoms = constant.shape
    flat_rows = rows.flatten(0, 1).unsqueeze(0)
    flat_direct = None if direct is None else direct.flatten(0, 1).unsqueeze(0)
    store = Store()
    everything = torch.ones(1, clauses, dtype=torch.bool)
    store.put(
        bound=torch.full((1,), -float("inf"), dtype=torch.float64),
        lower=root.lower,
        upper=root.upper,
        open=everything,
    )
    undecided = False
    least_width = (root.upper - root.lower) * SMALLEST_WIDTH
    while len(store):
        if expired():
            progress.bound = store.least()
            return "unknown"
        picked = store.take(batch)
        box, open_ = Box(picked["lower"], picked["upper"]), picked["open"]
        count = len(open_)
        nodes = bound_nodes(graph, box, magnitudes=folded.magnitudes)
        linear = backward(
            graph,
            nodes.relaxations(graph),
            graph.output,
            flat_rows.expand(count, -1, -1),
            direct=None if flat_direct is None else flat_direct.expand(count, -1, -1),
            magnitudes=folded.magnitudes,
        )
        shift = constant.flatten()
        bound = linear.minimum(box) + shift
        bound = bound - gamma(8, bound) * (bound.abs() + shift.abs())
        best, row = bound.view(count, clauses, atoms).max(2)
        progress.domains += count
        open_ = open_ & ~(best > 0)
        left = torch.nonzero(open_.any(1)).flatten()
        if not len(left):
            continue
        open_, best, row = open_[left], best[left], row[left]
        low, high = box.lower[left], box.upper[left]
        worst = best.masked_fill(~open_, float("inf")).argmin(1)
        chosen = worst * atoms + row.gather(1, worst.unsqueeze(1)).squeeze(1)
        index = torch.arange(len(left))
        coefficient = linear.coefficient[left, chosen]
        if _found(folded, rows, direct, constant, low, high, coefficient, open_, suspect):
            return "sat"
        width = high - low
        score = (coefficient.abs() + 1e-12) * width
        halves = (low + high) / 2
        # A side of a few ulps may have no number between its ends: halved, it would come back for ever.
        score = score.masked_fill((width <= least_width) | (halves <= low) | (halves >= high), -1.0)
        value, axis = score.max(1)
        splittable = value >= 0
        undecided = undecided or not bool(splittable.all())
        keep = torch.nonzero(splittable).flatten()
        middle = halves[index, axis]
        left_high, right_low = high.clone(), low.clone()
        left_high[index, axis] = middle
        right_low[index, axis] = middle
        key = best[index, worst].clamp(max=0)
        for one, other in ((low, left_high), (right_low, high)):
            store.put(bound=key[keep], lower=one[keep], upper=other[keep], open=open_[keep])
    progress.bound = 0.0
    return "unknown" if undecided else "unsat"


def _found(
    folded: Folded,
    rows: Tensor,
    direct: Tensor | None,
    constant: Tensor,
    low: Tensor,
    high: Tensor,
    coefficient: Tensor,
    open_: Tensor,
    suspect: Callable[[Tensor, int], bool],
) -> bool:
    """Whether the centre of a domain, or the corner that minimises its bound, is a witness."""
    for x in ((low + high) / 2, torch.where(coefficient >= 0, low, high)):
        y = folded.graph.forward(x)
        value = torch.einsum("no,kso->nks", y, rows) + constant
        if direct is not None:
            value = value + torch.einsum("ni,ksi->nks", x, direct)
        hits = torch.nonzero((value.amax(2) <= 0) & open_)
        if any(suspect(x[i], k) for i, k in hits[:8].tolist()):
            return True
    return False
