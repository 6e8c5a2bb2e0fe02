"""`secateur report`."""

from __future__ import annotations

import click

from secateur.tools.common import STREAM_HELP, say


@click.command(
    epilog="""\b
Examples:
  secateur report results.jsonl -o report.html
  secateur report dense.jsonl pruned.jsonl models.jsonl --title "Digits, ε = 0.05" -o report.html --csv all.csv
  secateur report - --csv - < results.jsonl"""
)
@click.argument("sources", metavar="R.jsonl...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="OUT.html", help=f"Where to write the page: {STREAM_HELP}.")
@click.option("--csv", "table", metavar="OUT.csv", help="Write a table too, a line an instance.")
@click.option("--title", default="Verification report", show_default=True, help="The page's heading.")
def command(sources: tuple[str, ...], output: str | None, table: str | None, title: str) -> None:
    """Turn records into one self-contained HTML page (pictures inside), a CSV table, or both.

    R.jsonl holds verdict records (written by `run`), model records (accuracy and sizes, written by `demo`), or
    both; they are joined by the model's hash. Records whose labels give a sparsity are also drawn against it.
    """
    from secateur.formats import streams
    from secateur.pipeline.study.report import csv, report
    from secateur.pipeline.study.summary import load

    if output is None and table is None:
        raise click.UsageError("say where to write: -o OUT.html, --csv OUT.csv or both")
    records, models = load(sources)
    for destination in (output, table):
        if destination is not None:
            streams.check_destination(destination)
    if output is not None:
        streams.write_bytes(output, report(records, models, title).encode())
    if table is not None:
        streams.write_bytes(table, csv(records).encode())
    say(f"{len(records)} verdicts and {len(models)} models: {output or table}")
