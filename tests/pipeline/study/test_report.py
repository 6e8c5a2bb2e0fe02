"""Reports: the page and the table say what the records say."""

from __future__ import annotations

import csv as csv_format
import dataclasses
import io
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from secateur.formats import measure, verdict
from secateur.formats.errors import InputError
from secateur.formats.measure import ModelRecord
from secateur.formats.verdict import Record
from secateur.pipeline.study.report import csv, report
from secateur.pipeline.study.summary import load, summarise


def record(model: str, prop: str, verdict: str, seconds: float = 1.0, **more: object) -> Record:
    base = Record(model, f"sha-{model}", prop, f"sha-{prop}", "crown", verdict, seconds)
    return dataclasses.replace(base, **more)  # type: ignore[arg-type]


RECORDS = [
    record(
        "dense.onnx",
        "p0",
        "unsat",
        1.0,
        unstable={"relu1": 10, "relu2": 2},
        neurons={"relu1": 40, "relu2": 8},
    ),
    record(
        "dense.onnx", "p1", "sat", 3.0, unstable={"relu1": 20, "relu2": 4}, neurons={"relu1": 40, "relu2": 8}
    ),
    record("dense.onnx", "p2", "timeout", 20.0, timeout=20.0),
    record(
        "half.onnx", "p0", "unsat", 0.5, domains=1234, bound=0.25, unstable={"relu1": 1}, neurons={"relu1": 9}
    ),
    record("half.onnx", "p1", "unsat", 0.25, message="<b>careful</b> & co"),
]
MODELS = [
    ModelRecord(
        name,
        f"sha-{name}.onnx",
        1000,
        zeros,
        {"accuracy": accuracy, "property_images": 4, "attacked": attacked},
        {"method": method, "sparsity": sparsity},
    )
    for name, zeros, accuracy, attacked, method, sparsity in [
        ("half", 500, 0.95, 0.25, "magnitude", 0.5),
        ("dense", 0, 0.975, 0.75, "dense", 0.0),
    ]
]


