"""Criteria: what a weight, a channel or a residual branch is worth. *A higher score means keep*, everywhere.

`CRITERIA` is the table of those that come with Secateur, a family a file. Other packages add theirs by an entry point
of the group `secateur.criteria` whose object is a `Criterion`; `names` lists both, `find` loads one, and `score`
checks what it needs and its options, and runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any

import numpy as np

from secateur.formats.errors import CheckFailed, InputError
from secateur.pipeline.prune.criteria import (
    activations,
    filters,
    gradients,
    hydra,
    magnitude,
    similarity,
    stability,
)
from secateur.pipeline.prune.criteria.context import (
    Context,
    Criterion,
    Need,
    Option,
    Saliency,
    Samples,
    Unit,
)
from secateur.pipeline.prune.criteria.reduce import NORMALISERS, REDUCTIONS

__all__ = [
    "CRITERIA",
    "NORMALISERS",
    "REDUCTIONS",
    "Context",
    "Criterion",
    "Need",
    "Option",
    "Saliency",
    "Samples",
    "Unit",
    "find",
    "names",
    "score",
]

ENTRY_POINTS = "secateur.criteria"
CRITERIA: dict[str, Criterion] = {
    name: criterion
    for family in (magnitude, filters, activations, gradients, hydra, stability, similarity)
    for name, criterion in family.CRITERIA.items()
}


def names() -> list[str]:
    """All criteria by name: the table's, then those of other packages (not loaded; the table's come first)."""
    others = {entry.name for entry in metadata.entry_points(group=ENTRY_POINTS)}
    return [*CRITERIA, *sorted(others - set(CRITERIA))]


def find(name: str) -> Criterion:
    """The criterion of this name.

    Raises:
        InputError: there is none, or another package's cannot be loaded.
    """
    if name in CRITERIA:
        return CRITERIA[name]
    for entry in metadata.entry_points(group=ENTRY_POINTS, name=name):
        origin = f"criterion '{name}' of the package '{entry.dist.name if entry.dist else '?'}'"
        try:
            criterion = entry.load()
        except Exception as error:
            raise InputError(f"{origin} cannot be loaded: {type(error).__name__}: {error}") from None
        if not isinstance(criterion, Criterion):
            raise InputError(f"{origin}: expected a Criterion, found {type(criterion).__name__}")
        return criterion
    raise InputError(f"unknown criterion '{name}': expected one of {', '.join(names())}")


def score(name: str, context: Context) -> Saliency:
    """The criterion's scores of the context's layers (or of the residual branches), float64, finite.

    A layer that is left out has none, for the reason `Criterion.without`.

    Raises:
        InputError: an unknown criterion or option, a value that is none; data, labels or ε that it needs are missing;
            no layer has scores.
        UnsupportedError: the criterion does not know an operator of the network.
        CheckFailed: scores that are not finite or not of the right shape.
    """
    criterion = find(name)
    purpose = f"criterion '{name}'"
    if "data" in criterion.needs:
        context.samples(purpose)
        _check_size(context)
    if "bounds" in criterion.needs:
        context.radius(purpose)
    saliency = criterion.score(replace(context, options=_options(name, criterion, context.options)))
    if not saliency and criterion.without:
        reason = f"{purpose} has no scores for any layer: {criterion.without}"
        raise InputError(reason, where=context.model.name)
    if criterion.unit != "block":
        shapes = context.shapes()
        for layer in context.layers:
            whole = shapes[layer.weight]
            shape = whole if criterion.unit == "weight" else (whole[layer.channel_axis],)
            found = saliency.get(layer.weight)
            if found.shape != shape if found is not None else not criterion.without:
                raise CheckFailed(f"{purpose} gives no scores of shape {shape} for '{layer.weight}'")
    for key, values in saliency.items():
        if not np.isfinite(values).all():
            raise CheckFailed(
                f"{purpose} gives scores of '{key}' that are not finite", where=context.model.name
            )
    return saliency


def _check_size(context: Context) -> None:
    images = context.samples().images
    from secateur.pipeline import onnxrt  # the table itself needs no onnxruntime

    inputs, found = onnxrt.count_inputs(context.model), images.size // len(images)
    if inputs != found:
        reason = f"the network has {inputs} inputs, the samples have {found} values"
        raise InputError(reason, where=context.model.name)


def _options(name: str, criterion: Criterion, given: Mapping[str, Any]) -> dict[str, Any]:
    known = {option.name: option for option in criterion.options}
    for key in given:
        if key not in known:
            has = f"its options are {', '.join(known)}" if known else "it has none"
            raise InputError(f"criterion '{name}' has no option '{key}': {has}")
    return {
        key: option.parse(str(given[key]), name) if key in given else option.default
        for key, option in known.items()
    }
