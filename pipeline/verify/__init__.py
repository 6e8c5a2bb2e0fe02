"""The verification engine: is there an input that satisfies the query (sat, with a witness) or none (unsat)?

`verify`, `verify_many`, `attack`, `bounds` and `stability` are its functions; `check_witness` replays a witness.
They are imported on first use, since they need torch and a replay does not.

The packages, in the order in which a query meets them:

* `graph`: ONNX → bound graph. `lowering` (with `call`, `constants` and the table in `operators/`) makes a `bound_graph`
  of `operations`; `functions` (`curves`, `steps`, `gates`) are functions of one variable and the lines that bound them;
* `bounding`: `specification` makes sub-problems of a query; `relaxation`, `smooth`, `bilinear` and `normalised` are the
  lines that replace a nonlinear node, with the multipliers (α, β) that choose them (`constraints`: those of splits);
  `crown`: linear bounds and their rounding argument, `forward`: the same for few inputs; `optimise`: the ascent of α, β
  and row weights; `root`: bounds of all nodes; `clause_bounds`: of what is asked; `sensitivity`, `branching`: which
  input, which neuron matters most;
* `region`: `fold`: a network of ReLUs as small dense maps for one box; `refine` (on a `unit_box`): its neurons' bounds
  by branch and bound of their own; `embed`: any other network for one box; `hull`: either for several boxes at once;
* `search`: `relu_split` (with `halfspace`, `leaf`; `joined`: of several instances at once), `conflict_split` (with
  `conflicts`, `triangle`), `input_split` (`joined_boxes`: of several instances, which are its `members`), `cut_split`
  (`joined_cuts`): branch and bound over ReLUs, over ReLUs by linear programs that learn, over the input box, over
  arguments of any nonlinear node; `problem`: what they share; `strategy`: which of them; `work`: the state of one
  query's search, which `checkpoint` keeps on disk.

* `proving`: searches whose every step goes into a certificate (see `pipeline.certificate`).

Beside them: `engine`, the ladder of all these; `pgd`: attack; `replay`: what makes a point a witness; `store`: domains
in bounded memory; `memory`: how much these and the batches may take; `milp` (with `lp`): the exact reference;
`auto_lirpa`: bounds of that library; `api` and `results`: what callers see.
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
