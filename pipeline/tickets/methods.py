"""The methods that the loop offers by name: what is scored, what goes with it, and what training adds to the loss.

One row each. A row holds the settings (`Pruning`) in which a method differs from the rest; a recipe may overrule
any of them. Every criterion of `secateur prune --list` is a method, too, by its own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from secateur.formats.errors import InputError
from secateur.pipeline.prune import criteria, schedule
from secateur.pipeline.prune.plan import Plan
from secateur.pipeline.tickets.training import Regulariser

WEIGHTS, CHANNELS = 0.2, 0.11
"""Shares of the survivors that go a round in 2206.07311, appendix: of weights, of channels."""


@dataclass(frozen=True)
class Pruning:
    """How a method prunes, round by round.

    In each of `rounds` rounds `criterion` scores the units of `granularity` and the lowest go, until so many are gone:
    `share` of what the round before left (1 − (1 − share)^k after k rounds); or, where `sparsity` is given, on the way
    to it by `schedule`; or what `sparsities` lists, a round each. What is gone stays gone.

    `scored` is the network that the criterion looks at: "trained", that of the round before (with `one_shot`, always
    the dense one: each round is then pruned in one step); "start", the untrained one; or a method's name, whose network
    of the same round is taken instead, and its mask not followed. `then` says what survivors begin with: their initial
    weights ("rewind") or those of the scored network ("fine-tune"). Training adds `regulariser` to the loss.

    `scope`, `include`, `exclude` and `options` are those of `Plan`; `samples` training images, drawn by the seed, go to
    criteria that look at data.
    """

    criterion: str
    granularity: str = "weight"
    regulariser: Regulariser = ""
    scored: str = "trained"
    one_shot: bool = False
    then: Literal["rewind", "fine-tune"] = "rewind"
    rounds: int = 5
    share: float = WEIGHTS
    sparsity: float | None = None
    sparsities: tuple[float, ...] = ()
    schedule: str = "geometric"
    scope: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    samples: int = 512
    options: Mapping[str, str | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: a value that is none, or values that do not go together.
        """
        if self.rounds < 1:
            raise InputError(f"rounds = {self.rounds}: expected 1 or more")
        if self.samples < 1:
            raise InputError(f"samples = {self.samples}: expected 1 or more")
        if self.schedule not in schedule.SCHEDULES:
            raise InputError(f"schedule = '{self.schedule}': expected one of {', '.join(schedule.SCHEDULES)}")
        for name, share in [("share", self.share), ("sparsity", self.sparsity)]:
            if share is not None and not 0 < share < 1:
                raise InputError(f"{name} = {share:g}: expected a share between 0 and 1")
        if any(not 0 < share < 1 for share in self.sparsities):
            raise InputError(f"sparsities = {list(self.sparsities)}: expected shares between 0 and 1")
        if list(self.sparsities) != sorted(set(self.sparsities)):
            raise InputError(
                f"sparsities = {list(self.sparsities)}: expected each larger than the one before"
            )
        if self.sparsities and self.sparsity is not None:
            raise InputError("sparsity and sparsities: expected one of them")
        if self.one_shot and self.scored != "trained":
            raise InputError(f"one_shot scores the dense network: leave out scored = '{self.scored}'")
        self.plan(1, epsilon=None, seed=0)  # says what is wrong with the rest

    @property
    def course(self) -> tuple[float, ...]:
        """The share of units that is gone after each round."""
        if self.sparsities:
            return self.sparsities
        if self.sparsity is None:
            return tuple(1 - (1 - self.share) ** k for k in range(1, self.rounds + 1))
        return tuple(until(self.sparsity) for until in schedule.course(self.schedule, self.rounds))

    def plan(self, number: int, *, epsilon: float | None, seed: int) -> Plan:
        """What to prune in round `number`, from 1."""
        return Plan(
            self.criterion,
            sparsity=self.course[number - 1],
            granularity=self.granularity,
            scope=self.scope,
            include=self.include,
            exclude=self.exclude,
            options={name: str(value) for name, value in self.options.items()},
            epsilon=epsilon if "bounds" in criteria.find(self.criterion).needs or self.robust else None,
            seed=seed,
        )

    @property
    def robust(self) -> bool:
        """Whether the criterion's loss is that of attacked images."""
        return self.options.get("loss") == "robust"


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    settings: Mapping[str, object]
    summary: str
    source: str


_PAPER = "Li et al. 2022 (2206.07311)"
_IMP = {"criterion": "magnitude"}
_HYDRA = {"criterion": "hydra", "scope": "layer"}
_CHANNELS = {"granularity": "channel", "share": CHANNELS}

METHODS: dict[str, Method] = {
    "random": Method({"criterion": "random"}, "weights at random, the baseline of every comparison", "—"),
    "imp": Method(
        _IMP, "the smallest weights, round by round (lottery tickets)", "Frankle & Carbin 2019 (1803.03635)"
    ),
    "snip": Method(
        {"criterion": "snip", "scored": "start"},
        "|w · ∂L/∂w| at initialisation, round by round",
        "Lee et al. 2019 (1810.02340)",
    ),
    "taylor": Method(
        {"criterion": "taylor"}, "|w · ∂L/∂w| of the trained network", "Molchanov et al. 2017 (1611.06440)"
    ),
    "hydra": Method(
        _HYDRA, "masks that are learned, the same share of each layer", "Sehwag et al. 2020 (2002.10509)"
    ),
    "imp+rs": Method(
        {**_IMP, "regulariser": "rs"}, "imp, trained with the RS loss", "Xiao et al. 2019 (1809.03008)"
    ),
    "imp+nrs": Method({**_IMP, "regulariser": "nrs"}, "imp, trained with the NRSLoss", _PAPER),
    "hydra+nrs": Method({**_HYDRA, "regulariser": "nrs"}, "hydra, trained with the NRSLoss", _PAPER),
    "slimming": Method(
        {**_CHANNELS, "criterion": "bn-scale", "regulariser": "bn_l1"},
        "channels of small |γ|, trained with an ℓ1 penalty on γ",
        "Liu et al. 2017 (1708.06519)",
    ),
    "refill": Method(
        {**_CHANNELS, "criterion": "magnitude", "scored": "imp"},
        "channels in which the ticket of imp of the same round has least weight; the others are whole again",
        "Chen et al. 2022 (2202.04736)",
    ),
    "nrs-channels": Method({**_CHANNELS, "criterion": "nrs"}, "channels of the highest NRSLoss", _PAPER),
}


def find(name: str) -> Method:
    """The method of this name, or the criterion of this name as a method.

    Raises:
        InputError: there is none.
    """
    if name in METHODS:
        return METHODS[name]
    if name in criteria.names():
        row = criteria.find(name)
        units: dict[str, Mapping[str, object]] = {
            "weight": {},
            "channel": _CHANNELS,
            "block": {"granularity": "layer"},
        }
        return Method({"criterion": name, **units[row.unit]}, row.summary, row.source)
    raise InputError(f"unknown method '{name}': expected one of {', '.join(METHODS)}, or a criterion's name")
