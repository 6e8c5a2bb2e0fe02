"""Pruning as rewrites of an ONNX graph: criteria, masks, and graphs made smaller.

`prune` zeroes what a `Plan` says, `apply` what a mask says; `shrink` removes for real what is zero. Functions are
imported on first use, so that the table of criteria needs none of what they need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.pipeline.prune.applying import apply
    from secateur.pipeline.prune.criteria import CRITERIA, Samples
    from secateur.pipeline.prune.masking import Pruned, prune
    from secateur.pipeline.prune.masks import stats
    from secateur.pipeline.prune.plan import Plan
    from secateur.pipeline.prune.shrinking import LayerReport, Shrunk, shrink

_HOMES = {
    "CRITERIA": "criteria",
    "LayerReport": "shrinking",
    "Plan": "plan",
    "Pruned": "masking",
    "Samples": "criteria",
    "Shrunk": "shrinking",
    "apply": "applying",
    "prune": "masking",
    "shrink": "shrinking",
    "stats": "masks",
}

__all__ = [
    "CRITERIA",
    "LayerReport",
    "Plan",
    "Pruned",
    "Samples",
    "Shrunk",
    "apply",
    "prune",
    "shrink",
    "stats",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
