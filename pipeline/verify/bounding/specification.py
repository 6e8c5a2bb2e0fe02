"""The query as sub-problems: boxes and specification rows for the engine.

A sub-problem is one region's box with one clause of its output condition. The clause is satisfied at (x, y) when every
row ⟨outputs, y⟩ + ⟨inputs, x⟩ + constant is ≤ 0; the sub-problem is refuted where the lower bound of one row is
positive. A region's linear input relations are rows of every clause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from secateur.formats.errors import InputError
from secateur.formats.query import Floats, Query
from secateur.pipeline.verify.bounding.crown import Box

NEVER = -1e300
"""The constant of a padding row: no bound makes it positive."""


@dataclass(frozen=True)
class SubProblems:
    """P sub-problems, S rows each (float64).

    `region`: which of the boxes each belongs to, (P,); `boxes`: the regions' boxes, rounded outward; `nearest`: the
    same rounded to nearest; `outputs` (P, S, n_out), `inputs`
    (P, S, n_in) or None where no row mentions an input, `constant` (P, S); `owner` (P,): the query's number.
    """

    boxes: Box
    nearest: Box
    region: Tensor
    outputs: Tensor
    inputs: Tensor | None
    constant: Tensor
    owner: Tensor

    def __len__(self) -> int:
        return len(self.region)

    def __getitem__(self, keep: Tensor) -> SubProblems:
        inputs = None if self.inputs is None else self.inputs[keep]
        return replace(
            self,
            region=self.region[keep],
            outputs=self.outputs[keep],
            inputs=inputs,
            constant=self.constant[keep],
            owner=self.owner[keep],
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


def check_fits(query: Query, inputs: int, outputs: int, name: str) -> None:
    """Raises InputError when the query is not about one network of so many inputs and outputs."""
    if len(query.networks) != 1 or (query.inputs, query.outputs) != (inputs, outputs):
        raise InputError(
            f"the property has {query.inputs} inputs and {query.outputs} outputs, the network {name} has "
            f"{inputs} and {outputs}",
            where=query.name or None,
            hint="give the property that was made for this network",
        )


def compares_outputs(query: Query) -> bool:
    """Whether every atom on outputs says no more than which of two is larger."""
    for region in query.regions:
        for clause in region.clauses:
            used = np.count_nonzero(clause.outputs, axis=1) == 2
            if clause.inputs.any() or clause.constant.any() or clause.outputs.sum(1).any() or not used.all():
                return False
    return True


def subproblems(queries: Sequence[Query]) -> SubProblems:
    """All sub-problems of queries about one network. Empty (length 0) when no region has a clause."""
    sides: list[tuple[Floats, ...]] = []
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
                regions.append(len(sides))
                owners.append(owner)
            sides.append((region.lower, region.upper, region.nearest_lower, region.nearest_upper))
    most = max((len(rows[2]) for rows in clauses), default=0) or 1
    count, n_in, n_out = len(clauses), queries[0].inputs, queries[0].outputs
    inputs = np.zeros((count, most, n_in))
    outputs = np.zeros((count, most, n_out))
    constant = np.full((count, most), NEVER)
    for i, (a, c, d) in enumerate(clauses):
        inputs[i, : len(d)], outputs[i, : len(d)], constant[i, : len(d)] = a, c, d
    stacked = torch.from_numpy(np.array(sides, dtype=np.float64).reshape(len(sides), 4, n_in))
    return SubProblems(
        Box(stacked[:, 0], stacked[:, 1]),
        Box(stacked[:, 2], stacked[:, 3]),
        torch.tensor(regions, dtype=torch.long),
        torch.from_numpy(outputs),
        torch.from_numpy(inputs) if inputs.any() else None,
        torch.from_numpy(constant),
        torch.tensor(owners, dtype=torch.long),
    )
