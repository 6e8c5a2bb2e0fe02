"""Which unstable neuron to split: the one whose relaxation costs the bound most.

The score is -A⁻·t, what the intercept t of the upper line takes off the bound through the negative part A⁻ of the
neuron's coefficient: the dominant term of BaBSR (Bunel et al. 2020, "Branch and bound for piecewise linear neural
network verification"). It comes for free with the last substitution. Trying candidates for
real (filtered smart branching, a choice: see `relu_split._tried`) needed as many domains or more: 475 became 3,326 and
1,365 became 3,302 on two of MNIST's instances, 31 to 263 on six others stayed within a third. The gap of the lines at
the bound's minimiser needed 2 to 10 times as many.

**Where the clause is out of reach.** When all these costs together are less than what a bound lacks, no split can make
the clause's rows positive, and only a contradiction among the split constraints closes the domain. Many such domains
have a bound that does not depend on the input at all (a last layer that is split off altogether), all costs zero, and
split neurons at random for ever. There the costs are those of a lower bound of Σ vσz instead (σz ≥ 0 are the split
constraints, σz < 0 at the minimiser makes v = -σz): 717 domains for 12,043 on one instance of MNIST's
six layers, and about as many as before on the others tried.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.relaxation import Relaxations, ReluRelaxation

LEVELS = 3
"""By how many neurons a sub-problem is split at once at most."""


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

    def join(self, parts: dict[int, Tensor], nothing: Tensor | None = None) -> Tensor:
        """Per ReLU (…, n) → (…, U); `nothing` (…, 0) is the result where there is no neuron at all."""
        rest = [] if nothing is None else [nothing]
        return torch.cat([*(parts[position] for position in self.sizes), *rest], -1)


def split_costs(layout: Layout, relaxations: Relaxations, coefficients: dict[int, Tensor]) -> Tensor:
    """What every unstable neuron costs the bound of each sub-problem, (B, U) ≥ 0; -1 for the other neurons.

    `coefficients` are those of the last substitution, of one specification row a sub-problem (S = 1): see `crown.Tape`.
    """
    costs = {}
    for position in layout.sizes:
        relaxation = relaxations[position]
        assert isinstance(relaxation, ReluRelaxation)
        unstable = relaxation.unstable.squeeze(1)
        a = coefficients.get(position)
        if a is None:  # the row does not depend on this layer: nothing to gain, but splittable
            cost = torch.zeros_like(unstable)
        else:
            cost = -(a.clamp(max=0) * relaxation.intercept).squeeze(1)
        costs[position] = torch.where(unstable > 0, cost, -1.0)
    return layout.join(costs)


def costliest(costs: Tensor) -> Tensor:
    """The neurons to split of each sub-problem, (B, at most `LEVELS`), positions in the layout, the costliest first; -1
    for those that are not unstable."""
    best, neuron = costs.topk(min(LEVELS, costs.shape[1]), 1)
    return torch.where(best < 0, -1, neuron)
