"""One self-contained HTML page, or one CSV table, out of records; a study's tables and figures as files."""

from __future__ import annotations

import csv as csv_format
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import jinja2

from secateur.formats import streams
from secateur.formats.errors import InputError
from secateur.formats.measure import ModelRecord
from secateur.formats.verdict import Record
from secateur.pipeline.study.charts import STYLE, charts
from secateur.pipeline.study.figures import drawings, study_charts
from secateur.pipeline.study.gains import gains
from secateur.pipeline.study.matching import tickets
from secateur.pipeline.study.points import Point, fraction, points
from secateur.pipeline.study.summary import latest, summarise
from secateur.pipeline.study.tables import caption, csv_table, latex, tables, text

_TEMPLATE = "report.html.j2"
_METADATA = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
_ORDER = ("unsat", "sat", "unknown", "timeout", "invalid-witness", "error")
_COLUMNS = (
    *("model", "model_sha256", "property", "property_sha256", "verifier", "verdict", "seconds", "timeout"),
    *("domains", "bound", "seed", "witness", "message"),
)


def report(
    records: Sequence[Record],
    models: Sequence[ModelRecord] = (),
    title: str = "Verification report",
    measured: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page as HTML text: of measurements (`measured`) the certified tickets, tables and figures of the study; of
    verdict and model records a summary, a table and charts of the models, a table of the instances.

    It refers to nothing outside of itself. Of several records of one instance the last counts. The same records
    give the same text.
    """
    study = points(measured)
    page = {
        "tickets": tickets(study),
        "tables": tables(study),
        "gains": gains(study),
        "points": study,
        "measured_models": len({record.get("model_sha256") for record in measured}),
        "captions": [caption(table) for table in tables(study)],
        "charts": study_charts(study),
    }
    records = latest(records)
    summaries = summarise(records, models)
    counts = Counter(record.verdict for record in records)
    seconds = [record.seconds for record in records]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.1f} %"
    environment.filters["seconds"] = _seconds
    environment.filters["estimate"] = text
    environment.filters["gain"] = lambda one: "–" if one is None else f"{'+' * (one.value > 0)}{text(one)}"
    environment.filters["mean"] = lambda one, form="%.1f", scale=1: (
        "–" if one is None else form % (scale * one.value)
    )
    environment.filters["epsilon"] = fraction
    template = environment.from_string((files(__package__) / _TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        title=title,
        records=records,
        summaries=summaries,
        counts={name: counts[name] for name in _ORDER if counts[name]},
        total_seconds=sum(seconds),
        median_seconds=median(seconds) if seconds else 0.0,
        verifiers=sorted({record.verifier for record in records}),
        timeouts=[
            f"{limit:g}" for limit in sorted({one.timeout for one in records if one.timeout is not None})
        ],
        epsilons=sorted({one.epsilon for one in summaries if one.epsilon}),
        charts=charts(records, summaries),
        study=page,
        measured=any(one.parameters is not None for one in summaries),
        placed=any(one.sparsity is not None for one in summaries),
    )


def csv(records: Sequence[Record]) -> str:
    """A CSV table, a line an instance: the record's fields, `unstable` and `neurons` summed over the layers, then
    the labels that occur, as `label_NAME`."""
    records = latest(records)
    labels = sorted({name for record in records for name in record.labels})
    buffer = io.StringIO()
    writer = csv_format.writer(buffer, lineterminator="\n")
    writer.writerow([*_COLUMNS, "unstable", "neurons", *(f"label_{name}" for name in labels)])
    for record in records:
        totals = [
            sum(table.values()) if table is not None else "" for table in (record.unstable, record.neurons)
        ]
        fields = ["" if getattr(record, name) is None else getattr(record, name) for name in _COLUMNS]
        writer.writerow([*fields, *totals, *(record.labels.get(name, "") for name in labels)])
    return buffer.getvalue()


def write_figures(study: Sequence[Point], directory: str) -> list[str]:
    """Write each figure of a study as NAME.svg, NAME.pdf and NAME.png (200 dots an inch) to a folder, made when
    missing; their names.

    Raises:
        InputError: it cannot be made or written.
    """
    import matplotlib

    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror or error}", where=directory) from None
    names = []
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "secateur", "pdf.fonttype": 42}):
        for drawing in drawings(study):
            drawing.figure.draw_without_rendering()
            drawing.figure.set_layout_engine("none")  # found once, for all three
            for kind in _METADATA:
                buffer = io.BytesIO()
                drawing.figure.savefig(buffer, format=kind, dpi=200, metadata=_METADATA[kind])
                names.append(str(Path(directory, f"{drawing.name}.{kind}")))
                streams.write_bytes(names[-1], buffer.getvalue())
    return names


def write_table(study: Sequence[Point], destination: str) -> None:
    """Write a study's table: LaTeX where the name ends in .tex, else CSV."""
    made = latex(study) if destination.endswith(".tex") else csv_table(study)
    streams.write_bytes(destination, made.encode())


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f} s" if value < 1 else f"{value:.1f} s" if value < 600 else f"{value / 60:.0f} min"
