"""Linear and mixed-integer programs by HiGHS."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import highspy
    from scipy import sparse

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Solution:
    """`status` is "optimal", "infeasible", "timeout" or "other"; `x` and `duals` (of the rows) may be empty."""

    status: str
    objective: float
    x: Floats
    duals: Floats


def solve(
    objective: Floats,
    matrix: sparse.spmatrix | Floats,
    row_lower: Floats,
    row_upper: Floats,
    lower: Floats,
    upper: Floats,
    *,
    integer: NDArray[np.bool_] | None = None,
    timeout: float | None = None,
    seed: int = 0,
) -> Solution:
    """Minimise ⟨objective, x⟩ with row_lower ≤ matrix @ x ≤ row_upper and lower ≤ x ≤ upper.

    Columns marked in `integer` take integer values. Bounds may be infinite.
    """
    solver = _solver(objective, matrix, row_lower, row_upper, lower, upper, integer, seed)
    if timeout is not None:
        solver.setOptionValue("time_limit", max(0.0, timeout))
    solver.run()
    return _solution(solver)


class Incremental:
    """A linear program that is solved again and again while bounds of its rows and columns change.

    Presolving is left out, so that each run begins from the last one's basis. Arguments: see `solve`.
    """

    def __init__(
        self,
        objective: Floats,
        matrix: sparse.spmatrix,
        row_lower: Floats,
        row_upper: Floats,
        lower: Floats,
        upper: Floats,
    ) -> None:
        self._solver = _solver(objective, matrix, row_lower, row_upper, lower, upper, None, 0)
        self._solver.setOptionValue("presolve", "off")

    def bound_row(self, row: int, lower: float, upper: float) -> None:
        self._solver.changeRowBounds(row, lower, upper)

    def bound_column(self, column: int, lower: float, upper: float) -> None:
        self._solver.changeColBounds(column, lower, upper)

    def solve(self) -> Solution:
        """The solution; where there is none, its duals prove that (a ray of the dual program, by Farkas' lemma)."""
        self._solver.run()
        solution = _solution(self._solver)
        if solution.status == "infeasible":
            *_, ray = self._solver.getDualRay()
            return replace(solution, duals=np.array(ray))
        if solution.status == "other":  # numerical trouble in the basis: begin anew once
            self._solver.clearSolver()
            self._solver.run()
            return _solution(self._solver)
        return solution


def _solver(
    objective: Floats,
    matrix: sparse.spmatrix | Floats,
    row_lower: Floats,
    row_upper: Floats,
    lower: Floats,
    upper: Floats,
    integer: NDArray[np.bool_] | None,
    seed: int,
) -> highspy.Highs:
    # Few queries come this far: the imports cost a tenth of a second.
    import highspy
    from scipy import sparse

    rows = sparse.csr_matrix(matrix)
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = len(objective), rows.shape[0]
    program.col_cost_, program.col_lower_, program.col_upper_ = objective, lower, upper
    program.row_lower_, program.row_upper_ = row_lower, row_upper
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    program.a_matrix_.start_, program.a_matrix_.index_ = rows.indptr, rows.indices
    program.a_matrix_.value_ = rows.data
    if integer is not None:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        program.integrality_ = [kinds[int(flag)] for flag in integer]
    solver = _quiet()()
    solver.setOptionValue("random_seed", seed)
    solver.passModel(program)
    return solver


@cache
def _quiet() -> type[highspy.Highs]:
    """HiGHS without a word on standard output: since 1.16 it greets while it is made, turning its callbacks on."""
    import highspy

    class Quiet(highspy.Highs):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.silent()

        def enableCallbacks(self) -> None:
            self.silent()
            super().enableCallbacks()

    return Quiet


def _solution(solver: highspy.Highs) -> Solution:
    import highspy

    status = {
        highspy.HighsModelStatus.kOptimal: "optimal",
        highspy.HighsModelStatus.kInfeasible: "infeasible",
        highspy.HighsModelStatus.kTimeLimit: "timeout",
    }.get(solver.getModelStatus(), "other")
    solution = solver.getSolution()
    value = solver.getInfo().objective_function_value
    return Solution(status, float(value), np.array(solution.col_value), np.array(solution.row_dual))
