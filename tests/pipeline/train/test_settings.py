"""Settings, presets, schedules, the ramp, augmentation."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from secateur.formats.errors import InputError
from secateur.pipeline.train import optimisation
from secateur.pipeline.train.augmentation import augment
from secateur.pipeline.train.presets import PRESETS, preset
from secateur.pipeline.train.ramp import stage
from secateur.pipeline.train.settings import Settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (Settings(objective="ibp"), "the objective ibp needs a radius"),
        (Settings(nrs=0.1), "a regulariser of bounds needs a radius"),
        (Settings(epsilon=-1.0), "expected 0 or more"),
        (Settings(epsilon=float("nan")), "expected 0 or more"),
        (Settings(epsilon=0.1, gradalign=0.2), "GradAlign belongs to adversarial training"),
        (Settings(optimizer="sgd", momentum=1.0), "the momentum is 1"),
        (Settings(objective="trades", epsilon=0.1), "no objective 'trades'"),  # type: ignore[arg-type]
    ],
)
def test_contradictions_are_refused(settings: Settings, says: str) -> None:
    with pytest.raises(InputError, match=says):
        settings.check()


def test_presets_are_the_paper_s() -> None:
    for name, found in PRESETS.items():
        found.settings.check()
        assert found.name == name and found.architecture == "cifar_model_deep"
        epochs = 300 if "-8" in name else 200
        assert (found.settings.epochs, found.settings.batch_size, found.settings.clip) == (epochs, 128, 8.0)
    adversarial = preset("paper-adversarial-cifar10").settings
    assert adversarial.epsilon == 2 / 255 and (adversarial.attack_steps, adversarial.attack_step) == (1, 1.25)
    assert (adversarial.gradalign, adversarial.optimizer, adversarial.learning_rate) == (0.2, "sgd", 0.01)
    assert (adversarial.momentum, adversarial.weight_decay) == (0.9, 5e-4)
    certified = preset("paper-certified-cifar10").settings
    assert (certified.optimizer, certified.learning_rate, certified.weight_decay) == ("adam", 1e-3, 1e-5)
    assert certified.loss_fusion and certified.kappa == (0, 0) and certified.beta == (1, 0)
    assert preset("paper-certified-cifar10-nrs").settings == replace(certified, nrs=0.001, weight_decay=0.0)
    assert preset("paper-adversarial-cifar10-nrs").settings == replace(adversarial, nrs=0.01)
    assert preset("paper-adversarial-cifar10-slim").settings == replace(adversarial, bn_l1=1e-4)
    batches = 390
    rates = [optimisation.rate(adversarial, epoch * batches, batches) for epoch in range(200)]
    assert rates[139] == 0.01
    assert rates[140] == rates[169] == pytest.approx(1e-3)
    assert rates[170] == pytest.approx(1e-4)
    long = preset("paper-certified-cifar10-8").settings
    assert optimisation.rate(long, 209 * batches, batches) == 1e-3
    assert optimisation.rate(long, 210 * batches, batches) == pytest.approx(1e-4)
    assert optimisation.rate(long, 255 * batches, batches) == pytest.approx(1e-5)
    # "start 11, length 81": nothing in the first ten epochs, all after the 91st; "start 16, length 121".
    for settings, start, end in ((certified, 10, 91), (long, 15, 136)):
        assert stage(settings, start * batches, batches).epsilon == 0
        assert stage(settings, start * batches + 1, batches).epsilon > 0
        assert stage(settings, end * batches - 1, batches).epsilon < settings.epsilon
        assert stage(settings, end * batches, batches).epsilon == settings.epsilon
    with pytest.raises(InputError, match="no preset 'paper'"):
        preset("paper")


def test_the_ramp_is_that_of_auto_lirpa() -> None:
    """Its SmoothedScheduler, written out: t⁴ up to the middle, then a line of the same slope."""
    settings = Settings(
        epochs=20, objective="ibp", epsilon=0.3, ramp_start=0.1, ramp_length=0.5, ramp_middle=0.4
    )
    batches, start, end = 10, 20, 120
    middle = start + 0.4 * (end - start)
    alpha = 0.3 / ((end - middle) * 4 * (middle - start) ** 3 + (middle - start) ** 4)
    for step in range(200):
        found = stage(settings, step, batches)
        if step <= start:
            expected = 0.0
        elif step < middle:
            expected = alpha * (step - start) ** 4
        else:
            begun = alpha * (middle - start) ** 4
            expected = min(begun + (0.3 - begun) * (step - middle) / (end - middle), 0.3)
        assert found.epsilon == pytest.approx(expected)
        assert found.kappa == pytest.approx(1 - 0.5 * found.epsilon / 0.3)
        assert found.beta == pytest.approx(1 - found.epsilon / 0.3)
    attacked = replace(settings, objective="adversarial")
    assert stage(attacked, 0, batches).epsilon == 0.3
    at_once = replace(settings, ramp_start=0.0, ramp_length=0.0)
    assert stage(at_once, 0, batches).epsilon == 0.3


def test_learning_rates() -> None:
    settings = Settings(epochs=10, learning_rate=1.0)

    def rates(**changes: object) -> list[float]:
        return [optimisation.rate(replace(settings, **changes), step, 10) for step in range(100)]  # type: ignore[arg-type]

    assert set(rates(schedule="constant")) == {1.0}
    cyclic = rates(schedule="cyclic")
    top = cyclic.index(max(cyclic))
    assert 38 <= top <= 41 and cyclic[0] < 0.05 and cyclic[-1] < 0.05
    assert all(a < b for a, b in pairwise(cyclic[: top + 1])) and all(
        a >= b for a, b in pairwise(cyclic[top:])
    )
    cosine = rates(schedule="cosine")
    assert cosine[0] == 1 and cosine[50] == pytest.approx(0.5) and all(a > b for a, b in pairwise(cosine))
    assert rates(schedule="step", milestones=(0.5,))[49:51] == [1.0, 0.1]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_step_is_torch_s_with_clipped_gradients(name: str) -> None:
    settings = Settings(optimizer=name, weight_decay=0.1, clip=0.5)  # type: ignore[arg-type]
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    reference = kinds[name](
        [weights[0]], lr=0.02, weight_decay=0.1, **({"momentum": 0.9} if name == "sgd" else {})
    )
    ours = optimisation.optimizer([weights[1]], settings)
    for _ in range(3):
        for weight, factor in zip(weights, (0.5 / 5, 1.0), strict=True):
            weight.grad = factor * torch.tensor([3.0, 0.0, -4.0])  # of norm 5
        reference.step()
        optimisation.apply(ours, settings, 0.02)
    assert torch.allclose(*weights)


def test_augmentation_moves_whole_images() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50, 2, 5, 6, generator=generator)
    moved = augment(x, generator, flip=True, crop=2)
    assert moved.shape == x.shape
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    seen = set()
    for image in range(len(x)):
        ways = [
            (mirrored, down, right)
            for mirrored in (False, True)
            for down in range(5)
            for right in range(5)
            if torch.equal(
                (nn.functional.pad(x[image].flip(-1), (2, 2, 2, 2)) if mirrored else padded[image])[
                    :, down : down + 5, right : right + 6
                ],
                moved[image],
            )
        ]
        assert len(ways) == 1
        seen.add(ways[0])
    assert len(seen) > 25  # of 50
    assert {mirrored for mirrored, _, _ in seen} == {False, True}
    assert torch.equal(augment(x, generator), x)
