"""Leaves of the split tree: where every ReLU is fixed the network is affine, and a linear program decides.

The program is elastic: minimise t over the box, with every row of the clause at most t and every split constraint
σz ≥ -t. It always has a solution. t ≤ 0 is a point that satisfies everything (a candidate witness); t > 0 refutes the
leaf, and its dual variables are turned into one specification row and β's whose bound is evaluated rigorously
(Neumaier and Shcherbina 2004, "Safe bounds in linear and mixed-integer linear programming"), so that the solver's
tolerances never decide.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from secateur.pipeline.verify import lp
from secateur.pipeline.verify.bounding.crown import backward
from secateur.pipeline.verify.bounding.specification import NEVER
from secateur.pipeline.verify.search.problem import Problem


def close(problem: Problem, clause: int, signs: Tensor, suspect: Callable[[Tensor, int], bool]) -> str:
    """Decide one fully split domain: "unsat" (rigorously), "sat" (`suspect` accepted the point) or "unknown"."""
    double, device = torch.float64, problem.rows.device
    folded, layout = problem.folded, problem.layout
    signs = signs.unsqueeze(0)
    which = torch.tensor([clause], device=device)
    relaxations = problem.relaxations(which, signs, double)
    nothing = layout.split(torch.zeros(1, 1, layout.total, dtype=double, device=device))
    rows = problem.specification(which, double)
    real = torch.nonzero(problem.constant[clause] > NEVER / 2).flatten()
    if not len(real):
        return "unknown"
    output = backward(folded.graph, relaxations, folded.graph.output, rows.rows, nothing, direct=rows.direct)
    shift = [output.constant[0, real]]
    if rows.constant is not None:
        shift[0] = shift[0] + rows.constant[0, real]
    matrix = [output.coefficient[0, real]]
    split: list[Tensor] = []
    offset = 0
    for position, size in layout.sizes.items():
        chosen = torch.nonzero(signs[0, offset : offset + size]).flatten()
        if len(chosen):
            sign = signs[0, offset + chosen].to(double)
            unit_rows = torch.zeros(1, len(chosen), size, dtype=double, device=device)
            unit_rows[0, torch.arange(len(chosen), device=device), chosen] = -sign
            source = folded.graph.preactivation(position)
            linear = backward(folded.graph, relaxations, source, unit_rows, nothing)
            matrix.append(linear.coefficient[0])
            shift.append(linear.constant[0])
            split.append(offset + chosen)
        offset += size
    solution = _elastic(
        torch.cat(matrix).cpu().numpy(),
        torch.cat(shift).cpu().numpy(),
        *(side[0].cpu().numpy() for side in (folded.box.lower, folded.box.upper)),
    )
    if solution is None:
        return "unknown"
    least, x, dual = solution
    if least <= 0:
        return "sat" if suspect(torch.from_numpy(x), clause) else "unknown"
    duals = torch.from_numpy(dual).to(device).clamp(min=0)
    weights = torch.zeros(1, problem.constant.shape[1], dtype=double, device=device)
    weights[0, real] = duals[: len(real)]
    multipliers = torch.zeros(1, layout.total, dtype=double, device=device)
    if split:
        multipliers[0, torch.cat(split)] = duals[len(real) :]
    return "unsat" if bool(problem.refuted(which, weights, signs, multipliers)) else "unknown"


def _elastic(
    matrix: lp.Floats, shift: lp.Floats, lower: lp.Floats, upper: lp.Floats
) -> tuple[float, lp.Floats, lp.Floats] | None:
    """Minimise t subject to matrix @ x + shift ≤ t and lower ≤ x ≤ upper: (t, x, dual variables ≥ 0)."""
    count, size = matrix.shape
    solution = lp.solve(
        np.append(np.zeros(size), 1.0),
        np.hstack([matrix, -np.ones((count, 1))]),
        np.full(count, -np.inf),
        -shift,
        np.append(lower, -np.inf),
        np.append(upper, np.inf),
    )
    if solution.status != "optimal":
        return None
    return solution.objective, solution.x[:-1], -solution.duals
