"""The triangle relaxation of a folded network as one linear program, kept from domain to domain.

Columns: the inputs, and of every neuron its argument z and its value h; t, which is minimised. Rows: the maps into the
arguments; h ≥ z and h ≤ sz + t, the lines of `relaxation`; every row of the clause ≤ t. Fixing a neuron's sign only
changes bounds of rows and columns, so that the program's last basis serves the next domain.

Its dual variables are α, β and weights of the clause's rows: with w the weights, k the duals of the maps and A the
coefficients that they give the values h, an unstable neuron's α is k / A, a split neuron's β is A - k (σ = 1) or k
(σ = -1). Whatever these are, `Problem.certified` makes a rigorous bound of them (Neumaier and Shcherbina 2004, "Safe
bounds in linear and mixed-integer linear programming"): the solver's tolerances decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from secateur.pipeline.verify import lp
from secateur.pipeline.verify.bounding.specification import NEVER
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.graph.operations import Dense, Relu, Sparse, Sum
from secateur.pipeline.verify.lp import Floats
from secateur.pipeline.verify.search.conflicts import Signs
from secateur.pipeline.verify.search.problem import Problem

Maps = list[tuple[int, sparse.csr_matrix]]
"""What a node takes of the nodes before it: (position of the input or of a ReLU, matrix)."""


def affine_maps(graph: BoundGraph) -> dict[int, tuple[Maps, Floats]]:
    """The maps into every affine node of a folded graph, and its bias."""
    found: dict[int, tuple[Maps, Floats]] = {}
    for position, node in enumerate(graph.nodes):
        operation = node.operation
        if isinstance(operation, Dense | Sparse):
            weight = sparse.csr_matrix(operation.weight.to_dense().cpu().numpy())
            bias = operation.bias
            offset = np.zeros(node.size) if bias is None else bias.cpu().numpy()
            found[position] = [(node.inputs[0], weight)], offset
        elif isinstance(operation, Sum):
            parts = [found[source] for source in node.inputs]
            offset = np.sum([b for _, b in parts], axis=0)
            found[position] = [each for maps, _ in parts for each in maps], offset
    return found


@dataclass(frozen=True)
class Certificate:
    """Dual variables: weights (S,) of the clause's rows, k and A (U,) of the neurons (see the module's docstring)."""

    weights: Floats
    slopes: Floats
    coefficients: Floats

    def multipliers(self, signs: Signs) -> Floats:
        """α and β (B, U) for domains with signs (B, U)."""
        k, a = self.slopes, self.coefficients
        positive = a > 1e-12
        alpha = np.where(positive, k / np.where(positive, a, 1.0), 0.0).clip(0, 1)
        return np.where(signs == 0, alpha, np.where(signs > 0, a - k, k).clip(min=0))


@dataclass(frozen=True)
class Relaxed:
    """A solution: t, the inputs x, the neurons' arguments z and how far above max(z, 0) their values are (U,).

    `status` and the program's `duals`: see `lp.Solution`.
    """

    status: str
    least: float
    x: Floats
    arguments: Floats
    gaps: Floats
    duals: Floats


class Triangle:
    """The program of one clause of a problem that has neurons."""

    def __init__(self, problem: Problem, clause: int) -> None:
        self.problem, self.clause = problem, clause
        folded, graph = problem.folded, problem.folded.graph
        self._maps = affine_maps(graph)
        size, total = graph.input.size, problem.layout.total
        starts = np.cumsum([0, *problem.layout.sizes.values()])
        self._place = dict(zip(problem.layout.sizes, starts.tolist(), strict=False))
        self.used = torch.nonzero(problem.constant[clause] > NEVER / 2).flatten().cpu().numpy()
        bounds = [np.concatenate([b[i][0].cpu().numpy() for b in folded.bounds.values()]) for i in (0, 1)]
        low, high = bounds
        self.unstable = (low < 0) & (high > 0)
        slope = np.where(self.unstable, high / np.where(self.unstable, high - low, 1.0), low >= 0)
        self._intercept = np.where(self.unstable, -slope * low, 0.0)
        self._arguments, self._values = size + np.arange(total), size + total + np.arange(total)
        last = size + 2 * total
        identity = sparse.identity(total, format="csr")
        maps, offsets = self._into_arguments(total)
        rows = problem.rows[clause].cpu().numpy()[self.used]
        outputs, output_offset = self._maps[graph.output]
        direct = sparse.csr_matrix((len(rows), size))
        if problem.direct is not None:
            direct = sparse.csr_matrix(problem.direct[clause].cpu().numpy()[self.used])
        values = sparse.lil_matrix((len(rows), total))
        for source, matrix in outputs:
            product = sparse.csr_matrix(rows @ matrix)
            if source == 0:
                direct = direct + product
            else:
                values[:, self._columns(source)] = product
        nothing = sparse.csr_matrix((total, size))
        matrix = sparse.bmat(
            [
                [-maps[0], identity, -maps[1], None],
                [nothing, -identity, identity, None],
                [nothing, -sparse.diags(slope), identity, None],
                [direct, None, values, -np.ones((len(rows), 1))],
            ],
            format="csr",
        )
        constant = problem.constant[clause].cpu().numpy()[self.used] + rows @ output_offset
        infinite = np.full(total, np.inf)
        box = [side[0].cpu().numpy() for side in (folded.box.lower, folded.box.upper)]
        objective = np.zeros(last + 1)
        objective[last] = 1.0
        self._program = lp.Incremental(
            objective,
            matrix,
            np.concatenate([offsets, np.zeros(total), -infinite, np.full(len(rows), -np.inf)]),
            np.concatenate([offsets, infinite, self._intercept, -constant]),
            np.concatenate([box[0], -infinite, np.zeros(total), [-np.inf]]),
            np.concatenate([box[1], infinite, infinite, [np.inf]]),
        )
        self._total = total
        # Stable neurons are fixed for good.
        self._signs = np.zeros(total, np.int8)
        self.fix(np.where(self.unstable, 0, np.where(low >= 0, 1, -1)).astype(np.int8))
        self._stable = self._signs.copy()

    def _columns(self, position: int) -> slice:
        first = self._place[position]
        return slice(first, first + self.problem.layout.sizes[position])

    def _into_arguments(self, total: int) -> tuple[tuple[sparse.csr_matrix, sparse.csr_matrix], Floats]:
        """All neurons' arguments as maps of the inputs (U, n) and of the neurons' values (U, U), and biases (U,)."""
        graph = self.problem.folded.graph
        inputs = sparse.lil_matrix((total, graph.input.size))
        values = sparse.lil_matrix((total, total))
        offsets = np.zeros(total)
        for position in self.problem.layout.sizes:
            assert isinstance(graph.nodes[position].operation, Relu)
            mine = self._columns(position)
            maps, offsets[mine] = self._maps[graph.preactivation(position)]
            for source, matrix in maps:
                if source == 0:
                    inputs[mine] += matrix
                else:
                    values[mine, self._columns(source)] += matrix
        return (inputs.tocsr(), values.tocsr()), offsets

    def fix(self, signs: Signs) -> None:
        """Let the next solution be that of the domain with these signs (U,)."""
        program, total = self._program, self._total
        for i in np.flatnonzero(signs != self._signs).tolist():
            sign = signs[i]
            program.bound_row(total + i, 0.0, 0.0 if sign > 0 else np.inf)
            program.bound_row(2 * total + i, -np.inf, np.inf if sign else float(self._intercept[i]))
            program.bound_column(int(self._values[i]), 0.0, 0.0 if sign < 0 else np.inf)
        self._signs = signs.copy()

    def solve(self, splits: Signs) -> Relaxed:
        """The relaxation of the domain with the signs `splits` (U,) of unstable neurons."""
        self.fix(np.where(self.unstable, splits, self._stable))
        solution = self._program.solve()
        # Without a solution there may be no numbers at all.
        found = solution.x if len(solution.x) else np.zeros(self._values[-1] + 2)
        x, z, h = found[: self._arguments[0]], found[self._arguments], found[self._values]
        return Relaxed(solution.status, solution.objective, x, z, h - z.clip(min=0), solution.duals)

    def certificate(self, duals: Floats) -> Certificate:
        """What the program's dual variables, or a ray of them, say of its domain."""
        weights = np.zeros(self.problem.constant.shape[1])
        weights[self.used] = (-duals[3 * self._total :]).clip(min=0)
        slopes = duals[: self._total]
        coefficients = np.zeros(self._total)

        def add(maps: Maps, rows: Floats) -> None:
            for source, matrix in maps:
                if source:
                    coefficients[self._columns(source)] += matrix.T @ rows

        graph = self.problem.folded.graph
        add(self._maps[graph.output][0], weights @ self.problem.rows[self.clause].cpu().numpy())
        for position in self.problem.layout.sizes:
            add(self._maps[graph.preactivation(position)][0], slopes[self._columns(position)])
        return Certificate(weights, slopes, coefficients)

    def bounds(self, certificate: Certificate, splits: Signs) -> Floats:
        """Rigorous lower bounds (B,) of the clause on domains with signs (B, U) of unstable neurons."""
        count, device = len(splits), self.problem.rows.device
        bound = self.problem.certified(
            torch.full((count,), self.clause, device=device),
            torch.from_numpy(certificate.weights).to(device).expand(count, -1),
            torch.from_numpy(splits).to(device),
            torch.from_numpy(certificate.multipliers(splits)).to(device),
        )
        return bound.nan_to_num(nan=-np.inf).cpu().numpy()
