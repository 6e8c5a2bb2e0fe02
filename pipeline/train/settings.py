"""How to train: the hyper-parameters, their defaults, and what of them does not fit together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from secateur.formats.errors import InputError

Objective = Literal["standard", "adversarial", "ibp", "crown-ibp"]
Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "step", "cosine", "cyclic"]

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


@dataclass(frozen=True)
class Settings:
    """How to train. Radii are ℓ∞ on raw pixels in [0, 1]; shares are of the epochs.

    Optimisation: `learning_rate` None means 3e-3 for Adam and AdamW, 1e-2 for SGD (which has `momentum`). Schedules:
    `step` multiplies it by 0.1 after each of the `milestones` (shares), `cosine` lowers it to 0 every step, `cyclic`
    raises it from 0 for 40 % of the steps and lowers it to 0 again (Wong et al., "Fast is better than free", ICLR
    2020). `clip` bounds the norm of all gradients together; 0 leaves them. Augmentation: `flip` mirrors half of the
    images, `crop` shifts them by up to so many pixels, black coming in.

    Objectives, with the radius `epsilon`: see `objectives`. `attack_steps` 1 is FGSM from a random start, more are
    PGD; `attack_step` is their step in units of ε (None: 1.25, and 2.5 / steps). `gradalign` is λ of that
    regulariser. Certified objectives begin with ε = 0 and raise it over `ramp_length` from `ramp_start` on (shares),
    smoothly up to `ramp_middle` of that way, evenly from there; meanwhile the weight of the clean cross-entropy goes
    from the first to the second of `kappa`, that of CROWN's bounds against IBP's from the first to the second of
    `beta`. `loss_fusion` bounds the cross-entropy's sum in one backward pass rather than every margin.

    Regularisers for any objective, by weight: `nrs`, `rs`, `instability` (over bounds by IBP at the full ε), `bn_l1`.

    `validation` is the share of the training images held out to choose the best epoch.
    """

    epochs: int = 20
    batch_size: int = 64
    optimizer: Optimizer = "adam"
    learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    milestones: tuple[float, ...] = (0.7, 0.85)
    clip: float = 0.0
    flip: bool = False
    crop: int = 0
    objective: Objective = "standard"
    epsilon: float = 0.0
    attack_steps: int = 1
    attack_step: float | None = None
    gradalign: float = 0.0
    ramp_start: float = 0.0
    ramp_length: float = 0.5
    ramp_middle: float = 0.25
    kappa: tuple[float, float] = (1.0, 0.5)
    beta: tuple[float, float] = (1.0, 0.0)
    loss_fusion: bool = True
    nrs: float = 0.0
    rs: float = 0.0
    instability: float = 0.0
    bn_l1: float = 0.0
    validation: float = 0.1
    seed: int = 0
    device: str = "cpu"

    @property
    def initial_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-2 if self.optimizer == "sgd" else 3e-3

    @property
    def certified(self) -> bool:
        """Whether the objective is a bound on the worst case, which is ramped up to."""
        return self.objective in ("ibp", "crown-ibp")

    @property
    def bounded(self) -> bool:
        """Whether any part of the loss looks at bounds."""
        return self.certified or bool(self.nrs or self.rs or self.instability)

    def check(self) -> None:
        """
        Raises:
            InputError: settings that contradict each other.
        """
        for name, value, choices in (
            ("objective", self.objective, OBJECTIVES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if value not in choices:
                raise InputError(f"no {name} '{value}': expected one of {', '.join(choices)}")
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise InputError(f"ε is {self.epsilon}: expected 0 or more, on pixels in [0, 1]")
        if self.epsilon == 0 and (self.objective != "standard" or self.bounded):
            what = (
                "a regulariser of bounds"
                if self.objective == "standard"
                else f"the objective {self.objective}"
            )
            raise InputError(f"{what} needs a radius", hint="give --epsilon, on pixels in [0, 1]")
        if self.gradalign and self.objective != "adversarial":
            raise InputError(f"GradAlign belongs to adversarial training: the objective is {self.objective}")
        if self.optimizer == "sgd" and not 0 <= self.momentum < 1:
            raise InputError(f"the momentum is {self.momentum}: expected 0 to less than 1")
