"""The exact reference: ReLUs as integer choices, decided by HiGHS (Tjeng et al. 2019, "Evaluating robustness of
neural networks with mixed integer programming").

"unsat" is HiGHS's word, within its feasibility tolerance (1e-7), not a rigorous proof: it serves as a cross-check.
"sat" is as strict as everywhere: a witness that onnxruntime confirms.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from scipy import sparse

from secateur.formats.query import Query
from secateur.pipeline.verify import lp
from secateur.pipeline.verify.bounding.root import bound_nodes
from secateur.pipeline.verify.bounding.specification import NEVER, SubProblems, subproblems
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.graph.operations import Dense, Relu, Sparse, Sum
from secateur.pipeline.verify.pgd import inner_box, inside
from secateur.pipeline.verify.region.fold import Folded, fold
from secateur.pipeline.verify.replay import Witness
from secateur.pipeline.verify.results import Result
from secateur.pipeline.verify.search.work import Deadline, layer_stability


def verify(engine: Engine, query: Query, *, timeout: float) -> Result:
    """Decide `query` by one program per clause and region; arguments and result as in `engine.Engine.verify`."""
    started = time.perf_counter()
    deadline = Deadline(timeout)
    engine.check_fits(query)
    problems = subproblems([query])
    verdict, witness, layers = "unsat", None, None
    for region in range(len(problems.boxes.lower)):
        box = engine.shaped(problems.boxes[torch.tensor([region])])
        nodes = bound_nodes(engine.graph, box, "crown")
        layers = layer_stability(engine.graph, nodes) if layers is None else layers
        program = _Program(fold(engine.graph, nodes))
        for i in torch.nonzero(problems.region == region).flatten().tolist():
            outcome, point = program.decide(problems, i, deadline)
            if point is not None:
                witness = _replayed(engine, query, problems, i, program.folded, point)
                outcome = "sat" if witness is not None else "unknown"
            if outcome == "sat":
                verdict = "sat"
                break
            if outcome != "unsat" and verdict != "timeout":
                verdict = outcome
        if verdict == "sat":
            break
    seconds = time.perf_counter() - started
    return Result(verdict, witness, seconds, {"milp": seconds}, 0, None, layers)


class _Program:
    """The folded network as rows over the variables: inputs, and one value a neuron (and a binary when unstable)."""

    def __init__(self, folded: Folded) -> None:
        self.folded = folded
        graph = folded.graph
        low, high = (side[0].cpu().numpy() for side in (folded.box.lower, folded.box.upper))
        self.lower, self.upper = [*low], [*high]
        self.integer = [False] * len(low)
        columns: dict[int, list[int]] = {0: list(range(len(low)))}
        affine: dict[int, list[tuple[dict[int, float], float]]] = {}
        self.rows: list[tuple[dict[int, float], float, float]] = []
        for position, node in enumerate(graph.nodes):
            operation = node.operation
            if isinstance(operation, Dense | Sparse):
                source = columns[node.inputs[0]]
                weight = operation.weight.to_dense().cpu().numpy()
                bias = np.zeros(len(weight)) if operation.bias is None else operation.bias.cpu().numpy()
                affine[position] = [
                    ({source[j]: float(w[j]) for j in np.flatnonzero(w)}, float(b))
                    for w, b in zip(weight, bias, strict=True)
                ]
            elif isinstance(operation, Sum):
                affine[position] = [
                    (
                        _added([affine[s][i][0] for s in node.inputs]),
                        sum(affine[s][i][1] for s in node.inputs),
                    )
                    for i in range(node.size)
                ]
            elif isinstance(operation, Relu):
                lows, highs = (side[0].tolist() for side in folded.bounds[position])
                columns[position] = [
                    self._neuron(terms, bias, least, most)
                    for (terms, bias), least, most in zip(affine[node.inputs[0]], lows, highs, strict=True)
                ]
        self.outputs = affine[graph.output]

    def _column(self, lower: float, upper: float, integer: bool = False) -> int:
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(integer)
        return len(self.lower) - 1

    def _neuron(self, terms: dict[int, float], bias: float, low: float, high: float) -> int:
        """The column of max(⟨terms⟩ + bias, 0), for an argument in [low, high]."""
        value = self._column(max(low, 0.0), max(high, 0.0))
        minus = {column: -weight for column, weight in terms.items()}
        if low >= 0:
            self.rows.append(({**minus, value: 1.0}, bias, bias))
            return value
        choice = self._column(0.0, 1.0, integer=True)
        self.rows.append(({**minus, value: 1.0}, bias, np.inf))
        self.rows.append(({**minus, value: 1.0, choice: -low}, -np.inf, bias - low))
        self.rows.append(({value: 1.0, choice: -high}, -np.inf, 0.0))
        return value

    def decide(self, problems: SubProblems, i: int, deadline: Deadline) -> tuple[str, np.ndarray | None]:
        """ "unsat", "timeout" or "unknown" for clause i; or a point (inputs left) that satisfies it, to be replayed."""
        rows = list(self.rows)
        lower = problems.boxes.lower[problems.region[i]]
        inputs = self.folded.inputs.cpu()
        for s in range(problems.constant.shape[1]):
            constant = float(problems.constant[i, s])
            if constant <= NEVER / 2:
                continue
            terms = _added(
                [
                    {column: c * weight for column, weight in self.outputs[o][0].items()}
                    for o, c in enumerate(problems.outputs[i, s].tolist())
                    if c
                ]
            )
            constant += sum(c * self.outputs[o][1] for o, c in enumerate(problems.outputs[i, s].tolist()))
            if problems.inputs is not None:
                direct = problems.inputs[i, s].clone()
                terms = _added([terms, dict(enumerate(direct[inputs].tolist()))])
                direct[inputs] = 0.0
                constant += float(direct @ lower)
            rows.append((terms, -np.inf, -constant))
        count = len(self.lower)
        matrix = sparse.lil_matrix((len(rows), count))
        for r, (terms, _, _) in enumerate(rows):
            for column, weight in terms.items():
                matrix[r, column] = weight
        solution = lp.solve(
            np.zeros(count),
            matrix.tocsr(),
            np.array([row[1] for row in rows]),
            np.array([row[2] for row in rows]),
            np.array(self.lower),
            np.array(self.upper),
            integer=np.array(self.integer),
            timeout=deadline.left,
        )
        if solution.status == "infeasible":
            return "unsat", None
        if solution.status == "optimal":
            return "unknown", solution.x[: len(inputs)]
        return ("timeout" if solution.status == "timeout" else "unknown"), None


def _replayed(
    engine: Engine, query: Query, problems: SubProblems, clause: int, folded: Folded, x: np.ndarray
) -> Witness | None:
    inner = inner_box(problems)[clause]
    point = inner.lower.clone()
    point[folded.inputs.cpu()] = torch.from_numpy(x)
    return engine.replay.check(query, inside(point, inner).numpy())


def _added(parts: list[dict[int, float]]) -> dict[int, float]:
    """The sum of sparse rows."""
    total: dict[int, float] = {}
    for part in parts:
        for column, weight in part.items():
            total[column] = total.get(column, 0.0) + weight
    return total
