"""One self-contained HTML page, or one CSV table, out of verdict and model records."""

from __future__ import annotations

import csv as csv_format
import io
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from statistics import median

import jinja2

from secateur.formats.measure import ModelRecord
from secateur.formats.verdict import Record
from secateur.pipeline.study.charts import charts
from secateur.pipeline.study.summary import latest, summarise

_TEMPLATE = "report.html.j2"
_ORDER = ("unsat", "sat", "unknown", "timeout", "invalid-witness", "error")
_COLUMNS = (
    *("model", "model_sha256", "property", "property_sha256", "verifier", "verdict", "seconds", "timeout"),
    *("domains", "bound", "seed", "witness", "message"),
)


def report(
    records: Sequence[Record], models: Sequence[ModelRecord] = (), title: str = "Verification report"
) -> str:
    """The page as HTML text: summary, a table and charts of the models, a table of the instances.

    It refers to nothing outside of itself. Of several records of one instance the last counts. The same records
    give the same text.
    """
    records = latest(records)
    summaries = summarise(records, models)
    counts = Counter(record.verdict for record in records)
    seconds = [record.seconds for record in records]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.1f} %"
    environment.filters["seconds"] = _seconds
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


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f} s" if value < 1 else f"{value:.1f} s" if value < 600 else f"{value / 60:.0f} min"
