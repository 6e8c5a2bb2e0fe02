"""Records read; verdict records and model records, joined to one line a model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any, NamedTuple

from secateur.formats import measure, measurements, streams, verdict
from secateur.formats.measure import ModelRecord
from secateur.formats.verdict import VERDICTS, Record

DENSE = "dense"
"""The label `method` of the model that the others were pruned from."""


@dataclass(frozen=True)
class Summary:
    """What is known of one model at one ε with one verifier. Shares in [0, 1], times in seconds; None: not known.

    `certified` is the share of images with a proof (`unsat`): of all images that a property was asked for, where
    the model record says how many, else of the instances. `attacked` likewise for images without a known
    counterexample, be it from the attack or from the verifier. `unstable` and `neurons`
    are means a layer over the instances that report them.
    """

    model: str
    model_sha256: str
    verifier: str
    labels: Mapping[str, str | float | int]
    verdicts: Mapping[str, int]
    parameters: int | None
    zeros: int | None
    accuracy: float | None
    attacked: float | None
    certified: float | None
    unstable: Mapping[str, float]
    neurons: Mapping[str, float]
    mean_seconds: float | None
    median_seconds: float | None

    @property
    def instances(self) -> int:
        return sum(self.verdicts.values())

    @property
    def method(self) -> str:
        return str(self.labels.get("method", self.labels.get("criterion", "")))

    @property
    def sparsity(self) -> float | None:
        value = self.labels.get("sparsity")
        return None if value is None or isinstance(value, str) else float(value)

    @property
    def epsilon(self) -> str:
        value = self.labels.get("epsilon", "")
        return value if isinstance(value, str) else f"{value:g}"

    @property
    def unstable_total(self) -> float | None:
        return sum(self.unstable.values()) if self.neurons else None


class Loaded(NamedTuple):
    """Records of every kind: of instances, of models, of measurements."""

    verdicts: list[Record]
    models: list[ModelRecord]
    measurements: list[dict[str, Any]]


def load(sources: Iterable[str]) -> Loaded:
    """All records of files (paths or `-`): JSON lines of any kinds, or Parquet.

    Raises:
        InputError, UnsupportedError: a missing file or a malformed line, see `formats.verdict`, `formats.measure` and
            `formats.measurements`.
    """
    found = Loaded([], [], [])
    for source in sources:
        name, data = streams.display_name(source), streams.read_bytes(source)
        if measurements.is_parquet(data):
            found.measurements.extend(measurements.from_parquet(data, name))
            continue
        lines = data.decode("utf-8", errors="replace").split("\n")
        for number, line in enumerate(lines):
            kind, where = _kind(line), f"{name}:{number + 1}"
            if kind == measure.KIND:
                found.models.append(measure.from_json(line, where))
            elif kind == measurements.KIND:
                found.measurements.append(measurements.from_json(line, where))
            else:
                continue
            lines[number] = ""
        found.verdicts.extend(verdict.from_lines(lines, name))
    return found


def latest(records: Iterable[Record]) -> list[Record]:
    """One record an instance and verifier: the last one, in the place of the first."""
    found = {
        (record.model_sha256, record.property_sha256, record.verifier, record.property): record
        for record in records
    }
    return list(found.values())


def summarise(records: Sequence[Record], models: Sequence[ModelRecord]) -> list[Summary]:
    """One summary a model, ε and verifier, dense first, then by method and sparsity, then in order of appearance."""
    by_hash = {model.model_sha256: model for model in models}
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in latest(records):
        key = record.model_sha256, str(record.labels.get("epsilon", "")), record.verifier
        groups.setdefault(key, []).append(record)
    summaries = [_summary(group, by_hash.get(key[0])) for key, group in groups.items()]
    seen = {key[0] for key in groups}
    summaries += [_summary([], model) for model in models if model.model_sha256 not in seen]
    methods = list(dict.fromkeys(summary.method for summary in summaries))
    return sorted(
        summaries,
        key=lambda one: (one.method != DENSE, methods.index(one.method), one.sparsity or 0.0),
    )


def _summary(records: Sequence[Record], model: ModelRecord | None) -> Summary:
    metrics = model.metrics if model else {}
    verdicts = Counter(record.verdict for record in records)
    asked = metrics.get("property_images", len(records))
    withstood = [metrics["attacked"]] if "attacked" in metrics else []
    if records:
        withstood.append((len(records) - verdicts["sat"]) / asked)
    first = records[0] if records else None
    return Summary(
        model=model.model if model else records[0].model,
        model_sha256=model.model_sha256 if model else records[0].model_sha256,
        verifier=first.verifier if first else "",
        labels={**(first.labels if first else {}), **(model.labels if model else {})},
        verdicts={name: verdicts[name] for name in VERDICTS if verdicts[name]},
        parameters=model.parameters if model else None,
        zeros=model.zeros if model else None,
        accuracy=metrics.get("accuracy"),
        attacked=min(withstood, default=None),
        certified=verdicts["unsat"] / asked if records else None,
        unstable=_means([record.unstable for record in records if record.unstable is not None]),
        neurons=_means([record.neurons for record in records if record.neurons is not None]),
        mean_seconds=mean(record.seconds for record in records) if records else None,
        median_seconds=median(record.seconds for record in records) if records else None,
    )


def _means(tables: Sequence[Mapping[str, int]]) -> dict[str, float]:
    names = list(dict.fromkeys(name for table in tables for name in table))
    return {name: mean(table[name] for table in tables if name in table) for name in names}


def _kind(line: str) -> object:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values.get("kind") if isinstance(values, dict) else None
