"""`secateur tickets`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secateur.tools import pruning
from secateur.tools.common import data_option, device_option, say

if TYPE_CHECKING:
    from secateur.pipeline.tickets.recipe import Recipe


def _list_methods(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from secateur.pipeline.tickets.methods import METHODS

        for name, method in METHODS.items():
            click.echo(f"{name:13} {method.summary}; {method.source}")
        ctx.exit()


def _numbers(kind: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    def parse(_: click.Context, __: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        words = re.split(r"[,\s]+", value.strip())
        try:
            return tuple(kind(word) for word in words)
        except ValueError:
            raise click.BadParameter(f"expected numbers with commas between them, found '{value}'") from None

    return parse


@click.command(
    epilog="""\b
Examples:
  secateur tickets --quick -o quick
  secateur tickets imp imp+nrs slimming --objective adversarial --epsilon 0.05 --seeds 0,1,2 -o digits
  secateur tickets imp --data mnist.npz --arch conv_small --objective crown-ibp --epsilon 0.1 --rounds 8 -o mnist
  secateur tickets --recipe study.toml --data mnist.npz -o study
  secateur tickets --list
  secateur mask stats digits/seed-0/imp/round-03/ticket.onnx --init digits/seed-0/initial.onnx"""
)
@click.argument("methods", metavar="[METHOD]...", nargs=-1)
@click.option(
    "--list",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_list_methods,
    help="List the methods.",
)
@click.option(
    "--recipe", metavar="R", help="A TOML file; what else is given on the command line stands above it."
)
@click.option(
    "--quick",
    is_flag=True,
    help="The recipe that comes with Secateur: digits, dense, imp, imp+nrs, slimming and random; under five minutes.",
)
@click.option("-o", "--output", metavar="DIR", required=True, help="The folder; made when missing.")
@data_option
@click.option(
    "--train-images", type=click.IntRange(min=1), metavar="N", help="Only the first N training images."
)
@click.option(
    "--arch",
    "network",
    metavar="ARCH|MODEL",
    default="digits_cnn",
    show_default=True,
    help="As secateur train.",
)
@click.option(
    "--objective",
    type=click.Choice(["standard", "adversarial", "ibp", "crown-ibp"]),
    default="adversarial",
    show_default=True,
    help="What training lowers, see secateur train.",
)
@click.option(
    "--epsilon",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.05,
    show_default=True,
    metavar="E",
    help="ℓ∞ radius on raw pixels: of training, of criteria, of what is proved.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), metavar="N", help="Epochs of each training  [default: 20]"
)
@click.option(
    "--seeds", default="0", show_default=True, callback=_numbers(int), metavar="N,…", help="One run of each."
)
@click.option("--rounds", type=click.IntRange(min=1), metavar="K", help="Rounds of pruning  [default: 5]")
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="S",
    help="Of what is left, so much goes in each round  [default: 0.2 of weights, 0.11 of channels]",
)
@click.option(
    "--sparsities",
    callback=_numbers(float),
    metavar="S,…",
    help="Instead, how much is gone after each round.",
)
@click.option(
    "--then",
    type=click.Choice(["rewind", "fine-tune"]),
    help="Survivors begin again with their initial weights, or go on with the trained ones  [default: rewind]",
)
@click.option("--one-shot", is_flag=True, help="Prune the dense network in one step, for each round.")
@click.option(
    "--images", type=click.IntRange(min=1), metavar="N", help="Test images to attack and to verify."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Of the verifier, an image.",
)
@device_option
@click.pass_context
def command(context: click.Context, /, quick: bool, output: str, device: str, **options: Any) -> None:
    """Train, prune, rewind, train again, and measure: each round of each METHOD, for several seeds.

    Models (ONNX), masks (safetensors) and a record (JSON) of each round lie in DIR/seed-N/METHOD/round-K, the whole
    recipe in DIR/recipe.toml, all records in DIR/records.jsonl, tables and figures in DIR/report.html. Stopped at any
    moment and called again, it goes on where it was; methods and seeds may be added, and measured otherwise.
    """
    from secateur.formats import streams
    from secateur.pipeline.study.report import report
    from secateur.pipeline.tickets import folder, loop
    from secateur.tools.progress import progress

    recipe = _recipe(context, quick, options)
    try:
        with progress(loop.steps(output, recipe), "tickets") as step:
            records = loop.run(output, recipe, device=device, progress=step)
    except KeyboardInterrupt:
        say(f"what is done stays in {output}; the same command goes on from there")
        raise
    page = Path(output) / folder.REPORT
    streams.write_bytes(str(page), report([], [], f"Tickets: {recipe.network}", records).encode())
    say(f"{len(records)} networks: {Path(output) / folder.RECORDS}, {page}")


def _recipe(context: click.Context, quick: bool, options: dict[str, Any]) -> Recipe:
    """What the recipe file says, and above it what the command line does; without a file, its defaults too."""
    from secateur.pipeline.tickets import recipe as recipes

    source = options.pop("recipe")
    if quick and source:
        raise click.UsageError("--quick is a recipe itself: leave out --recipe")
    if quick:
        values = recipes.quick()
    elif source:
        values = recipes.read(source)
    elif options["methods"]:
        values = {}
    else:
        raise click.UsageError("missing METHOD: --list shows them; or give --recipe or --quick")
    written = pruning.given(context, options)
    wanted = {name: options[name] for name in options if name in written or not (quick or source)}
    for table, names in _TABLES.items():
        own = {name: wanted.pop(name) for name in names if wanted.get(name) not in (None, False)}
        values[table] = {**values.get(table, {}), **own}
    values |= {name: value for name, value in wanted.items() if value not in (None, False)}
    return recipes.made(values, source)


_TABLES = {
    "training": ("objective", "epochs"),
    "pruning": ("rounds", "share", "sparsities", "then", "one_shot"),
    "evaluation": ("images", "timeout"),
}
"""Which options go to which table of a recipe."""
