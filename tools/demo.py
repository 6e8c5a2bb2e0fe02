"""`secateur demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from secateur.tools.common import say, seed_option

if TYPE_CHECKING:
    from secateur.pipeline.study.summary import Summary


@click.command(
    epilog="""\b
Examples:
  secateur demo
  secateur demo -o digits --seed 1
  secateur run demo/instances.csv --results demo/longer.jsonl
  secateur report demo/longer.jsonl demo/models.jsonl -o demo/longer.html"""
)
@click.option(
    "-o", "--output", metavar="DIR", default="demo", show_default=True, help="The folder; made when missing."
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Test images to attack and to verify.",
)
@seed_option
def command(output: str, images: int, seed: int) -> None:
    """How far can a network be pruned, and what can be proved of it? The whole job, on scikit-learn's digits.

    Trains a small convolutional network, prunes its weights and its channels by magnitude, retrains the survivors,
    removes dead channels, writes robustness properties of test images, attacks and verifies every model, and writes
    DIR/report.html. All files in DIR are standard ones. Stopped and called again, it goes on where it was.
    """
    from secateur.pipeline.study import demo
    from secateur.tools.progress import progress

    settings = demo.Settings(images=images, seed=seed)
    say(f"the demo writes to {output} and takes one to three minutes")
    try:
        with progress(demo.steps(settings), "demo") as step:
            outcome = demo.run(output, settings, progress=step)
    except KeyboardInterrupt:
        say(f"what is done stays in {output}; the same command goes on from there")
        raise
    _table(outcome.summaries, settings.epsilon)
    say(f"report: {outcome.report}")


def _table(summaries: tuple[Summary, ...], epsilon: float) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"Digits, ε = {epsilon:g} (attacked and certified: share of the images asked for)"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("model", no_wrap=True)
    for column in (
        "pruned",
        "params",
        "nonzero",
        "accuracy",
        "attacked",
        "certified",
        "unstable",
        "seconds",
    ):
        table.add_column(column, justify="right")
    for one in summaries:
        table.add_row(
            one.model,
            "–" if one.sparsity is None else f"{one.sparsity:.0%}",
            f"{one.parameters or 0:,}",
            f"{(one.parameters or 0) - (one.zeros or 0):,}",
            _share(one.accuracy),
            _share(one.attacked),
            _share(one.certified),
            "–" if one.unstable_total is None else f"{one.unstable_total:.1f}",
            "–" if one.mean_seconds is None else f"{one.mean_seconds:.2f}",
        )
    Console(stderr=True).print(table)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
