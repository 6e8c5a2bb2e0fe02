"""A study's summary, tables and figures, on records of known values."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from secateur.formats import measurements
from secateur.pipeline.study import figures, gains, tables
from secateur.pipeline.study.intervals import estimate
from secateur.pipeline.study.matching import tickets
from secateur.pipeline.study.points import Point, curves, fraction, points
from secateur.pipeline.study.report import report, write_figures

ACCURACY = {  # standard and certified accuracy of three seeds
    ("dense", 0, 0.0): [(0.90, 0.50), (0.92, 0.52), (0.94, 0.54)],
    ("IMP", 1, 0.5): [(0.93, 0.60), (0.91, 0.58), (0.95, 0.62)],
    ("IMP", 2, 0.75): [(0.80, 0.70), (0.82, 0.72), (0.81, 0.71)],
    ("Slim_1", 1, 0.3): [(0.88, 0.48), (0.88, 0.47), (0.88, 0.47)],
}


def study(seeds: int = 3) -> list[dict[str, Any]]:
    """A record a method, round and seed; the images' seconds are 4 on the dense net, 1 and 2 on pruned ones."""
    return [
        {
            "data": "d.npz",
            "network": "net",
            "objective": "certified",
            "epsilon": 2 / 255,
            "method": method,
            "round": number,
            "sparsity": sparsity,
            "seed": seed,
            "model_sha256": f"{method}{number}{seed}",
            "accuracy": accuracy,
            "accuracy_images": 1000,
            "images": 100,
            "right": accuracy,
            "certified_ibp": certified - 0.3,
            "certified_crown": certified - 0.1,
            "certified": certified,
            "refuted": 0.1,
            "crown_unstable_ratio": 0.4 - 0.1 * number + 0.01 * seed,
            "mean_seconds": 4.0 - number,
            "image_index": [0, 1, 2],
            "image_seconds": [4.0 / (1 + number), None, 4.0 - number],
        }
        for (method, number, sparsity), values in ACCURACY.items()
        for seed, (accuracy, certified) in enumerate(values[:seeds])
    ]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_interval_over_seeds_is_that_of_scipy(values: list[float]) -> None:
    found = estimate(values, images=50)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), max(stats.sem(values), 1e-300))
    assert (found.kind, found.count) == ("t", len(values))
    assert (found.lower, found.upper) == pytest.approx((low, high), abs=1e-9)
    assert (found.least, found.most) == (min(values), max(values))


@given(st.integers(1, 2000), st.floats(0, 1))
def test_interval_over_images_is_that_of_scipy(images: int, share: float) -> None:
    hits = round(share * images)
    found = estimate([hits / images], images)
    expected = stats.binomtest(hits, images).proportion_ci(0.95, "wilson")
    assert (found.kind, found.count) == ("wilson", images)
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_one_value_that_is_no_share_has_no_interval() -> None:
    found = estimate([3.5])
    assert (found.value, found.lower, found.upper, found.kind) == (3.5, 3.5, 3.5, "")


def test_seeds_are_gathered_to_points_and_the_last_of_a_seed_counts() -> None:
    records = study()
    again = {**records[3], "accuracy": 0.5}
    found = points([*records[3:], *records[:3], again])
    assert [(one.method, one.round, one.sparsity, len(one.records)) for one in found] == [
        ("dense", 0, 0.0, 3),
        ("IMP", 1, 0.5, 3),
        ("IMP", 2, 0.75, 3),
        ("Slim_1", 1, 0.3, 3),
    ]
    assert found[1].values("accuracy") == [0.5, 0.91, 0.95]
    one = found[0].estimate("accuracy")
    assert one is not None and one.value == pytest.approx(0.92)
    assert one.half == pytest.approx(4.302653 * 0.02 / 3**0.5, rel=1e-6)
    assert found[0].estimate("pgd_accuracy") is None
    assert {method: [p.sparsity for p in line] for method, line in curves(found).items()} == {
        "IMP": [0.0, 0.5, 0.75],
        "Slim_1": [0.0, 0.3],
    }


def test_points_without_rounds_are_told_apart_by_sparsity() -> None:
    bare = [{"sparsity": s, "seed": i, "accuracy": 0.5} for i, s in enumerate((0.0, 0.5, 0.50004, 0.9))]
    assert [(one.method, len(one.records)) for one in points(bare)] == [
        ("dense", 1),
        ("pruned", 2),
        ("pruned", 1),
    ]


