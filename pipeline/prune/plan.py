"""What to prune, as one value: the same from the command line, from a recipe and from Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from secateur.formats.errors import InputError
from secateur.pipeline.prune import criteria
from secateur.pipeline.prune.criteria import NORMALISERS, REDUCTIONS, Criterion
from secateur.pipeline.prune.granularity import Granularity
from secateur.pipeline.prune.patterns import Choice
from secateur.pipeline.prune.schedule import SCHEDULES

SCOPES = ("global", "layer", "erk")


@dataclass(frozen=True)
class Plan:
    """One act of pruning: `criterion` scores, `granularity` says what units go, the rest how many of which.

    Of n units round(sparsity · n) go: of all together (scope `global`), of each layer's (`layer`), or shared out by
    the Erdős–Rényi kernel rule (`erk`). `ratios` gives layers (glob patterns on their names; the first that matches
    counts) a sparsity of their own; the others have `sparsity`, or stay whole without one. `include` and `exclude`
    are glob patterns, too. It is done in `steps`, with scores made anew in each (see `schedule`). `refill`: the
    criterion chooses single weights, what is left of them chooses the units, and those that stay are whole again
    (Chen et al. 2022, 2202.04736). `reduction` and `normaliser` stand in for the criterion's own; `options` are its
    own options, as text. ε is on raw pixels.

    Raises:
        InputError: a name or a number that is none, or things that do not go together.
    """

    criterion: str
    sparsity: float | None = None
    granularity: str = "weight"
    scope: str = ""
    ratios: Mapping[str, float] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    steps: int = 1
    schedule: str = "geometric"
    refill: bool = False
    reduction: str | None = None
    normaliser: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    epsilon: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.scope:  # what goes with the rest
            alone = bool(self.ratios) or self.units.alike
            object.__setattr__(self, "scope", "layer" if alone else "global")
        for what, name, known in (
            ("scope", self.scope, SCOPES),
            ("schedule", self.schedule, SCHEDULES),
            ("reduction", self.reduction, REDUCTIONS),
            ("normaliser", self.normaliser, NORMALISERS),
        ):
            if name is not None and name not in known:
                raise InputError(f"unknown {what} '{name}': expected one of {', '.join(known)}")
        for what, share in [
            ("sparsity", self.sparsity),
            *((f"ratio {p}", s) for p, s in self.ratios.items()),
        ]:
            if share is not None and not 0 <= share <= 1:
                raise InputError(f"{what} {share:g}: expected a share between 0 and 1")
        if self.steps < 1:
            raise InputError(f"{self.steps} steps: expected 1 or more")
        self._check_units()
        self._check_scope()

    @property
    def units(self) -> Granularity:
        return Granularity.parse(self.granularity)

    @property
    def choice(self) -> Choice:
        return Choice(self.include, self.exclude)

    @property
    def row(self) -> Criterion:
        """The criterion's row of the table."""
        return criteria.find(self.criterion)

    @property
    def overall(self) -> float:
        """The share of all units that is to go; with ratios alone, their mean."""
        if self.units.fixes_sparsity:
            n, m = self.units.numbers
            return 1 - n / m
        if self.sparsity is not None:
            return self.sparsity
        return sum(self.ratios.values()) / len(self.ratios)

    def _check_units(self) -> None:
        units, unit = self.units, self.row.unit
        if not units.fits(unit):
            fit = "channel, neuron, head or layer" if unit == "channel" else "layer"
            raise InputError(
                f"criterion '{self.criterion}' scores {_PLURALS[unit]}: expected granularity {fit}, "
                f"found {self.granularity}"
            )
        if self.reduction and units.fine:
            raise InputError(
                f"reduction {self.reduction} has nothing to reduce: granularity {self.granularity}"
            )
        if self.refill and units.fine:
            raise InputError(
                f"refill chooses larger units than single weights: expected granularity channel, block:RxC, …, "
                f"found {self.granularity}"
            )
        if self.refill and unit != "weight":
            raise InputError(
                f"refill needs a criterion that scores weights: '{self.criterion}' scores {unit}s"
            )

    def _check_scope(self) -> None:
        units = self.units
        if units.fixes_sparsity:
            n, m = units.numbers
            excess = {"a sparsity": self.sparsity is not None, "ratios": self.ratios, "steps": self.steps > 1}
            for what, given in excess.items():
                if given:
                    raise InputError(
                        f"granularity {self.granularity} makes {1 - n / m:.3g} of each layer zero at once: "
                        f"leave out {what}"
                    )
        elif self.sparsity is None and not self.ratios:
            raise InputError(
                "no sparsity: expected a share between 0 and 1", hint="-s S, or --ratio PATTERN=S"
            )
        if units.alike and self.scope != "layer":
            raise InputError(f"granularity {self.granularity} is for each layer alone: expected scope layer")
        if self.ratios and self.scope != "layer":
            raise InputError(f"ratios are for each layer alone: expected scope layer, found {self.scope}")
        if units.kind == "layer" and (self.ratios or self.scope == "erk"):
            raise InputError("granularity layer takes residual branches as a whole: expected scope global")
        if self.scope == "erk" and self.sparsity is None:
            raise InputError("scope erk shares out a sparsity: expected one", hint="-s S")

    def to_dict(self) -> dict[str, object]:
        """Plain data: what every plan has, and whatever else is not as if left out."""
        always = ("criterion", "granularity", "scope", "seed", "sparsity")
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        plain = {
            name: dict(value)
            if isinstance(value, Mapping)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in values.items()
        }
        short = {"steps": 1, "schedule": "geometric", "refill": False}
        return {
            name: value
            for name, value in plain.items()
            if name in always or (value not in (None, {}, [], short.get(name)))
        }


_PLURALS = {"weight": "weights", "channel": "channels", "block": "residual branches"}
