"""`secateur train`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import click

from secateur.pipeline.train.settings import OBJECTIVES, OPTIMIZERS, SCHEDULES, Settings
from secateur.tools.common import data_option, device_callback, output_option, say

if TYPE_CHECKING:
    from secateur.pipeline.train.loop import Epoch

_DEFAULTS = {field.name: field.default for field in fields(Settings)}


def _list_architectures(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from secateur.pipeline.train.architectures import ARCHITECTURES

        for architecture in ARCHITECTURES.values():
            click.echo(f"{architecture.name:18} {architecture.summary}")
        ctx.exit()


def _list_presets(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from secateur.pipeline.train.presets import PRESETS

        for preset in PRESETS.values():
            click.echo(f"{preset.name:32} {preset.summary}")
        ctx.exit()


def _numbers(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected numbers such as 0.5,0.25, found '{value}'") from None


def _setting(field: str, *names: str, help: str, **options: Any) -> Callable[[Any], Any]:
    """An option for a field of `Settings`; None where it is not given, so that presets show through."""
    default = _DEFAULTS[field]
    if isinstance(default, tuple):
        separator = " " if "nargs" in options else ","
        help = f"{help}  [default: {separator.join(str(part) for part in default)}]"
    elif default is not None and not isinstance(default, bool):
        help = f"{help}  [default: {default}]"
    return click.option(*names, field, default=None, help=help, **options)


_SHARE = click.FloatRange(0, 1)
_WEIGHT = click.FloatRange(min=0)

_SETTINGS = (
    _setting("epochs", "--epochs", type=click.IntRange(min=0), help="0 writes the start."),
    _setting("batch_size", "--batch-size", type=click.IntRange(min=2), help="Images a step."),
    _setting("optimizer", "--optimizer", type=click.Choice(OPTIMIZERS), help="How weights follow gradients."),
    _setting(
        "learning_rate",
        "--lr",
        type=click.FloatRange(min=0, min_open=True),
        help="Initial learning rate  [default: 3e-3 for adam and adamw, 1e-2 for sgd]",
    ),
    _setting("momentum", "--momentum", type=click.FloatRange(0, 1, max_open=True), help="Of sgd."),
    _setting("weight_decay", "--weight-decay", type=_WEIGHT, help="λ of λ/2·|w|² (adamw: decoupled)."),
    _setting(
        "schedule",
        "--schedule",
        type=click.Choice(SCHEDULES),
        help="How the learning rate moves: step = ×0.1 at milestones, cyclic = up for 40 % of the steps, then down.",
    ),
    _setting(
        "milestones",
        "--milestones",
        metavar="SHARES",
        callback=_numbers,
        help="Of the epochs, for --schedule step.",
    ),
    _setting("clip", "--clip", type=_WEIGHT, help="Largest norm of all gradients together; 0 leaves them."),
    _setting("flip", "--flip/--no-flip", help="Mirror half of the images."),
    _setting("crop", "--crop", type=click.IntRange(min=0), help="Shift images by up to so many pixels."),
    _setting("objective", "--objective", type=click.Choice(OBJECTIVES), help="What to minimise."),
    _setting("epsilon", "--epsilon", type=_SHARE, help="ℓ∞ radius on raw pixels in [0, 1]."),
    _setting(
        "attack_steps",
        "--attack-steps",
        type=click.IntRange(min=1),
        help="Gradient steps of the attack: 1 is FGSM, more are PGD.",
    ),
    _setting(
        "attack_step",
        "--attack-step",
        type=click.FloatRange(min=0, min_open=True),
        help="Size of these, in units of ε  [default: 1.25 for FGSM, 2.5 / steps for PGD]",
    ),
    _setting("gradalign", "--gradalign", type=_WEIGHT, help="λ of GradAlign, for adversarial training."),
    _setting("ramp_start", "--ramp-start", type=_SHARE, help="Share of the epochs with ε = 0 (certified)."),
    _setting("ramp_length", "--ramp-length", type=_SHARE, help="Share of the epochs in which ε grows."),
    _setting("ramp_middle", "--ramp-middle", type=_SHARE, help="Share of that which is a curve, not a line."),
    _setting(
        "kappa", "--kappa", type=_SHARE, nargs=2, help="Weight of the clean loss, first and last (certified)."
    ),
    _setting(
        "beta",
        "--beta",
        type=_SHARE,
        nargs=2,
        help="Weight of CROWN against IBP, first and last (crown-ibp).",
    ),
    _setting(
        "loss_fusion",
        "--loss-fusion/--no-loss-fusion",
        help="Bound the loss, not each margin (crown-ibp).",
    ),
    _setting("nrs", "--nrs", type=_WEIGHT, help="Weight of NRSLoss, −tanh(1 + l·u/γ²)."),
    _setting("rs", "--rs", type=_WEIGHT, help="Weight of the RS loss, −tanh(1 + l·u)."),
    _setting("instability", "--instability", type=_WEIGHT, help="Weight of Σ −l·u over unstable ReLUs."),
    _setting(
        "bn_l1", "--bn-l1", type=_WEIGHT, help="Weight of mean |γ| of BatchNormalizations (network slimming)."
    ),
    _setting(
        "validation",
        "--validation",
        metavar="SHARE",
        type=click.FloatRange(0, 1, max_open=True),
        help="Share of the training images held out to choose the best epoch.",
    ),
    _setting("seed", "--seed", type=click.IntRange(min=0), help="Seed: the same seed, the same result."),
    _setting("device", "--device", callback=device_callback, help="Where to compute: cpu, cuda or cuda:N."),
)


def _settings_options(function: Any) -> Any:
    for option in reversed(_SETTINGS):
        function = option(function)
    return function


@click.command(
    epilog="""\b
