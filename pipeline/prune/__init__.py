"""Pruning as rewrites of an ONNX graph: criteria, masks, and graphs made smaller."""

from secateur.pipeline.prune.criteria import CRITERIA
from secateur.pipeline.prune.masking import GRANULARITIES, SCOPES, Pruned, apply, prune, stats
from secateur.pipeline.prune.shrinking import LayerReport, Shrunk, shrink

__all__ = [
    "CRITERIA",
    "GRANULARITIES",
    "SCOPES",
    "LayerReport",
    "Pruned",
    "Shrunk",
    "apply",
    "prune",
    "shrink",
    "stats",
]
