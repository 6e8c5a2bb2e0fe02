"""Certified accuracy: which images are proved robust, by which means, at what cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.formats.errors import CheckFailed
from secateur.formats.query import Query
from secateur.pipeline.measures import accuracy, bounds, memory
from secateur.pipeline.measures.accuracy import Labels
from secateur.pipeline.measures.attacks import Flags
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.results import Result

Step = Callable[[str], None]
_CHEAP = ("ibp", "crown")  # bounds that every ball gets
_ROUNDING = 1e-4  # so far, relative to the largest output, onnxruntime may be from real arithmetic


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
    """The columns of certified accuracy and of bounds (see `formats.measurements`) of robustness queries.

    An image that is not `right` [n] is not certified, whatever its ball holds. First come bounds (`methods`: the first
    so many of `bounds.METHODS`, or none), IBP and CROWN on every ball; those images that they leave open are one queue
    for complete verification; what that leaves undecided, or proves by other means, is asked of α-CROWN. The seconds of
    an image are those of its bounds and of its search, α-CROWN by itself left out: the search has its own.
    """
    name, count = engine.model.name, len(queries)
    tightness = {method: bounds.Tightness() for method in _CHEAP if method in methods}
    proofs = ["open" if own else "wrong" for own in right]
    seconds = [0.0] * count
    memory.forget_peak(str(engine.device))
    for place, query in enumerate(queries if methods else ()):
        started = time.perf_counter()
        method = bounds.climb(engine, query, [one for one in methods if one in _CHEAP], tightness)
        if method and right[place]:
            proofs[place] = method
        seconds[place] = time.perf_counter() - started
        step(f"bounded {place + 1} of {count} images of {name}")
    found: dict[str, Any] = {"images": count, "right": float(right.mean())}
    domains = [0] * count
    results: dict[int, Result] = {}
    if completely:
        left = [place for place in range(count) if proofs[place] == "open"]
        for _ in range(count - len(left)):
            step(f"an image of {name} that is settled")
        answers = engine.verify([queries[place] for place in left], timeout=timeout, seed=seed)
        for done, (place, result) in enumerate(zip(left, answers, strict=True), 1):
            results[place] = result
            seconds[place] += result.seconds
            domains[place] = result.domains
            step(f"verified {done} of {len(left)} open images of {name}: {result.verdict}")
        found |= _cost(seconds, domains, right, timeout) | {"peak_bytes": memory.peak(str(engine.device))}
    for place in range(count):
        verdict = results[place].verdict if place in results else ""
        if "alpha-crown" in methods and proofs[place] == "open" and verdict != "sat":
            proofs[place] = bounds.climb(engine, queries[place], methods) or "open"
        if proofs[place] == "open":
            proofs[place] = {"unsat": "complete", "sat": "refuted"}.get(verdict, "undecided")
    for method, one in tightness.items():
        found |= one.columns(method)
    return found | {"image_proof": proofs}


def check(proofs: Sequence[str], margins: NDArray[np.float64], names: Sequence[str], where: str) -> list[str]:
    """The proofs, but for images that an attack has refuted: their `margins` in onnxruntime (the label's output less
    the largest other one, at attacked points, relative to the largest) are 0 or below.

    Raises:
        CheckFailed: an image is proved, and refuted by more than rounding explains: a defect.
    """
    checked = list(proofs)
    for place, (proof, margin) in enumerate(zip(proofs, margins.tolist(), strict=True)):
        if margin > 0 or proof in ("wrong", "refuted"):
            continue
        if proof != "undecided" and margin < -_ROUNDING:
            message = f"{names[place]}: proved by {proof}, but an attack has a counterexample"
            raise CheckFailed(message, where=where, hint="report this")
        checked[place] = "refuted"
    return checked


def rungs(proofs: Sequence[str], methods: Sequence[str]) -> dict[str, float]:
    """Certified accuracy by each method of bounding: what it or those before it prove."""
    return {
        f"certified_{method.replace('-', '_')}": sum(proof in methods[: number + 1] for proof in proofs)
        / len(proofs)
        for number, method in enumerate(methods)
    }


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


def _cost(seconds: Sequence[float], domains: Sequence[int], right: Flags, timeout: float) -> dict[str, Any]:
    known = [one for one, own in zip(seconds, right, strict=True) if own]
    return {
        "timeout": timeout,
        "domains": sum(domains),
        "seconds": sum(known),
        "mean_seconds": mean(known) if known else None,
        "median_seconds": median(known) if known else None,
        "image_seconds": [one if own else None for one, own in zip(seconds, right, strict=True)],
        "image_domains": [one if own else None for one, own in zip(domains, right, strict=True)],
    }
