"""The verification engine as functions: verify, attack, bound, and count stable neurons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline.verify.bounding.clause_bounds import (
    clause_bounds,
    interval_clause_bounds,
    output_bounds,
)
from secateur.pipeline.verify.bounding.root import bound_nodes
from secateur.pipeline.verify.bounding.specification import subproblems
from secateur.pipeline.verify.engine import OUTPUT_SCHEDULE, ROOT_SCHEDULE, Engine
from secateur.pipeline.verify.pgd import Effort
from secateur.pipeline.verify.pgd import attack as run_attack
from secateur.pipeline.verify.replay import Witness
from secateur.pipeline.verify.results import LayerStability, Result
from secateur.pipeline.verify.search.work import Deadline, layer_stability

METHODS = ("ibp", "crown", "alpha-crown")
VERIFIERS = ("crown", "milp", "auto_lirpa")


@dataclass(frozen=True)
class RegionBounds:
    """Bounds on one region: of every output (n_out,), and per clause the proven lower bound of its violation.

    A clause whose bound is positive cannot be satisfied in the region.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    clauses: tuple[float, ...]


@dataclass(frozen=True)
class Bounds:
    """Bounds of a query by one method."""

    method: str
    regions: tuple[RegionBounds, ...]

    @property
    def refuted(self) -> bool:
        """Whether these bounds alone prove the query unsatisfiable."""
        return all(bound > 0 for region in self.regions for bound in region.clauses)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: None where there is no bound (an infinite one)."""

        def numbers(values: tuple[float, ...]) -> list[float | None]:
            return [value if math.isfinite(value) else None for value in values]

        regions = [
            {"lower": numbers(r.lower), "upper": numbers(r.upper), "clauses": numbers(r.clauses)}
            for r in self.regions
        ]
        return {"method": self.method, "refuted": self.refuted, "regions": regions}


def verify(
    model: Model,
    query: Query,
    *,
    timeout: float = 60.0,
    verifier: str = "crown",
    device: str = "cpu",
    seed: int = 0,
) -> Result:
    """Decide one query within `timeout` seconds: by our engine ("crown"), the MILP reference ("milp"), or bounds of the
    library auto_LiRPA alone ("auto_lirpa": "unsat" or "unknown").

    Raises:
        InputError: the query does not fit the network; an unknown verifier, or one that is not installed.
        UnsupportedError: an operator that the verifier does not support.
    """
    return next(verify_many([(model, query)], timeout=timeout, verifier=verifier, device=device, seed=seed))


def verify_many(
    problems: Sequence[tuple[Model, Query]],
    *,
    timeout: float = 60.0,
    verifier: str = "crown",
    device: str = "cpu",
    seed: int = 0,
) -> Iterator[Result]:
    """Decide many queries, in order; neighbours that share a network share batches. Each may use `timeout` seconds."""
    if verifier not in VERIFIERS:
        raise InputError(f"unknown verifier '{verifier}': expected one of {', '.join(VERIFIERS)}")
    for _, group in itertools.groupby(problems, key=lambda problem: problem[0].sha256):
        members = list(group)
        queries = [query for _, query in members]
        model = members[0][0]
        if verifier == "crown":
            yield from Engine(model, device).verify(queries, timeout=timeout, seed=seed)
        elif verifier == "milp":
            from secateur.pipeline.verify import milp

            engine = Engine(model, device)
            yield from (milp.verify(engine, query, timeout=timeout) for query in queries)
        else:
            from secateur.pipeline.verify import auto_lirpa

            network = auto_lirpa.Network(model, device)
            yield from (network.verify(query, timeout=timeout) for query in queries)


def attack(
    model: Model,
    query: Query,
    *,
    seed: int = 0,
    restarts: int = 64,
    steps: int = 100,
    timeout: float = 60.0,
    device: str = "cpu",
) -> Witness | None:
    """Look for a witness by projected gradient descent; one that is returned holds in onnxruntime, exactly."""
    engine = Engine(model, device)
    engine.check_fits(query)
    effort = Effort(restarts=restarts, steps=steps)
    deadline = Deadline(timeout)
    found = run_attack(
        engine.fast,
        subproblems([query]),
        [query],
        engine.replay,
        seed=seed,
        effort=effort,
        expired=deadline.passed,
    )
    return found.get(0)


def bounds(
    model: Model, query: Query, method: str = "crown", *, device: str = "cpu", iterations: int | None = None
) -> Bounds:
    """Bounds of the outputs and of every clause's violation, by "ibp", "crown" or "alpha-crown".

    `iterations` are those of the α ascent of the clauses (default: the engine's).

    Raises:
        InputError: an unknown method, or a query that does not fit.
    """
    if method not in METHODS:
        raise InputError(f"unknown method '{method}': expected one of {', '.join(METHODS)}")
    engine = Engine(model, device)
    engine.check_fits(query)
    problems = subproblems([query])
    schedule = OUTPUT_SCHEDULE if iterations is None else OUTPUT_SCHEDULE.longer(iterations)
    regions = []
    for region in range(len(problems.boxes.lower)):
        box = engine.shaped(problems.boxes[torch.tensor([region])])
        nodes = bound_nodes(engine.graph, box, method, search=engine.fast, schedule=ROOT_SCHEDULE)
        lower, upper = output_bounds(engine.graph, nodes, linear=method != "ibp")
        where = torch.nonzero(problems.region == region).flatten()
        mine = problems[where]
        each = nodes[torch.zeros(len(where), dtype=torch.long, device=engine.device)]
        if method == "ibp":
            values = interval_clause_bounds(mine, lower, upper)
        else:
            ascent = schedule if method == "alpha-crown" else None
            values, _ = clause_bounds(engine.graph, engine.fast, mine, each, ascent)
        values = torch.where(values.isnan(), -math.inf, values)  # where numbers overflow, nothing is known
        regions.append(RegionBounds(tuple(lower.tolist()), tuple(upper.tolist()), tuple(values.tolist())))
    return Bounds(method, tuple(regions))


def stability(
    model: Model, query: Query, method: str = "crown", device: str = "cpu"
) -> tuple[LayerStability, ...]:
    """Stable-active, stable-inactive and unstable neurons of every ReLU layer on the query's first region."""
    engine = Engine(model, device)
    engine.check_fits(query)
    problems = subproblems([query])
    if not len(problems.boxes.lower):
        raise InputError("the property's input region is empty", where=query.name or None)
    box = engine.shaped(problems.boxes[torch.tensor([0])])
    nodes = bound_nodes(engine.graph, box, method, search=engine.fast, schedule=ROOT_SCHEDULE)
    return layer_stability(engine.graph, nodes)
