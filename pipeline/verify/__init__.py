"""The verification engine: is there an input that satisfies the query (sat, with a witness) or none (unsat)?

`verify`, `verify_many`, `attack`, `bounds` and `stability` are its functions; `check_witness` replays a witness.
They are imported on first use, since they need torch and a replay does not.

The modules, in the order in which a query meets them:

* `lowering` (with `call`, `constants` and the table in `operators/`): ONNX → bound graph (`graph`, of `operations`);
* `functions` (`curves`, `steps`, `gates`): functions of one variable and the lines that bound them;
* `specification`: query → sub-problems; `pgd`: attack; `replay`: what makes a point a witness;
* `relaxation`, `smooth`: the lines that replace a nonlinear node, and the multipliers (α, β) that choose them;
* `crown`: linear bounds and their rounding argument, `forward`: the same for few inputs; `optimise`: the ascent of
  α, β and row weights; `root`: bounds of all nodes; `clause_bounds`: of what is asked;
* `fold`: a network of ReLUs as small dense maps for one box; `refine` (on a `unit_box`): its neurons' bounds by branch
  and bound of their own; `embed`: any other network for one box;
* `problem`, `store`: what searches share; `relu_split` (with `branching`, `halfspace`, `leaf`), `conflict_split` (with
  `conflicts`, `triangle`), `input_split` (with `sensitivity`), `cut_split`: branch and bound over ReLUs, over ReLUs by
  linear programs that learn, over the input box, over arguments of any nonlinear node; `search`: which of them;
* `engine`: the ladder of all these, for each query a `work`, whose search `checkpoint` keeps on disk; `milp` (with
  `lp`): the exact reference; `auto_lirpa`: bounds of that library; `api` and `results`: what callers see.
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
