"""How a recipe's networks are trained: settings of `train`, with what a method adds to the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from secateur.pipeline.train.settings import Settings

Regulariser = Literal["", "rs", "nrs", "bn_l1"]


@dataclass(frozen=True)
class Weights:
    """What the regularisers weigh in the loss. None: as 2206.07311 has it, 0.001 in certified training, else 0.01."""

    rs: float | None = None
    nrs: float | None = None
    bn_l1: float = 1e-4


def settings_of(
    values: Mapping[str, Any], epsilon: float, seed: int, weights: Weights, regulariser: Regulariser = ""
) -> Settings:
    """Settings from a recipe's `values`. What has a radius gets ε, unless the values have one of their own.

    Raises:
        InputError: values that do not go together.
    """
    result = Settings(**values, seed=seed)
    if regulariser:
        usual = 0.001 if result.certified else 0.01
        weight = getattr(weights, regulariser)
        added: dict[str, Any] = {regulariser: usual if weight is None else weight}
        result = replace(result, **added)
    if "epsilon" not in values and (result.objective != "standard" or result.bounded):
        result = replace(result, epsilon=epsilon)
    result.check()
    return result
