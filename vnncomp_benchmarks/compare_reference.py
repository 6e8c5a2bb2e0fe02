"""Compare processor time with a table of another verifier's: `compare_reference.py TABLE.csv BENCHMARKS_DIR`.

The table has the columns benchmark, onnx, vnnlib, result, tool_s (without imports), whole_process_cpu_s and domains;
lines that begin with # are skipped. Every row whose files exist (gzipped or not) is verified by `secateur verify` in a
process of its own with one thread, whose user and system time is taken. Start-up is compared on the rows with 0
domains, whole process against whole process. Search is compared on the decided rows of more than one tool second:
tool_s against our process less our least process of all, which stands for its start-up.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DECIDED = ("sat", "unsat")


@dataclass(frozen=True)
class Row:
    """One instance: the reference's verdict and processor seconds, and ours."""

    name: str
    reference: str
    tool: float
    whole: float
    domains: int
    verdict: str
    seconds: float
    our_domains: int
    megabytes: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("benchmarks", type=Path, help="the folder that holds the benchmarks' folders")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds a row (default 120)")
    parser.add_argument("--only", metavar="BENCHMARK", help="only the rows of this benchmark")
    arguments = parser.parse_args()
    lines = [line for line in arguments.table.read_text().splitlines() if not line.startswith("#")]
    rows: list[Row] = []
    missing = 0
    print(f"{os.cpu_count()} cores, one thread, at most {arguments.timeout:g} s a row")
    print(
        f"{'instance':50} {'reference':>9} {'tool s':>7} {'whole s':>7} {'domains':>8} | "
        f"{'ours':>7} {'cpu s':>6} {'domains':>8} {'MB':>5}"
    )
    for record in csv.DictReader(lines):
        if arguments.only not in (None, record["benchmark"]):
            continue
        files = [existing(arguments.benchmarks / record["benchmark"] / record[c]) for c in ("onnx", "vnnlib")]
        if None in files:
            missing += 1
            continue
        row = measured(record, [str(file) for file in files], arguments.timeout)
        rows.append(row)
        print(
            f"{row.name:50.50} {row.reference:>9} {row.tool:7.2f} {row.whole:7.1f} {row.domains:8} | "
            f"{row.verdict:>7} {row.seconds:6.2f} {row.our_domains:8} {row.megabytes:5.0f}",
            flush=True,
        )
    summarise(rows, missing)


def existing(path: Path) -> Path | None:
    """The path, or it with .gz; None where there is neither."""
    return next((p for p in (path, path.with_name(path.name + ".gz")) if p.exists()), None)


def measured(record: dict[str, str], files: Sequence[str], timeout: float) -> Row:
    command = [sys.executable, "-m", "secateur.tools", "verify", *files, "--json", "--threads", "1"]
    child = subprocess.Popen(
        [*command, "--timeout", str(timeout)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout is not None
    output = child.stdout.read()
    _, _, usage = os.wait4(child.pid, 0)
    result: dict[str, Any] = json.loads(output) if output.strip() else {"verdict": "error", "domains": 0}
    return Row(
        " ".join((record["benchmark"], Path(record["onnx"]).stem[:24], Path(record["vnnlib"]).stem)),
        record["result"],
        float(record["tool_s"]),
        float(record["whole_process_cpu_s"]),
        int(record["domains"]),
        result["verdict"],
        usage.ru_utime + usage.ru_stime,
        int(result["domains"]),
        usage.ru_maxrss / 1024,
    )


def summarise(rows: Sequence[Row], missing: int) -> None:
    print(f"{len(rows)} rows; files of {missing} more are not here")
    if not rows:
        return
    start = min(row.seconds for row in rows)
    both = [row for row in rows if row.reference in DECIDED and row.verdict in DECIDED]
    ratios("start-up (rows of 0 domains)", [row.seconds / row.whole for row in both if row.domains == 0])
    searched = [max(row.seconds - start, 0.01) / row.tool for row in both if row.tool > 1]
    ratios(f"search beyond a start-up of {start:.2f} s", searched)
    print(f"all: {sum(row.seconds for row in rows):.1f} s against {sum(row.whole for row in rows):.1f} s")
    for label, chosen in (
        (
            "undecided here, decided by the reference",
            [r for r in rows if r.reference in DECIDED and r not in both],
        ),
        ("decided here alone", [r for r in rows if r.reference not in DECIDED and r.verdict in DECIDED]),
        ("verdicts that differ", [r for r in both if r.verdict != r.reference]),
    ):
        print(f"{label}: {len(chosen)}", *(f"\n  {row.name} ({row.seconds:.1f} s)" for row in chosen))


def ratios(label: str, values: Sequence[float]) -> None:
    if values:
        mean = math.exp(sum(map(math.log, values)) / len(values))
        print(f"{label}: {mean:.3f} of the reference's seconds, geometric mean of {len(values)} rows")


if __name__ == "__main__":
    main()