def test_tickets_reach_the_dense_nets_interval_in_both_accuracies() -> None:
    """The dense interval: 92 ± 4.97 and 52 ± 4.97. IMP at 50 % reaches both, at 75 % not the accuracy; Slim_1 reaches
    the accuracy (88 > 87.03) and the certified accuracy (47.3 > 47.03)."""
    found = tickets(points(study()))
    assert [(one.point.method, one.point.round, one.by) for one in found] == [
        ("IMP", 1, "certified"),
        ("Slim_1", 1, "certified"),
    ]
    records = study()
    for record in records:
        if record["method"] == "Slim_1":
            record["certified"] = 0.469
    assert [one.point.method for one in tickets(points(records))] == ["IMP"]
    (one,) = tickets(points([record for record in study() if record["method"] in ("dense", "IMP")]))
    assert one.dense_certified.kind == "t" and one.dense_certified.count == 3


def test_tickets_of_one_seed_rest_on_its_images() -> None:
    """Wilson: 90 % of 1000 images reach from 87.98 %, 50 % of 100 from 40.4 %: Slim_1's 88 and 48 are within."""
    found = tickets(points(study(seeds=1)))
    assert [one.point.method for one in found] == ["IMP", "Slim_1"]
    assert found[0].dense_accuracy.kind == "wilson" and found[0].dense_accuracy.count == 1000
    assert found[0].dense_certified.count == 100
    assert found[1].dense_accuracy.lower == pytest.approx(0.87985, abs=1e-5)


def test_tickets_are_compared_by_what_both_were_measured_by() -> None:
    records = study()
    for record in records:
        if record["method"] == "IMP":
            del record["certified"]
    assert {(one.point.method, one.by) for one in tickets(points(records))} == {
        ("IMP", "certified_crown"),
        ("Slim_1", "certified"),
    }
    assert tickets(points([record for record in records if record["method"] != "dense"])) == []
    own = [{**record, "method": "IMP"} for record in records if record["method"] in ("dense", "IMP")]
    assert [one.dense.method for one in tickets(points(own))] == ["IMP"], "its own dense net serves"


def test_the_matrix_is_that_of_the_paper() -> None:
    (table,) = tables.tables(points(study()))
    assert table.sparsities == ("0", "30", "50", "75")
    rows = dict(table.rows)
    assert list(rows) == ["dense", "IMP", "Slim_1"]
    shown = [
        (tables.text(cell.accuracy), tables.text(cell.certified)) if cell else None for cell in rows["IMP"]
    ]
    assert shown == [None, None, ("93.0 ± 5.0", "60.0 ± 5.0"), ("81.0 ± 2.5", "71.0 ± 2.5")]
    assert [(cell.ticket, cell.best) for cell in rows["IMP"] if cell] == [(True, False), (False, True)]
    assert "3 seeds" in tables.caption(table) and "complete verification" in tables.caption(table)
    (alone,) = tables.tables(points(study(seeds=1)))
    assert "Wilson" in tables.caption(alone)
    (cell,) = [one for name, cells in alone.rows if name == "dense" for one in cells if one]
    assert tables.text(cell.certified) == "50.0 (40.4–59.6)"
    assert "$50.0^{+9.6}_{-9.6}$" in tables.latex(points(study(seeds=1)))


def test_sparsities_are_as_long_as_they_must_be() -> None:
    near = [{"method": "a", "sparsity": s, "accuracy": 0.5} for s in (0.5, 0.991, 0.993)]
    (table,) = tables.tables(points(near))
    assert table.sparsities == ("50.0", "99.1", "99.3")


def test_latex_holds_the_numbers_and_is_balanced() -> None:
    made = tables.latex(points(study()))
    assert r"$93.0_{\pm 5.0}$ / $60.0_{\pm 5.0}$$^{\star}$" in made
    assert r"$81.0_{\pm 2.5}$ / {\boldmath $71.0_{\pm 2.5}$} \\" in made
    assert r"Slim\_1 & " in made and r"$\varepsilon$~=~2/255" in made
    assert made.count("{") == made.count("}")
    assert made.count("$") % 2 == 0
    lines = [line for line in made.splitlines() if line.endswith(r"\\")]
    assert [line.count("&") for line in lines] == [4] * 4
    many = [{"method": "a", "sparsity": i / 10, "accuracy": 0.5} for i in range(1, 9)]
    heads = [line for line in tables.latex(points(many)).splitlines() if line.startswith("method")]
    assert [line.count("&") for line in heads] == [4, 4], "two blocks of one size"


