"""Which unstable neuron to split: scores from the last bound, and the best of a few candidates tried for real.

Two scores, both estimates of what the relaxation of a neuron costs the bound:

* *intercept*: -A⁻·t, what the upper line's intercept takes off the bound (the dominant term of BaBSR, Bunel et al.
  2020, "Branch and bound for piecewise linear neural network verification");
* *gap*: A·(line(z̃) - ReLU(z̃)) < 0 at the minimiser of the bound, what the chosen line gives away there.

The leading candidates of both are then bounded with both children (filtered smart branching, De Palma et al. 2021,
"Improved branch and bound for neural network verification via Lagrangian decomposition").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.pipeline.verify.crown import Multipliers, Relaxations, Tape


@dataclass(frozen=True)
class Layout:
    """Where each ReLU's neurons lie in one flat vector of all U neurons of a folded graph."""

    sizes: dict[int, int]

    @property
    def total(self) -> int:
        return sum(self.sizes.values())

    def split(self, flat: Tensor) -> dict[int, Tensor]:
        """(…, U) → per ReLU (…, n)."""
        parts = torch.split(flat, list(self.sizes.values()), -1)
        return dict(zip(self.sizes, parts, strict=True))

    def join(self, parts: dict[int, Tensor]) -> Tensor:
        """Per ReLU (…, n) → (…, U)."""
        return torch.cat([parts[position] for position in self.sizes], -1)


def candidates(
    layout: Layout,
    relaxations: Relaxations,
    multipliers: Multipliers,
    tape: Tape,
    values: dict[int, Tensor],
    row: Tensor,
    count: int,
) -> Tensor:
    """The `count` most promising neurons of each sub-problem, (B, count) positions in the layout.

    `tape` and `values` are of the last substitution; `row` (B,) says which specification row to look at. A neuron
    that is not unstable is never among them unless fewer than `count` are; then -1 stands in.
    """
    intercepts, gaps, open_ = {}, {}, {}
    for position in layout.sizes:
        relaxation = relaxations[position]
        index = row.view(-1, 1, 1).expand(-1, 1, layout.sizes[position])
        if position in tape.coefficient:
            a = tape.coefficient[position].gather(1, index).squeeze(1)
            negative = a.clamp(max=0)
            intercepts[position] = -negative * relaxation.intercept.squeeze(1)
            if position in values:
                z = values[position].gather(1, index).squeeze(1)
                lower = multipliers[position].gather(1, index).squeeze(1) * relaxation.unstable.squeeze(1)
                upper = relaxation.slope.squeeze(1) * z + relaxation.intercept.squeeze(1)
                line = torch.where(a >= 0, lower * z, upper)
                gaps[position] = a * (z.clamp(min=0) - line)
            else:
                gaps[position] = torch.zeros_like(a)
        else:
            size = (len(row), layout.sizes[position])
            intercepts[position] = gaps[position] = row.new_zeros(size, dtype=relaxation.active.dtype)
        open_[position] = relaxation.unstable.squeeze(1).expand(len(row), -1)
    unstable = layout.join(open_) > 0
    infinity = float("inf")
    first = layout.join(intercepts).masked_fill(~unstable, -infinity)
    second = layout.join(gaps).masked_fill(~unstable, -infinity)
    half = min((count + 1) // 2, layout.total)
    rest = min(count - half, layout.total)
    chosen = [torch.topk(first, half, dim=1)]
    if rest:
        second = second.scatter(1, chosen[0].indices, -infinity)
        chosen.append(torch.topk(second, rest, dim=1))
    positions = torch.cat([c.indices for c in chosen], 1)
    scores = torch.cat([c.values for c in chosen], 1)
    return torch.where(scores == -infinity, -1, positions)