Examples:
  secateur train digits_cnn -o dense.onnx
  secateur train digits_cnn --adversarial 0.05 --epochs 30 --seed 1 -o robust.onnx
  secateur train digits_cnn --objective crown-ibp --epsilon 0.05 --nrs 0.001 --checkpoint run -o certified.onnx
  secateur prune magnitude dense.onnx -s 0.8 --mask-out m.safetensors -o pruned.onnx
  secateur train pruned.onnx --mask m.safetensors --epochs 10 -o retrained.onnx
  secateur train pruned.onnx --mask m.safetensors --init early.onnx -o ticket.onnx
  secateur train --preset paper-certified-cifar10-nrs --data cifar10.npz --device cuda --checkpoint run -o deep.onnx"""
)
@click.argument("source", metavar="ARCH|MODEL", required=False)
@click.option(
    "--list",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_list_architectures,
    help="List the architectures.",
)
@click.option("--preset", metavar="NAME", help="Published settings; options given beside it override them.")
@click.option(
    "--list-presets",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_list_presets,
    help="List the presets.",
)
@data_option
@click.option("--mask", "mask_source", metavar="MASK", help="Hold the removed weights of this mask at zero.")
@click.option(
    "--init",
    "initial",
    metavar="MODEL0",
    help="Rewind: begin with the weights of MODEL0, those that --mask keeps (a lottery ticket).",
)
@click.option(
    "--save-early",
    "early",
    metavar="EPOCH FILE",
    type=(click.IntRange(min=0), str),
    help="Also write the model after this epoch, to rewind to.",
)
@click.option(
    "--checkpoint",
    metavar="DIR",
    help="Keep the state there after every epoch; the same command goes on from it, whatever stopped it.",
)
@click.option("--records", metavar="FILE", help="Write one JSON line an epoch.")
@click.option("--mean", callback=_numbers, help="Of each channel, for an ARCH: (x − mean) / std comes first.")
@click.option("--std", callback=_numbers, help="Of each channel, likewise.")
@click.option(
    "--adversarial",
    metavar="EPS",
    type=click.FloatRange(0, 1),
    help="Short for --objective adversarial --epsilon EPS (0: standard).",
)
@_settings_options
@output_option
def command(
    source: str | None,
    preset: str | None,
    data: str,
    mask_source: str | None,
    initial: str | None,
    early: tuple[int, str] | None,
    checkpoint: str | None,
    records: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    adversarial: float | None,
    output: str,
    **given: Any,
) -> None:
    """Train a named architecture, or an ONNX model in place.

    Weights go back into the initializers that they came from: graph, names and metadata stay as they are, and what
    a mask removes stays exactly zero. Images are raw pixels in [0, 1]. Objectives: standard (cross-entropy),
    adversarial (on attacked images: FGSM, PGD, GradAlign), ibp and crown-ibp (certified: on bounds of the worst case).
    The epoch that is best on held-out training images is written; test images are never looked at.
    """
    from secateur.formats import dataset, mask, onnx_model, streams
    from secateur.pipeline.train.loop import train
    from secateur.pipeline.train.presets import preset as find_preset
    from secateur.pipeline.train.start import rewound, starting_model
    from secateur.tools.progress import progress

    chosen = None if preset is None else find_preset(preset)
    if source is None and chosen is None:
        raise click.UsageError("Missing argument 'ARCH|MODEL' (or give --preset).")
    if initial is not None and mask_source is None:
        raise click.UsageError("--init needs --mask: which weights survive.")
    if adversarial is not None:
        if given["objective"] or given["epsilon"] is not None:
            raise click.UsageError(
                "--adversarial EPS stands for --objective and --epsilon: give one or the other."
            )
        given |= {"objective": "adversarial" if adversarial else "standard", "epsilon": adversarial}
    wanted = {name: value for name, value in given.items() if value is not None}
    settings = replace(Settings() if chosen is None else chosen.settings, **wanted)
    settings.check()
    for destination in [output, *([early[1]] if early else [])]:
        streams.check_destination(destination, binary=True)
    if records is not None:
        streams.check_destination(records)
    images = dataset.load(data, "train")
    if chosen is not None:
        mean, std = mean or chosen.mean, std or chosen.std
    model = starting_model(
        source or (chosen.architecture if chosen else ""), images, settings.seed, mean, std
    )
    keep = mask.read(mask_source) if mask_source else None
    if initial is not None:
        model = rewound(model, onnx_model.read(initial), keep)
    try:
        with progress(settings.epochs, "train") as step:
            result = train(
                model,
                images,
                settings,
                mask=keep,
                checkpoint=checkpoint,
                early=early[0] if early else None,
                progress=lambda epoch: step(_line(epoch), epoch.seconds),
            )
    except KeyboardInterrupt:
        if checkpoint is not None:
            say(f"stopped: the same command goes on from {checkpoint}")
        raise
    if records is not None:
        lines = [json.dumps(epoch.to_dict(), sort_keys=True) + "\n" for epoch in result.history]
        streams.write_bytes(records, "".join(lines).encode())
    if early and result.early is not None:
        onnx_model.write(result.early, early[1])
    onnx_model.write(result.model, output)
    if result.best_epoch:
        say(f"wrote {_line(result.history[result.best_epoch - 1])}")


def _line(epoch: Epoch) -> str:
    parts = [
        f"epoch {epoch.epoch} of {epoch.epochs}: loss {epoch.loss:.4f}",
        f"accuracy {epoch.accuracy:.2%}",
    ]
    if not math.isnan(epoch.validation):
        parts.append(f"held out {epoch.validation:.2%}")
    return ", ".join(parts)
