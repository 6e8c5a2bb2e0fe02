"""Measures of a model, for studies of pruning: accuracy, under attack and certified, tightness of bounds, cost.

`images.choose` makes test images ready, a `Bench` measures models on them and gives a flat record each, whose columns
`formats.measurements` explains:

    bench = Bench(choose(data, "1/16", count=100), Settings(timeout=20))
    record = bench.measure(model, dense=dense)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.pipeline.measures.attacks import Strength
    from secateur.pipeline.measures.bench import GROUPS, Bench, Settings
    from secateur.pipeline.measures.images import Images, choose

__all__ = ["GROUPS", "Bench", "Images", "Settings", "Strength", "choose"]

_HOMES = {"Strength": "attacks", "Images": "images", "choose": "images"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'bench')}"), name)
