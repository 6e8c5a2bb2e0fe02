"""The query as sub-problems: boxes and specification rows for the engine.

A sub-problem is one region's box with one clause of its output condition. The clause is satisfied at (x, y) when every
row ⟨outputs, y⟩ + ⟨inputs, x⟩ + constant is ≤ 0; the sub-problem is refuted where the lower bound of one row is
positive. A region's linear input relations are rows of every clause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur.formats.query import Floats, Query
from secateur.pipeline.verify.crown import Box

NEVER = -1e300
"""The constant of a padding row: no bound makes it positive."""


@dataclass(frozen=True)
class SubProblems:
    """P sub-problems, S rows each (float64).

    `region`: which of the boxes each belongs to, (P,); `boxes`: the regions' boxes; `outputs` (P, S, n_out), `inputs`
    (P, S, n_in) or None where no row mentions an input, `constant` (P, S); `owner` (P,): the query's number.
    """

    boxes: Box
    region: Tensor
    outputs: Tensor
    inputs: Tensor | None
    constant: Tensor
    owner: Tensor

    def __len__(self) -> int:
        return len(self.region)

    def __getitem__(self, keep: Tensor) -> SubProblems:
        inputs = None if self.inputs is None else self.inputs[keep]
        return SubProblems(
            self.boxes, self.region[keep], self.outputs[keep], inputs, self.constant[keep], self.owner[keep]
        )

    def box(self) -> Box:
        """The box of each sub-problem, (P, n_in)."""
        return self.boxes[self.region]

    def values(self, x: Tensor, y: Tensor) -> Tensor:
        """The rows' values (P, …, S) at x (P, …, n_in) and y (P, …, n_out)."""
        result = torch.einsum("p...o,pso->p...s", y, self.outputs.to(y.dtype))
        if self.inputs is not None:
            result = result + torch.einsum("p...i,psi->p...s", x, self.inputs.to(x.dtype))
        constant = self.constant.to(y.dtype)
        return result + constant.view(len(constant), *([1] * (y.dim() - 2)), -1)


def subproblems(queries: Sequence[Query]) -> SubProblems:
    """All sub-problems of queries about one network. Empty (length 0) when no region has a clause."""
    lowers: list[Floats] = []
    uppers: list[Floats] = []
    regions: list[int] = []
    owners: list[int] = []
    clauses: list[list[Floats]] = []
    for owner, query in enumerate(queries):
        for region in query.regions:
            for clause in region.clauses:
                rows = [
                    np.concatenate([a, b])
                    for a, b in zip(
                        (clause.inputs, clause.outputs, clause.constant),
                        (region.relations.inputs, region.relations.outputs, region.relations.constant),
                        strict=True,
                    )
                ]
                clauses.append(rows)
                regions.append(len(lowers))
                owners.append(owner)
            lowers.append(region.lower)
            uppers.append(region.upper)
    most = max((len(rows[2]) for rows in clauses), default=0) or 1
    count, n_in, n_out = len(clauses), queries[0].inputs, queries[0].outputs
    inputs = np.zeros((count, most, n_in))
    outputs = np.zeros((count, most, n_out))
    constant = np.full((count, most), NEVER)
    for i, (a, c, d) in enumerate(clauses):
        inputs[i, : len(d)], outputs[i, : len(d)], constant[i, : len(d)] = a, c, d
    shape = (len(lowers), n_in)
    box = Box(
        torch.from_numpy(np.array(lowers, dtype=np.float64).reshape(shape)),
        torch.from_numpy(np.array(uppers, dtype=np.float64).reshape(shape)),
    )
    return SubProblems(
        box,
        torch.tensor(regions, dtype=torch.long),
        torch.from_numpy(outputs),
        torch.from_numpy(inputs) if inputs.any() else None,
        torch.from_numpy(constant),
        torch.tensor(owners, dtype=torch.long),
    )
