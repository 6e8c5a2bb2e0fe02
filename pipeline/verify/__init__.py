"""The verification engine: is there an input that satisfies the query (sat, with a witness) or none (unsat)?

`verify`, `verify_many`, `attack`, `bounds` and `stability` are its functions; `check_witness` replays a witness.
They are imported on first use, since they need torch and a replay does not.

The modules, in the order in which a query meets them:

* `lowering` (with `call`, `constants` and the table in `operators/`): ONNX → bound graph (`graph`, of `operations`);
* `functions` (`curves`, `steps`, `gates`): functions of one variable and the lines that bound them;
* `specification`: query → sub-problems; `pgd`: attack; `replay`: what makes a point a witness;
* `crown`: linear bounds and their rounding argument; `optimise`: α, β and row weights; `root`: bounds of all nodes;
* `fold`: the network as small dense maps for one box;
* `problem`, `branching`, `store`, `relu_split` (with `halfspace`), `input_split` (with `sensitivity`), `leaf`: branch
  and bound;
* `conflict_split` (with `conflicts` and `triangle`): branch and bound by linear programs that learns;
* `engine`: the ladder of all these; `milp` (with `lp`): the exact reference; `auto_lirpa`: bounds of that library;
  `api` and `results`: what callers see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.pipeline.verify.api import (
        Bounds,
        RegionBounds,
        attack,
        bounds,
        stability,
        verify,
        verify_many,
    )
    from secateur.pipeline.verify.replay import Witness, check_witness
    from secateur.pipeline.verify.results import LayerStability, Result

__all__ = [
    "Bounds",
    "LayerStability",
    "RegionBounds",
    "Result",
    "Witness",
    "attack",
    "bounds",
    "check_witness",
    "stability",
    "verify",
    "verify_many",
]

_HOMES = {"Witness": "replay", "check_witness": "replay", "LayerStability": "results", "Result": "results"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'api')}"), name)
