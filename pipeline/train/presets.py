"""Settings by name: those of the published work, number by number.

Li et al., "Can pruning improve certified robustness of neural networks?" (2206.07311): 200 epochs (300 for ε = 8/255)
in batches of 128, learning rate ×0.1 after 70 % and 85 % of them, gradients clipped to norm 8. Adversarial: FGSM from a
random start with steps of 1.25 ε, and GradAlign with λ = 0.2; SGD with 0.01, momentum 0.9, weight decay 5e-4.
Certified: CROWN-IBP with loss fusion and no clean cross-entropy; Adam with 1e-3, weight decay 1e-5; ε rises smoothly
from epoch 11 (16) on, for 81 (121) epochs, the first 0.4 of them along a curve. With NRSLoss (weight 0.01 adversarial,
0.001 certified) the certified weight decay is 0. Network slimming adds 1e-4 · mean |γ|.

Shares of the epochs stand for epochs, so that a preset with fewer epochs has the same shape. What differs here: a tenth
of the training images is held out, and chooses the epoch; there, the last epoch or the test set does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from secateur.formats.errors import InputError
from secateur.pipeline.train.settings import Settings


@dataclass(frozen=True)
class Preset:
    """Settings, and what a network built for them looks like: `architecture`, and the `mean` and `std` of each channel
    by which pixels are normalised inside the graph (None: not at all)."""

    name: str
    summary: str
    settings: Settings
    architecture: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


@dataclass(frozen=True)
class _Data:
    name: str
    summary: str
    epsilon: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    flip: bool
    crop: int
    long: bool = False


_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_DATA = (
    _Data("cifar10", "CIFAR-10, ε = 2/255", 2 / 255, _CIFAR_MEAN, _CIFAR_STD, True, 4),
    _Data("cifar10-8", "CIFAR-10, ε = 8/255", 8 / 255, _CIFAR_MEAN, _CIFAR_STD, True, 4, long=True),
    _Data("svhn", "SVHN, ε = 2/255", 2 / 255, None, None, False, 4),
    # Its crop is of 28 pixels out of 28, which moves nothing.
    _Data("fashion", "FashionMNIST, ε = 0.1", 0.1, (0.286,), (0.315,), True, 0),
)

_BOTH = Settings(epochs=200, batch_size=128, schedule="step", milestones=(0.7, 0.85), clip=8.0)
_ADVERSARIAL = replace(
    _BOTH,
    objective="adversarial",
    attack_steps=1,
    attack_step=1.25,
    gradalign=0.2,
    optimizer="sgd",
    learning_rate=0.01,
    momentum=0.9,
    weight_decay=5e-4,
)
_CERTIFIED = replace(
    _BOTH,
    objective="crown-ibp",
    loss_fusion=True,
    kappa=(0.0, 0.0),
    beta=(1.0, 0.0),
    optimizer="adam",
    learning_rate=1e-3,
    weight_decay=1e-5,
    ramp_start=10 / 200,
    ramp_length=81 / 200,
    ramp_middle=0.4,
)


def _presets() -> list[Preset]:
    found = []
    for training, base, nrs in (("adversarial", _ADVERSARIAL, 0.01), ("certified", _CERTIFIED, 0.001)):
        for data in _DATA:
            if data.long and training == "adversarial":
                continue
            settings = replace(base, epsilon=data.epsilon, flip=data.flip, crop=data.crop)
            if data.long:
                settings = replace(settings, epochs=300, ramp_start=15 / 300, ramp_length=121 / 300)
            decay = settings.weight_decay if training == "adversarial" else 0.0
            for suffix, addition, chosen in (
                ("", "", settings),
                ("-nrs", " + NRSLoss", replace(settings, nrs=nrs, weight_decay=decay)),
                ("-slim", " + network slimming", replace(settings, bn_l1=1e-4)),
            ):
                found.append(
                    Preset(
                        f"paper-{training}-{data.name}{suffix}",
                        f"{training} training on {data.summary}{addition}",
                        chosen,
                        "cifar_model_deep",
                        data.mean,
                        data.std,
                    )
                )
    return found


PRESETS: dict[str, Preset] = {preset.name: preset for preset in _presets()}


def preset(name: str) -> Preset:
    """
    Raises:
        InputError: no preset of this name.
    """
    if name not in PRESETS:
        raise InputError(f"no preset '{name}'", hint="secateur train --list-presets names them")
    return PRESETS[name]