class Page(HTMLParser):
    """Cells of all table rows, and every reference to something outside of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.references: list[str] = []
        self.labels: list[str] = []
        self.ids: list[str] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value and not value.startswith("#"):
                self.references.append(value)
            if name == "aria-label":
                self.labels.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


def test_summaries_count_proofs_among_all_images_asked_for() -> None:
    dense, half = summarise(RECORDS, MODELS)
    assert (dense.model, half.model) == ("dense", "half")
    assert dense.certified == 1 / 4 and half.certified == 2 / 4
    assert dense.attacked == 0.5, "the verifier's counterexample counts, though the attack found none"
    assert half.attacked == 0.25 and dense.accuracy == 0.975
    assert dense.unstable == {"relu1": 15, "relu2": 3} and dense.unstable_total == 18
    assert dense.mean_seconds == 8.0 and dense.median_seconds == 3.0
    assert dense.verdicts == {"sat": 1, "unsat": 1, "timeout": 1}


def test_summaries_without_model_records_count_among_the_instances() -> None:
    dense, half = summarise(RECORDS, [])
    assert dense.model == "dense.onnx"
    assert dense.certified == 1 / 3 and dense.attacked == 2 / 3
    assert half.certified == 1.0 and half.parameters is None


def test_the_last_record_of_an_instance_counts() -> None:
    again = record("dense.onnx", "p2", "unsat", 5.0)
    dense, _ = summarise([*RECORDS, again], [])
    assert dense.certified == 2 / 3
    assert len(csv([*RECORDS, again]).splitlines()) == 1 + len(RECORDS)


def test_models_of_several_radii_and_verifiers_are_told_apart() -> None:
    varied = [
        record("m", "p", "unsat", labels={"epsilon": 0.1}),
        record("m", "q", "sat", labels={"epsilon": 0.2}),
        record("m", "p", "timeout", verifier="milp", labels={"epsilon": 0.1}),
    ]
    found = [(one.epsilon, one.verifier, one.certified) for one in summarise(varied, [])]
    assert found == [("0.1", "crown", 1.0), ("0.2", "crown", 0.0), ("0.1", "milp", 0.0)]


def test_the_page_says_what_the_records_say() -> None:
    text = report(RECORDS, MODELS, "A <title>")
    page = Page(text)
    assert not page.references and "http://" not in text.replace("http://www.w3.org", "")
    assert "A &lt;title&gt;" in text and "<b>careful" not in text
    models = {row[0]: row for row in page.rows if row[0] in ("dense", "half")}
    assert models["dense"][1:8] == ["dense", "0.0 %", "1,000", "1,000", "97.5 %", "50.0 %", "25.0 %"]
    assert models["half"][1:8] == ["magnitude", "50.0 %", "1,000", "500", "95.0 %", "25.0 %", "50.0 %"]
    assert models["dense"][8] == "18.0 / 48"
    instances = [row for row in page.rows if row[0].endswith(".onnx")]
    assert [(row[1], row[2]) for row in instances] == [(one.property, one.verdict) for one in RECORDS]
    assert instances[3][4:6] == ["1,234", "0.25"]
    assert len(page.ids) == len(set(page.ids))
    assert [label.split(".")[0] for label in page.labels] == [
        "Line chart of accuracy against sparsity",
        "Stacked bars of unstable neurons against sparsity",
        "Line chart of seconds an instance against sparsity",
        "4 of 5 instances were decided, the slowest after 3",
    ]
    assert "dense at sparsity 0%: standard 98%, attacked 50%, certified 25%" in page.labels[0]


def test_pictures_are_well_formed_and_draw_the_numbers() -> None:
    text = report(RECORDS, MODELS)
    pictures = [part.split("</svg>")[0] + "</svg>" for part in text.split("<figure>")[1:]]
    assert len(pictures) == 4
    for picture in pictures:
        ElementTree.fromstring(picture.strip())
    assert "relu1" in pictures[1] and "relu2" in pictures[1]


def test_the_same_records_give_the_same_page() -> None:
    assert report(RECORDS, MODELS) == report(RECORDS, MODELS)


def test_plain_results_give_a_page_without_charts_against_sparsity() -> None:
    page = Page(report(RECORDS))
    assert len(page.labels) == 1
    assert [row[0] for row in page.rows].count("Model") == 2


def test_nothing_and_undecided_records_give_a_page() -> None:
    assert "No verdict records" in report([])
    assert "No verdict records" in report([], MODELS)
    assert "0 of 1 instances were decided" in report([record("m", "p", "timeout")])


def test_the_table_holds_every_record() -> None:
    labelled = [*RECORDS, record("x", "p", "unsat", labels={"index": 7, "set": 'a,"b"'})]
    rows = list(csv_format.DictReader(io.StringIO(csv(labelled))))
    assert len(rows) == 6
    for row, one in zip(rows, labelled, strict=True):
        assert row["model_sha256"] == one.model_sha256 and row["verdict"] == one.verdict
        assert float(row["seconds"]) == one.seconds
    assert rows[0]["unstable"] == "12" and rows[0]["neurons"] == "48"
    assert rows[2]["unstable"] == "" and rows[2]["bound"] == ""
    assert rows[5]["label_index"] == "7" and rows[5]["label_set"] == 'a,"b"'


def test_files_of_both_kinds_are_read_together(tmp_path: Path) -> None:
    verdicts, models, both = (str(tmp_path / name) for name in ("v.jsonl", "m.jsonl", "b.jsonl"))
    for one in RECORDS:
        verdict.append(verdicts, one)
    measure.write(MODELS, models)
    assert load([verdicts, models]) == (RECORDS, MODELS, [])
    Path(both).write_bytes(Path(models).read_bytes() + Path(verdicts).read_bytes()[:-20])
    assert load([both]) == (RECORDS[:-1], MODELS, [])
    Path(both).write_text("[]\n" + Path(models).read_text())
    with pytest.raises(InputError, match=r"b\.jsonl:1"):
        load([both])
