"""A study's numbers as tables: methods × sparsities as in the paper (for HTML and LaTeX), and every measure as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from secateur.pipeline.study.gains import COMPARED, gains
from secateur.pipeline.study.intervals import Estimate
from secateur.pipeline.study.matching import tickets
from secateur.pipeline.study.points import CERTIFIED, Point, Setting, by_setting

MEASURES = (
    *("accuracy", "fgsm_accuracy", "pgd_accuracy", *reversed(CERTIFIED), "refuted", "undecided"),
    *("mean_seconds", "median_seconds", "domains", "peak_bytes"),
    *("ibp_unstable_ratio", "crown_unstable_ratio", "ibp_instability", "crown_instability"),
    *("ibp_width", "crown_width", "ibp_logit_width", "crown_logit_width"),
    *("class_accuracy_min", "class_accuracy_max", "class_accuracy_std"),
    *("class_certified_min", "class_certified_max", "class_certified_std"),
    *("calibration_error", "transfer_accuracy", "transfer_success"),
    *("nonzero_parameters", "nonzero_flops", "flops", "milliseconds"),
)
"""The columns of `formats.measurements` that the CSV table has, where a record does."""

_LATEX = {letter: f"\\{letter}" for letter in "%&#_${}"} | {
    "\\": r"\textbackslash{}",
    "ε": r"$\varepsilon$",
    "α": r"$\alpha$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "\u00a0": "~",
}
_BLOCK = 6  # so many sparsities beside each other a page is wide enough for


@dataclass(frozen=True)
class Cell:
    """A method at one sparsity; the certified accuracy by what the table says."""

    accuracy: Estimate | None
    certified: Estimate | None
    ticket: bool
    best: bool


@dataclass(frozen=True)
class Table:
    """Methods × sparsities of one setting. `sparsities`: percent, as text; `rows`: a method and its cells, in their
    order, None where it was not measured; `by`: the column of certified accuracy; `best` is a method's cell with the
    highest one. `seeds`: the most that a cell has."""

    setting: Setting
    by: str
    sparsities: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    seeds: int


def tables(points: Sequence[Point]) -> list[Table]:
    """One a setting."""
    marked = {id(one.point) for one in tickets(points)}
    return [_table(setting, own, marked) for setting, own in by_setting(points).items()]


def _table(setting: Setting, points: Sequence[Point], marked: set[int]) -> Table:
    by = next((name for name in CERTIFIED if any(point.values(name) for point in points)), CERTIFIED[0])
    places = _places(points)
    names = sorted(set(places.values()), key=float)
    rows = []
    for method in dict.fromkeys(point.method for point in points):
        own = {places[id(point)]: point for point in points if point.method == method}
        shares = {name: estimate.value for name, point in own.items() if (estimate := point.estimate(by))}
        best = max(shares, key=lambda name: shares[name]) if len(shares) > 1 else ""
        cells = [
            Cell(point.estimate("accuracy"), point.estimate(by), id(point) in marked, name == best)
            if (point := own.get(name))
            else None
            for name in names
        ]
        rows.append((method, tuple(cells)))
    return Table(setting, by, tuple(names), tuple(rows), max(len(point.records) for point in points))


def _places(points: Sequence[Point]) -> dict[int, str]:
    """The sparsity of each point (by its id) in percent, rounded as far as a method's points stay apart."""
    for digits in range(4):
        found = {id(point): f"{100 * point.sparsity:.{digits}f}" for point in points}
        if len({(point.method, found[id(point)]) for point in points}) == len(points):
            break
    return found


def caption(table: Table) -> str:
    """What the table's numbers are, in a sentence or two."""
    certified = {
        "certified": "certified by complete verification",
        "certified_alpha_crown": "certified by α-CROWN",
        "certified_crown": "certified by CROWN",
        "certified_ibp": "certified by IBP",
    }[table.by]
    spread = (
        f"mean ± half of Student's 95 % interval over up to {table.seeds} seeds"
        if table.seeds > 1
        else "one seed: Wilson's 95 % interval over the images"
    )
    return f"Standard / {certified} accuracy in % by sparsity in %; {spread}."


