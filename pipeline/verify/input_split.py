"""Branch and bound over the input box, for networks with few inputs.

A domain is a part of a region's box with those clauses that are not yet refuted there. Its intermediate bounds are
computed anew by CROWN, in float64 with rounding errors taken off, so that a closed domain needs no second look. The
axis to split is the one that the rows depend on most: Σ |coefficient| × width over the rows of the clause that is
hardest to refute (after Wang et al. 2018, "Formal security analysis of neural networks using symbolic intervals").

Most neurons of a wide network are stable on a small part of the box: such a network is cut into parts first, one by
one, and folded anew for each, until what is left is narrow enough for large batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.pipeline.verify.branching import Layout
from secateur.pipeline.verify.crown import Box, backward
from secateur.pipeline.verify.fold import Folded, refold
from secateur.pipeline.verify.graph import gamma
from secateur.pipeline.verify.problem import Progress
from secateur.pipeline.verify.root import NodeBounds, bound_nodes
from secateur.pipeline.verify.specification import NEVER

SMALLEST_WIDTH = 1e-9
"""A box whose sides are all below this share of the root's is not split further: it is undecided."""

WIDE = 400
"""A network with more neurons than this is folded anew for parts of its box."""


WEIGHT_STEPS, WEIGHT_RATE, WEIGHT_DECAY = 12, 2.0, 0.85
"""The ascent of the weights by which a clause's rows are combined."""


@dataclass(frozen=True)
class Clauses:
    """K clauses of S rows each: rows (K, S, n_out), direct (K, S, inputs left) or None, constant (K, S); float64."""

    rows: Tensor
    direct: Tensor | None
    constant: Tensor

    def bounds(self, folded: Folded, nodes: NodeBounds) -> tuple[Tensor, Tensor, Tensor]:
        """On the boxes of `nodes`: rigorous bounds (B, K) of the clauses; the coefficients (B, K, inputs left) of the
        linear bound of each clause's best single row; and how much each input matters to all its rows together."""
        count = len(nodes.box.lower)
        flat = self.rows.flatten(0, 1).expand(count, -1, -1)
        direct = None if self.direct is None else self.direct.flatten(0, 1).expand(count, -1, -1)
        linear = backward(
            folded.graph,
            nodes.relaxations(folded.graph),
            folded.graph.output,
            flat,
            direct=direct,
            magnitudes=folded.magnitudes,
        )
        shape = self.constant.shape
        coefficient = linear.coefficient.unflatten(1, shape)
        constant = linear.constant.unflatten(1, shape) + self.constant
        constant = constant - gamma(8, constant) * (constant.abs() + self.constant.abs())
        return self._combined(coefficient, constant, nodes.box)

    def _combined(self, coefficient: Tensor, constant: Tensor, box: Box) -> tuple[Tensor, Tensor, Tensor]:
        """As `bounds`: the best that a row, or a convex combination of a clause's rows, gives on each box.

        coefficient (B, K, S, inputs) and constant (B, K, S) are linear lower bounds of the rows, all of which the
        clause needs ≤ 0. The weights are optimised by exponentiated gradient from equal ones.
        """
        low, high = box.lower[:, None, None], box.upper[:, None, None]
        largest = torch.maximum(low.abs(), high.abs())

        def minimum(c: Tensor, d: Tensor, slack: Tensor) -> Tensor:
            value = torch.where(c >= 0, c * low, c * high).sum(3) + d
            return value - gamma(c.shape[3] + self.constant.shape[1] + 8, d) * slack

        slack = (coefficient.abs() * largest).sum(3) + constant.abs()
        each = minimum(coefficient, constant, slack)
        best, row = each.max(2)
        index = row[..., None, None].expand(-1, -1, 1, coefficient.shape[3])
        chosen = coefficient.gather(2, index).squeeze(2)
        influence = (coefficient.abs() * (self.constant > NEVER / 2).to(each.dtype).unsqueeze(2)).sum(2)
        if self.constant.shape[1] == 1:
            return best, chosen, influence
        weights = (self.constant > NEVER / 2).to(each.dtype).expand_as(each)
        weights = weights / weights.sum(2, keepdim=True).clamp(min=1)
        finite = torch.where(weights > 0, constant, 0.0)
        used = torch.where(weights > 0, slack, 0.0)
        for step in range(WEIGHT_STEPS):
            c = (weights.unsqueeze(3) * coefficient).sum(2, keepdim=True)
            d = (weights * finite).sum(2, keepdim=True)
            value = minimum(c, d, (weights * used).sum(2, keepdim=True)).squeeze(2)
            best = torch.fmax(best, value)
            x = torch.where(c >= 0, low, high)
            rows = torch.where(weights > 0, (coefficient * x).sum(3) + constant, 0.0)
            scale = rows.abs().amax(2, keepdim=True).clamp(min=1e-12)
            grown = weights * torch.exp(WEIGHT_RATE * WEIGHT_DECAY**step * rows / scale)
            weights = grown / grown.sum(2, keepdim=True).clamp(min=1e-300)
        return best, chosen, influence

    def values(self, x: Tensor, y: Tensor) -> Tensor:
        """The rows' values (n, K, S) at points x (n, inputs left) with outputs y (n, n_out)."""
        value = torch.einsum("no,kso->nks", y, self.rows) + self.constant
        return value if self.direct is None else value + torch.einsum("ni,ksi->nks", x, self.direct)


