"""Linear and mixed-integer programs by HiGHS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
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
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("random_seed", seed)
    if timeout is not None:
        solver.setOptionValue("time_limit", max(0.0, timeout))
    solver.passModel(program)
    solver.run()
    status = {
        highspy.HighsModelStatus.kOptimal: "optimal",
        highspy.HighsModelStatus.kInfeasible: "infeasible",
        highspy.HighsModelStatus.kTimeLimit: "timeout",
    }.get(solver.getModelStatus(), "other")
    solution = solver.getSolution()
    value = solver.getInfo().objective_function_value
    return Solution(status, float(value), np.array(solution.col_value), np.array(solution.row_dual))
