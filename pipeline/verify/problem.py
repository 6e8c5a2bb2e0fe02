"""One instance's clauses on its folded network: what the searches and the leaves work on."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.pipeline.verify.branching import Layout
from secateur.pipeline.verify.crown import Box, Relaxation, Relaxations, backward
from secateur.pipeline.verify.fold import Folded
from secateur.pipeline.verify.graph import BoundGraph, gamma


@dataclass
class Problem:
    """One instance's clauses on a folded network, and its two number types.

    `rows` (P, S, n_out), `direct` (P, S, inputs left) or None, `constant` (P, S): see `specification`, float64.
    """

    folded: Folded
    rows: Tensor
    direct: Tensor | None
    constant: Tensor
    dtype: torch.dtype = torch.float32
    fast: BoundGraph = field(init=False)
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.fast = self.folded.graph.to(self.dtype, self.rows.device)
        self.layout = Layout({p: len(kept) for p, (_, kept) in self.folded.neurons.items()})

    def relaxations(self, signs: Tensor, dtype: torch.dtype) -> Relaxations:
        """Relaxations of B domains with signs (B, U)."""
        parts = self.layout.split(signs)
        return {
            p: Relaxation.of(low.to(dtype), high.to(dtype), parts[p].to(dtype))
            for p, (low, high) in self.folded.bounds.items()
        }

    def box(self, batch: int, dtype: torch.dtype) -> Box:
        """The input box, for `batch` domains."""
        box = self.folded.box
        return Box(*(side.to(dtype).expand(batch, -1) for side in (box.lower, box.upper)))

    def certified(
        self, rows: Tensor, direct: Tensor | None, constant: Tensor, signs: Tensor, multipliers: Tensor
    ) -> Tensor:
        """Rigorous bounds (B, S) of specification rows on domains, in float64.

        `multipliers` (B, S, U) may be any numbers ≥ 0 (α at most 1); `signs` is (B, U).
        """
        double, graph = torch.float64, self.folded.graph
        linear = backward(
            graph,
            self.relaxations(signs, double),
            graph.output,
            rows,
            self.layout.split(multipliers.to(double)),
            direct=direct,
            magnitudes=self.folded.magnitudes,
        )
        bound = linear.minimum(self.folded.box) + constant
        return bound - gamma(8, bound) * (bound.abs() + constant.abs())

    def specification(self, clause: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor]:
        """Rows, direct rows and constants of clauses (B,)."""
        direct = None if self.direct is None else self.direct[clause].to(dtype)
        return self.rows[clause].to(dtype), direct, self.constant[clause].to(dtype)


@dataclass
class Progress:
    """What a search has done so far, for results and for people."""

    domains: int = 0
    bound: float = float("-inf")