def test_the_csv_table_holds_every_measure() -> None:
    rows = list(csv.DictReader(io.StringIO(tables.csv_table(points(study())))))
    assert [(row["method"], row["seeds"], row["ticket"]) for row in rows] == [
        ("dense", "3", "0"),
        ("IMP", "3", "1"),
        ("IMP", "3", "0"),
        ("Slim_1", "3", "1"),
    ]
    dense = {name: float(value) for name, value in rows[0].items() if name.startswith("certified") and value}
    assert dense["certified"] == pytest.approx(0.52)
    assert dense["certified"] - dense["certified_lower"] == pytest.approx(4.302653 * 0.02 / 3**0.5, rel=1e-6)
    assert dense["certified_crown"] == pytest.approx(0.42)
    assert float(rows[2]["mean_seconds"]) == 2.0 and float(rows[0]["epsilon"]) == 2 / 255
    assert "pgd_accuracy" not in rows[0]


def test_gains_are_paired_by_seed() -> None:
    """IMP at 50 %: certified +10, +6, +8 points; the seed that only one of them has does not count."""
    records = study()
    odd = [{**record, "seed": 7, "certified": 0.0} for record in records if record["method"] == "dense"][:1]
    found = {(one.point.method, one.point.round): one for one in gains.gains(points([*records, *odd]))}
    assert list(found) == [("IMP", 1), ("IMP", 2), ("Slim_1", 1)]
    one = found["IMP", 1].certified
    assert one is not None and one.value == pytest.approx(0.08) and one.kind == "t" and one.count == 3
    assert one.half == pytest.approx(4.302653 * 0.02 / 3**0.5, rel=1e-6)
    assert found["IMP", 1].sure and found["IMP", 1].by == "certified"
    assert not found["Slim_1", 1].sure
    assert found["IMP", 2].differences["accuracy"].value == pytest.approx(-0.11)
    rows = list(csv.DictReader(io.StringIO(tables.csv_table(points(records)))))
    assert float(rows[1]["certified_gain"]) == pytest.approx(0.08) and rows[0]["certified_gain"] == ""
    (alone,) = [one for one in gains.gains(points(study(seeds=1))) if one.point.round == 2]
    assert alone.certified is not None and alone.certified.kind == "" and not alone.sure