def solve(
    folded: Folded,
    clauses: Clauses,
    *,
    batch: int,
    expired: Callable[[], bool],
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> str:
    """Search the box of `folded`. Arguments and result as in `relu_split.solve`; `suspect` gets inputs left.

    When time is over, the boxes of the parts not yet searched are left in `progress.parts`, the last of them the one
    that `progress.store` (rows of bound, lower, upper and open clauses) belongs to when it holds any row.
    """
    parts = [replace(folded, box=box) for box in progress.parts] or [folded]
    progress.parts = []
    least_width = (folded.box.upper - folded.box.lower) * SMALLEST_WIDTH
    while parts:
        if expired():
            progress.parts = [part.box for part in parts]
            progress.bound = -float("inf")
            return "unknown"
        part = parts.pop()
        if sum(len(kept) for _, kept in part.neurons.values()) > WIDE:
            nodes = bound_nodes(part.graph, part.box, magnitudes=part.magnitudes, expired=expired)
            bound, _, _ = clauses.bounds(part, nodes)
            progress.domains += 1
            if bool((bound > 0).all()):
                progress.store.drain()
                continue
            part = refold(part, nodes)
            halves = None if len(progress.store) else _halves(part.box, least_width)
            if halves is not None and sum(len(kept) for _, kept in part.neurons.values()) > WIDE:
                parts += [replace(part, box=half) for half in halves]
                continue
        outcome = _search(part, clauses, least_width, batch, expired, suspect, progress)
        if outcome == "sat":
            return "sat"
        if outcome == "expired":
            progress.bound = -float("inf") if progress.undecided or parts else progress.store.least()
            progress.parts = [each.box for each in (*parts, part)]
            return "unknown"
    progress.bound = -float("inf") if progress.undecided else 0.0
    return "unknown" if progress.undecided else "unsat"


def _halves(box: Box, least_width: Tensor) -> tuple[Box, Box] | None:
    """The box (B = 1) cut across its widest side; None where that is too narrow."""
    width = (box.upper - box.lower) / least_width.clamp(min=torch.finfo(least_width.dtype).tiny)
    axis = int(width.argmax())
    middle = (box.lower[0, axis] + box.upper[0, axis]) / 2
    if width[0, axis] <= 1 or not box.lower[0, axis] < middle < box.upper[0, axis]:
        return None
    low, high = box.lower.clone(), box.upper.clone()
    high[0, axis] = low[0, axis] = middle
    return Box(box.lower, high), Box(low, box.upper)


def _search(
    folded: Folded,
    clauses: Clauses,
    least_width: Tensor,
    batch: int,
    expired: Callable[[], bool],
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> str:
    """Branch and bound on one folded part, from what is open in the store: "done", "sat" or "expired"."""
    graph, root = folded.graph, folded.box
    count = len(clauses.constant)
    # Bounds of the neurons' arguments are handed down: what is found on a box holds on its parts.
    layout = Layout({graph.preactivation(p): len(kept) for p, (_, kept) in folded.neurons.items()})
    known = {graph.preactivation(p): bounds for p, bounds in folded.bounds.items()}
    store = progress.store
    # What an earlier search left open has been folded otherwise: bounds of neurons begin anew.
    rows = store.drain() or {
        "bound": root.lower.new_full((1,), -float("inf")),
        "lower": root.lower,
        "upper": root.upper,
        "open": torch.ones(1, count, dtype=torch.bool, device=root.lower.device),
    }
    for side, name in enumerate(("least", "most")):
        flat = layout.join({layer: bounds[side] for layer, bounds in known.items()}, root.lower[:, :0])
        rows[name] = flat.expand(len(rows["bound"]), -1)
    store.put(**rows)
    while len(store):
        if expired():
            return "expired"
        picked = store.take(batch)
        box, open_ = Box(picked["lower"], picked["upper"]), picked["open"]
        least, most = layout.split(picked["least"]), layout.split(picked["most"])
        known = {layer: (least[layer], most[layer]) for layer in layout.sizes}
        nodes = bound_nodes(graph, box, magnitudes=folded.magnitudes, known=known)
        best, coefficients, influence = clauses.bounds(folded, nodes)
        progress.domains += len(open_)
        open_ = open_ & ~(best > 0)
        left = torch.nonzero(open_.any(1)).flatten()
        if not len(left):
            continue
        open_, best = open_[left], best[left]
        low, high = box.lower[left], box.upper[left]
        worst = best.masked_fill(~open_, float("inf")).argmin(1)
        index = torch.arange(len(left), device=left.device)
        coefficient = coefficients[left, worst]
        if _found(folded, clauses, low, high, coefficient, open_, suspect):
            return "sat"
        width = high - low
        score = (influence[left, worst] + 1e-12) * width
        halves = (low + high) / 2
        # A side of a few ulps may have no number between its ends: halved, it would come back for ever.
        score = score.masked_fill((width <= least_width) | (halves <= low) | (halves >= high), -1.0)
        value, axis = score.max(1)
        splittable = value >= 0
        progress.undecided = progress.undecided or not bool(splittable.all())
        keep = torch.nonzero(splittable).flatten()
        middle = halves[index, axis]
        left_high, right_low = high.clone(), low.clone()
        left_high[index, axis] = middle
        right_low[index, axis] = middle
        key = best[index, worst].clamp(max=0)
        nothing = low[:, :0]
        least_found = layout.join({layer: nodes.values[layer][0][left] for layer in layout.sizes}, nothing)
        most_found = layout.join({layer: nodes.values[layer][1][left] for layer in layout.sizes}, nothing)
        for one, other in ((low, left_high), (right_low, high)):
            store.put(
                bound=key[keep],
                lower=one[keep],
                upper=other[keep],
                open=open_[keep],
                least=least_found[keep],
                most=most_found[keep],
            )
    return "done"


def _found(
    folded: Folded,
    clauses: Clauses,
    low: Tensor,
    high: Tensor,
    coefficient: Tensor,
    open_: Tensor,
    suspect: Callable[[Tensor, int], bool],
) -> bool:
    """Whether the centre of a domain, or the corner that minimises its bound, is a witness."""
    for x in ((low + high) / 2, torch.where(coefficient >= 0, low, high)):
        hits = torch.nonzero((clauses.values(x, folded.graph.forward(x)).amax(2) <= 0) & open_)
        if any(suspect(x[i], k) for i, k in hits[:8].tolist()):
            return True
    return False