def text(estimate: Estimate | None) -> str:
    """In percent `62.1 ± 0.8`, of seeds; `62.1 (58.0–66.0)`, of one seed's images."""
    if estimate is None:
        return "–"
    ends = {
        **dict.fromkeys(("t", "paired"), f" ± {100 * estimate.half:.1f}"),
        "wilson": f" ({100 * estimate.lower:.1f}–{100 * estimate.upper:.1f})",
    }
    return f"{100 * estimate.value:.1f}{ends.get(estimate.kind, '')}"


def latex(points: Sequence[Point]) -> str:
    """Tables of package booktabs, one a setting and block of sparsities; bold: a method's highest certified accuracy;
    a star: a certified ticket."""
    parts = [r"% \usepackage{booktabs}"]
    for table in tables(points):
        count = len(table.sparsities)
        size = -(-count // -(-count // _BLOCK))  # blocks of about the same size
        blocks = [range(first, min(first + size, count)) for first in range(0, count, size)]
        head = r"\begin{table}" + "\n" + r"\centering\small"
        parts.append(f"{head}\n\\caption{{{_escaped(table.setting.title)}. {_escaped(caption(table))}}}")
        for block in blocks:
            lines = [
                r"\begin{tabular}{l" + "c" * len(block) + "}",
                r"\toprule",
                " & ".join(["method", *(rf"{table.sparsities[i]}\,\%" for i in block)]) + r" \\",
                r"\midrule",
            ]
            for method, cells in table.rows:
                if any(cells[i] for i in block):
                    lines.append(" & ".join([_escaped(method), *(_latex(cells[i]) for i in block)]) + r" \\")
            parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
        parts.append(r"\end{table}")
    return "\n".join(parts) + "\n"


def _latex(cell: Cell | None) -> str:
    if cell is None:
        return ""
    standard, certified = _mean(cell.accuracy), _mean(cell.certified)
    if cell.best:
        certified = rf"{{\boldmath {certified}}}"
    return f"{standard} / {certified}" + (r"$^{\star}$" if cell.ticket else "")


def _mean(estimate: Estimate | None) -> str:
    if estimate is None:
        return "--"
    value, up, down = (
        100 * part
        for part in (estimate.value, estimate.upper - estimate.value, estimate.value - estimate.lower)
    )
    ends = {"t": rf"_{{\pm {up:.1f}}}", "wilson": f"^{{+{up:.1f}}}_{{-{down:.1f}}}"}
    return f"${value:.1f}{ends.get(estimate.kind, '')}$"


def _escaped(words: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in words)


def csv_table(points: Sequence[Point]) -> str:
    """A line a point: its place, seeds, whether it is a certified ticket, then for each measure its mean and the ends
    of its 95 % interval (empty where it has none), and what it gained against the dense net (see `gains`)."""
    marked = {id(one.point) for one in tickets(points)}
    known = [name for name in MEASURES if any(point.values(name) for point in points)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    place = ("data", "network", "objective", "epsilon", "method", "round", "sparsity", "seeds", "ticket")
    against = {id(gain.point): gain.differences for gain in gains(points)}
    compared = [name for name in COMPARED if name in known]
    heads = [*known, *(f"{name}_gain" for name in compared)]
    writer.writerow([*place, *(f"{name}{end}" for name in heads for end in ("", "_lower", "_upper"))])
    for point in points:
        setting = point.setting
        estimates = [point.estimate(name) for name in known]
        estimates += [against.get(id(point), {}).get(name) for name in compared]
        row = [part for one in estimates for part in _parts(one)]
        epsilon = "" if setting.epsilon is None else setting.epsilon
        number = "" if point.round is None else point.round
        who = [
            setting.data,
            setting.network,
            setting.objective,
            epsilon,
            point.method,
            number,
            point.sparsity,
        ]
        writer.writerow([*who, len(point.records), int(id(point) in marked), *row])
    return buffer.getvalue()


def _parts(estimate: Estimate | None) -> list[float | str]:
    """The mean and the ends of its interval, empty where there is none."""
    if estimate is None:
        return ["", "", ""]
    return [estimate.value, *([estimate.lower, estimate.upper] if estimate.kind else ["", ""])]
