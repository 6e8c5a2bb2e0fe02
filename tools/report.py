"""`secateur report`."""

from __future__ import annotations

import click

from secateur.tools.common import STREAM_HELP, say


@click.command(
    epilog="""\b
Examples:
  secateur report results.jsonl -o report.html
  secateur report dense.jsonl pruned.jsonl models.jsonl --title "Digits, ε = 0.05" -o report.html --csv all.csv
  secateur report records.parquet -o study.html --table study.tex --table study.csv --figures figures
  secateur report - --csv - < results.jsonl"""
)
@click.argument("sources", metavar="RECORDS...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="OUT.html", help=f"Where to write the page: {STREAM_HELP}.")
@click.option("--csv", "table", metavar="OUT.csv", help="Write a table too, a line an instance.")
@click.option(
    "--table",
    "study_tables",
    multiple=True,
    metavar="OUT.tex|OUT.csv",
    help="Write the study's table: methods by sparsities as LaTeX, or all measures as CSV; repeatable.",
)
@click.option(
    "--figures", metavar="DIR", help="Write the study's figures as SVG, PDF and PNG; made when missing."
)
@click.option("--title", default="Verification report", show_default=True, help="The page's heading.")
def command(
    sources: tuple[str, ...],
    output: str | None,
    table: str | None,
    study_tables: tuple[str, ...],
    figures: str | None,
    title: str,
) -> None:
    """Turn records into one self-contained HTML page (pictures inside), tables and figures.

    RECORDS are JSON lines or Parquet: measurements (written by `measure` and `tickets`), verdict records (by `run`),
    model records (accuracy and sizes, by `demo`). Measurements are gathered over seeds and drawn against sparsity, with
    95 % intervals, and certified tickets are named: pruned networks that match the dense one in standard and in
    certified accuracy. Verdicts and models are joined by the model's hash.
    """
    from secateur.formats import streams
    from secateur.formats.errors import InputError
    from secateur.pipeline.study.points import points
    from secateur.pipeline.study.report import csv, report, write_figures, write_table
    from secateur.pipeline.study.summary import load

    destinations = [one for one in (output, table, *study_tables) if one is not None]
    if not destinations and figures is None:
        raise click.UsageError(
            "say where to write: -o OUT.html, --csv OUT.csv, --table OUT.tex or --figures DIR"
        )
    records, models, measured = load(sources)
    for destination in destinations:
        streams.check_destination(destination)
    study = points(measured)
    if not study and (study_tables or figures is not None):
        raise InputError("no measurements to make a table or figures of", hint="see `secateur measure`")
    if output is not None:
        streams.write_bytes(output, report(records, models, title, measured).encode())
    if table is not None:
        streams.write_bytes(table, csv(records).encode())
    for destination in study_tables:
        write_table(study, destination)
    if figures is not None:
        write_figures(study, figures)
    counts = [(len(records), "verdicts"), (len(models), "models"), (len(measured), "measurements")]
    said = " and ".join(f"{count} {what}" for count, what in counts if count)
    say(f"{said or 'nothing'}: {', '.join([*destinations, *filter(None, [figures])])}")
