"""Depth-first branch and bound over ReLU splits by linear programs, which learns from what it refutes.

Where neurons depend on few others (pruned networks, formulas as networks), a domain is refuted by a few of its signs.
Dual variables of the domain's linear program tell which: signs are left out as long as the bound, evaluated rigorously
in float64, stays positive. What is left is a conflict, which refutes many other domains as well (`conflicts`). The
batches of `relu_split` look at a hundred times more domains a second, and know nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from secateur.pipeline.verify.graph.operations import Dense, Sparse
from secateur.pipeline.verify.region.fold import Folded
from secateur.pipeline.verify.search.conflicts import Conflicts, Signs
from secateur.pipeline.verify.search.problem import Problem, Progress

if TYPE_CHECKING:  # needs SciPy, which takes a quarter of a second to import
    from secateur.pipeline.verify.search.triangle import Certificate, Relaxed

MOST_NUMBERS, SPARSE_SHARE = 20_000, 0.3
"""Where the maps into neurons have at most so many numbers that are not zero, and such a share, this search pays."""

RESTART = 50
"""Conflicts until the search begins at the root again, times the terms of `luby`."""

POSITIVE = 1e-9
"""A solver's optimum above this is worth a rigorous look."""


def suits(folded: Folded) -> bool:
    """Whether linear programs of this network are small, and conflicts likely to be short."""
    graph = folded.graph
    maps = [node.operation for node in graph.nodes[: graph.output]]
    weights = [m.weight.to_dense() for m in maps if isinstance(m, Dense | Sparse)]
    numbers = sum(int(torch.count_nonzero(weight)) for weight in weights)
    return 0 < numbers <= min(MOST_NUMBERS, SPARSE_SHARE * sum(weight.numel() for weight in weights))


def solve(
    problem: Problem,
    *,
    expired: Callable[[], bool],
    suspect: Callable[[Tensor, int], bool],
    progress: Progress,
) -> str:
    """Search all clauses of `problem`, one by one; arguments and result as those of `relu_split.solve`.

    What is learnt stays in `progress.conflicts`, from which a search of the same problem goes on, at the root.
    """
    for clause in range(len(problem.constant)):
        conflicts = progress.conflicts.setdefault(clause, Conflicts(problem.layout.total))
        conflicts.restart()
        verdict = _Search(problem, clause, conflicts).run(expired, suspect, progress)
        if verdict != "unsat":
            return verdict
    return "unsat"


def luby(term: int) -> int:
    """A term (from 1) of 1, 1, 2, 1, 1, 2, 4, …: restarts after so long lose little, whatever length were the best
    (Luby et al. 1993, "Optimal speedup of Las Vegas algorithms")."""
    power = term.bit_length()
    if term == 2**power - 1:
        return int(2 ** (power - 1))
    return luby(term - 2 ** (power - 1) + 1)


class _Search:
    def __init__(self, problem: Problem, clause: int, conflicts: Conflicts) -> None:
        self.problem, self.clause, self.conflicts = problem, clause, conflicts
        from secateur.pipeline.verify.search.triangle import Triangle

        self.triangle = Triangle(problem, clause)

    def run(
        self, expired: Callable[[], bool], suspect: Callable[[Tensor, int], bool], progress: Progress
    ) -> str:
        if not len(self.triangle.used):  # a clause without rows holds everywhere
            return "unknown"
        terms, left = 1, RESTART
        while not expired():
            conflict = self.conflicts.propagate()
            if conflict is None:
                solution = self.triangle.solve(self.conflicts.signs)
                progress.domains += 1
                conflict = self._refuted(solution)
                if conflict is None:
                    if solution.status != "optimal":
                        return "unknown"
                    if self._suspicious(solution, suspect):
                        return "sat"
                    if not self._choose(solution):
                        return "unknown"
                    continue
            if not self.conflicts.learn(conflict):
                return "unsat"
            left -= 1
            if left == 0:
                terms += 1
                left = RESTART * luby(terms)
                self.conflicts.restart()
        return "unknown"

    def _refuted(self, solution: Relaxed) -> Signs | None:
        """A conflict (U,) among the signs of the domain, proved rigorously; None when it could not be."""
        if not (
            solution.status == "infeasible" or (solution.status == "optimal" and solution.least > POSITIVE)
        ):
            return None
        signs = self.conflicts.signs
        certificate = self.triangle.certificate(solution.duals)
        if not self.triangle.bounds(certificate, signs[None])[0] > 0:
            return None
        return self._shortened(certificate, signs)

    def _shortened(self, certificate: Certificate, signs: Signs) -> Signs:
        """The signs (U,) without those that the proof does not need: the least needed, then the latest, go first."""
        members = np.array(self.conflicts.trail[::-1], np.int64)
        if not len(members):
            return signs.copy()
        without = np.repeat(signs[None], len(members), 0)
        without[np.arange(len(members)), members] = 0
        loss = -self.triangle.bounds(certificate, without)
        # Rounded, so that the order does not hang on the noise of sums.
        order = members[np.argsort(loss.round(9), kind="stable")]
        fewer = np.repeat(signs[None], len(members) + 1, 0)
        for count, neuron in enumerate(order, 1):
            fewer[count:, neuron] = 0
        proved = self.triangle.bounds(certificate, fewer) > 0
        shortest: Signs = fewer[np.flatnonzero(proved)[-1]]
        return shortest

    def _suspicious(self, solution: Relaxed, suspect: Callable[[Tensor, int], bool]) -> bool:
        """Whether the solution's input is a witness."""
        x = torch.from_numpy(solution.x).to(self.problem.rows.device).unsqueeze(0)
        clause = torch.tensor([self.clause], device=x.device)
        return self.problem.suspicious(x, self.problem.folded.graph.forward(x), clause, suspect)

    def _choose(self, solution: Relaxed) -> bool:
        """Split the most active of the neurons that the solution relaxes; False when no neuron is left to split.

        The side tried first is the one the solution is not on: it is refuted sooner, and conflicts are what is sought.
        """
        conflicts = self.conflicts
        free = self.triangle.unstable & (conflicts.signs == 0)
        if not free.any():
            return False
        relaxed = free & (solution.gaps > 1e-7)
        score = conflicts.activity / conflicts.weight + 1e-3 * solution.gaps
        neuron = int(np.where(relaxed if relaxed.any() else free, score, -np.inf).argmax())
        conflicts.choose(neuron, -1 if solution.arguments[neuron] > 0 else 1)
        return True