def test_gains_of_one_seed_are_paired_by_image() -> None:
    """Of ten images two become certified and one no longer is: +10 %, Student's interval of these ten changes."""
    proofs = ["ibp"] * 3 + ["undecided"] * 3 + ["wrong", "refuted", "crown", "complete"]
    other = [
        "refuted",
        "ibp",
        "crown",
        "complete",
        "alpha-crown",
        "undecided",
        "wrong",
        "refuted",
        "crown",
        "ibp",
    ]
    records = [
        {"method": method, "sparsity": sparsity, "seed": 0, "certified": share, "image_index": [*range(10)]}
        | {"image_proof": settled}
        for method, sparsity, share, settled in (("dense", 0.0, 0.5, proofs), ("imp", 0.5, 0.6, other))
    ]
    (found,) = gains.gains(points(records))
    changes = [-1, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert found.certified is not None and (found.certified.kind, found.certified.count) == ("paired", 10)
    expected = stats.t.interval(0.95, 9, 0.1, stats.sem(changes))
    assert (found.certified.lower, found.certified.upper) == pytest.approx(expected)
    assert tables.text(found.certified).startswith("10.0 ± ") and not found.sure
    records[1]["image_index"] = [*range(1, 11)]
    (found,) = gains.gains(points(records))
    assert found.certified is not None and found.certified.kind == ""


def lines_of(points: Sequence[Point], name: str) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """What each panel of a figure draws: title -> label -> points of the line."""
    (drawing,) = [one for one in figures.drawings(points) if one.name == name]
    axes = [axis for part in (drawing.figure, *drawing.figure.subfigs) for axis in part.axes]
    return {
        axis.get_title(): {
            str(line.get_label()): [(float(x), float(y)) for x, y in line.get_xydata()] for line in axis.lines
        }
        for axis in axes
    }


def test_figures_draw_the_means() -> None:
    found = points(study())
    accuracy = lines_of(found, "accuracy")
    assert set(accuracy) == {"standard", "certified"}
    assert np.allclose(accuracy["standard"]["IMP"], [(0, 92), (50, 93), (75, 81)])
    assert accuracy["certified"]["Slim_1"] == [(0, pytest.approx(52)), (30, pytest.approx(142 / 3))]
    assert accuracy["certified"]["dense"][0][1] == pytest.approx(52)
    unstable = lines_of(found, "unstable")["by CROWN"]
    assert unstable["IMP"] == [(0, pytest.approx(41)), (1, pytest.approx(31)), (2, pytest.approx(21))]
    (seconds,) = lines_of(found, "seconds").values()
    assert seconds["IMP"] == [(0, 4), (50, 3), (75, 2)]
    names = [one.name for one in figures.drawings(found)]
    assert names == ["accuracy", "unstable", "seconds", "scatter", "ladder-1"]
    dense = [{**record, "data": "other"} for record in study() if record["method"] == "dense"]
    assert figures.drawings(points(dense)) == []
    assert list(lines_of(points([*study(), *dense]), "seconds")) == [
        point.setting.title for point in found[:1]
    ]


def test_the_scatter_pairs_images_of_one_seed() -> None:
    """IMP is best at 75 %: its images 0 and 2 took 4/3 and 2 seconds, on the dense net 4 and 4."""
    (drawing,) = [one for one in figures.drawings(points(study())) if one.name == "scatter"]
    (axis,) = drawing.figure.axes
    dots = {str(part.get_label()): np.asarray(part.get_offsets()).tolist() for part in axis.collections}
    assert np.allclose(dots["IMP at 75 %"], [[4.0, 4 / 3], [4.0, 2.0]] * 3)
    assert np.allclose(dots["Slim_1 at 30 %"], [[4.0, 2.0], [4.0, 3.0]] * 3)
    assert "IMP at 75 %: 6 of 6 images faster than dense" in drawing.alternative


def test_the_page_names_tickets_and_holds_tables_and_pictures() -> None:
    page = report([], [], "Study", study())
    assert "12 models measured, 1 setting; 2 certified tickets." in page
    assert "93.0 ± 5.0 / <span>60.0 ± 5.0</span> ★" in page
    assert "Student, 3 seeds" in page
    assert (
        '<td class="number strong">+8.0 ± 5.0</td>' in page and '<td class="number">-11.0 ± 4.3</td>' in page
    )
    assert (
        '<td class="number">31.0 %</td><td class="number">41.0 %</td><td class="number">3.00 s</td>' in page
    )
    assert page.count("<svg") == 5 and "No verdict records" not in page
    assert "Slim_1 at sparsity 30%: standard 88 %, certified 47.3 %" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_figures_are_written_for_print_and_screen(tmp_path: Path) -> None:
    records = [
        {name: record[name] for name in ("method", "round", "sparsity", "mean_seconds")}
        for record in study(seeds=1)
    ]
    names = write_figures(points(records), str(tmp_path / "figures"))
    found = sorted((tmp_path / "figures").iterdir())
    assert [path.name for path in found] == ["seconds.pdf", "seconds.png", "seconds.svg"]
    assert sorted(names) == [str(path) for path in found]
    first = [path.read_bytes() for path in found]
    assert [data[:4] for data in first[:2]] == [b"%PDF", b"\x89PNG"]
    write_figures(points(records), str(tmp_path / "figures"))
    assert [path.read_bytes() for path in found] == first


def test_radii_are_written_as_people_write_them() -> None:
    assert [fraction(value) for value in (2 / 255, 1 / 16, 0.1, 0.03, 1.0)] == [
        "2/255",
        "1/16",
        "0.1",
        "0.03",
        "1",
    ]


def test_every_measure_of_the_table_is_a_column() -> None:
    assert set(tables.MEASURES) <= set(measurements.COLUMNS)
