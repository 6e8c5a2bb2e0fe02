"""How certified training grows into its radius, and what else changes on the way."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.pipeline.train.settings import Settings

_POWER = 4  # of the smooth beginning


@dataclass(frozen=True)
class Stage:
    """What holds for one optimiser step: the radius, the weight κ of the clean cross-entropy, and β of CROWN's bounds
    against IBP's."""

    epsilon: float
    kappa: float
    beta: float


def stage(settings: Settings, step: int, batches: int) -> Stage:
    """The stage of optimiser step `step` (from 0), of `batches` an epoch.

    ε rises as t⁴ up to `ramp_middle` of its way and in a straight line from there, without a kink: the schedule
    "smoothed" of auto_LiRPA (after DeepMind's interval-bound-propagation). κ and β follow ε / ε_max in straight lines
    (Gowal et al. 2018, section 3; Zhang et al. 2020, section 3.3). Objectives that are no bounds have no ramp.
    """
    share = _share(settings, step, batches) if settings.certified else 1.0
    kappa, beta = (first + (last - first) * share for first, last in (settings.kappa, settings.beta))
    return Stage(settings.epsilon * share, kappa, beta)


def _share(settings: Settings, step: int, batches: int) -> float:
    start, length = (part * settings.epochs * batches for part in (settings.ramp_start, settings.ramp_length))
    if step >= start + length:
        return 1.0
    if step <= start:
        return 0.0
    done, middle = (step - start) / length, settings.ramp_middle
    height = middle / (
        _POWER * (1 - middle) + middle
    )  # reached in the middle, with the slope of the line that follows
    if done < middle:
        return float(height * (done / middle) ** _POWER)
    return float(height + (1 - height) * (done - middle) / (1 - middle))
