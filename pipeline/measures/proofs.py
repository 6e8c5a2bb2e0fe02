"""Certified accuracy: which images are proved robust, by which means, at what cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Any

import numpy as np

from secateur.formats.errors import CheckFailed
from secateur.formats.query import Query
from secateur.pipeline.measures import accuracy, bounds, memory
from secateur.pipeline.measures.accuracy import Labels
from secateur.pipeline.measures.attacks import Flags
from secateur.pipeline.measures.bounds import Ladder
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.results import Result

Step = Callable[[str], None]


def certify(
    engine: Engine,
    queries: Sequence[Query],
    right: Flags,
    *,
    methods: Sequence[str],
    completely: bool,
    timeout: float,
    seed: int,
    step: Step,
) -> dict[str, Any]:
    """The columns of certified accuracy (see `formats.measurements`), of bounds and of both of robustness queries;
    bounds by `methods`: the first so many of `bounds.METHODS`, or none.

    An image that is not `right` [n] is not certified, whatever its ball holds. All others are one queue for complete
    verification. What bounds prove is certified, also where that ran out of time.

    Raises:
        CheckFailed: an image that bounds prove has a counterexample.
    """
    found: dict[str, Any] = {"images": len(queries), "right": float(right.mean())}
    results: list[Result | None] = [None] * len(queries)
    ladder = Ladder((None,) * len(queries), {})
    if completely:
        memory.forget_peak(str(engine.device))
        results = _verified(engine, queries, right, timeout, seed, step)
        found |= {"timeout": timeout, "peak_bytes": memory.peak(str(engine.device)), **_cost(results)}
    if methods:
        lost = [result is not None and result.verdict == "sat" for result in results]
        count = iter(range(1, len(queries) + 1))
        ladder = bounds.climb(
            engine,
            queries,
            right.tolist(),
            lost,
            lambda: step(f"bounded {next(count)} of {len(queries)} images of {engine.model.name}"),
            methods,
        )
        for query, method, refuted in zip(queries, ladder.proved, lost, strict=True):
            if method and refuted:
                raise CheckFailed(
                    f"{query.name}: proved by {method}, but a counterexample was found; report this",
                    where=engine.model.name,
                )
        for method in methods:
            earlier = methods[: methods.index(method) + 1]
            share = sum(proof in earlier for proof in ladder.proved) / len(queries)
            found[f"certified_{method.replace('-', '_')}"] = share
        found |= ladder.columns()
    found["image_proof"] = [
        _settled(bool(own), method, result)
        for own, method, result in zip(right, ladder.proved, results, strict=True)
    ]
    return found


def spread(proofs: Sequence[str], labels: Labels, classes: int) -> dict[str, Any]:
    """Certified accuracy, overall and a class, of what settled each image; the shares refuted and not decided."""
    counts = {name: sum(proof == name for proof in proofs) / len(proofs) for name in ("refuted", "undecided")}
    certified = np.array([proof in (*bounds.METHODS, "complete") for proof in proofs])
    shares = accuracy.per_class(certified, labels, classes)
    return {
        "certified": float(certified.mean()),
        **counts,
        "class_certified": shares,
        **{f"class_certified_{name}": value for name, value in accuracy.spread(shares).items()},
    }


def _verified(
    engine: Engine, queries: Sequence[Query], right: Flags, timeout: float, seed: int, step: Step
) -> list[Result | None]:
    """The result of each query about an image that is right, one queue for all; None for the others."""
    results: list[Result | None] = [None] * len(queries)
    places = np.flatnonzero(right).tolist()
    name = engine.model.name
    for _ in range(len(queries) - len(places)):
        step(f"an image that {name} gets wrong")
    answers = engine.verify([queries[place] for place in places], timeout=timeout, seed=seed)
    for done, (place, result) in enumerate(zip(places, answers, strict=True), 1):
        results[place] = result
        step(f"verified {done} of {len(places)} images of {name}: {result.verdict}")
    return results


def _cost(results: Sequence[Result | None]) -> dict[str, Any]:
    known = [result for result in results if result is not None]
    seconds = [result.seconds for result in known]
    return {
        "domains": sum(result.domains for result in known),
        "seconds": sum(seconds),
        "mean_seconds": mean(seconds) if seconds else None,
        "median_seconds": median(seconds) if seconds else None,
        "image_seconds": [None if result is None else result.seconds for result in results],
        "image_domains": [None if result is None else result.domains for result in results],
    }


def _settled(right: bool, method: str | None, result: Result | None) -> str:
    if not right:
        return "wrong"
    if method is not None:
        return method
    return {"unsat": "complete", "sat": "refuted"}.get("" if result is None else result.verdict, "undecided")
