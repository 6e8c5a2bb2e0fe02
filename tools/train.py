"""`secateur train`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from secateur.tools.common import data_option, device_option, output_option, say, seed_option

if TYPE_CHECKING:
    from secateur.pipeline.train.loop import Epoch


def _list_architectures(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from secateur.pipeline.train.architectures import ARCHITECTURES

        for architecture in ARCHITECTURES.values():
            click.echo(f"{architecture.name:18} {architecture.summary}")
        ctx.exit()


@click.command(
    epilog="""\b
Examples:
  secateur train digits_cnn -o dense.onnx
  secateur train digits_cnn --adversarial 0.05 --epochs 30 --seed 1 -o robust.onnx
  secateur prune magnitude dense.onnx -s 0.8 --mask-out m.safetensors -o pruned.onnx
  secateur train pruned.onnx --mask m.safetensors --epochs 10 -o retrained.onnx
  secateur train cifar_model_deep --data cifar10.npz --adversarial 0.0078 --device cuda -o deep.onnx"""
)
@click.argument("source", metavar="ARCH|MODEL")
@click.option(
    "--list",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_list_architectures,
    help="List the architectures.",
)
@data_option
@click.option("--mask", "mask_source", metavar="MASK", help="Hold the removed weights of this mask at zero.")
@click.option(
    "--epochs", type=click.IntRange(min=0), default=20, show_default=True, help="0 writes the start."
)
@click.option(
    "--batch-size", type=click.IntRange(min=2), default=64, show_default=True, help="Images a step."
)
@click.option("--optimizer", type=click.Choice(["adam", "sgd"]), default="adam", show_default=True)
@click.option(
    "--lr",
    "learning_rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Initial learning rate  [default: 3e-3 for adam, 1e-2 for sgd]",
)
@click.option(
    "--schedule",
    type=click.Choice(["constant", "step", "cosine"]),
    default="cosine",
    show_default=True,
    help="How the learning rate falls: step = ×0.1 after 70 % and 85 % of the epochs.",
)
@click.option("--weight-decay", type=click.FloatRange(min=0), default=0.0, show_default=True)
@click.option(
    "--adversarial",
    metavar="EPS",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Train on attacked images: ℓ∞ radius on raw pixels in [0, 1]  [default: 0, off]",
)
@click.option(
    "--attack-steps",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Gradient steps of that attack: 1 is FGSM, more are PGD.",
)
@click.option(
    "--validation",
    metavar="SHARE",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the training images held out to choose the best epoch.",
)
@seed_option
@device_option
@output_option
def command(source: str, data: str, mask_source: str | None, output: str, **settings: Any) -> None:
    """Train a named architecture, or an ONNX model in place.

    Weights go back into the initializers that they came from: graph, names and metadata stay as they are, and what
    a mask removes stays exactly zero. Images are raw pixels in [0, 1], the loss is cross-entropy. The epoch that is
    best on held-out training images is written; test images are never looked at.
    """
    from secateur.formats import dataset, mask, onnx_model, streams
    from secateur.pipeline.train.loop import Settings, train
    from secateur.pipeline.train.start import starting_model
    from secateur.tools.progress import progress

    streams.check_destination(output, binary=True)
    images = dataset.load(data, "train")
    model = starting_model(source, images, settings["seed"])
    keep = mask.read(mask_source) if mask_source else None
    with progress(settings["epochs"], "train") as step:
        result = train(
            model, images, Settings(**settings), mask=keep, progress=lambda epoch: step(_line(epoch))
        )
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
