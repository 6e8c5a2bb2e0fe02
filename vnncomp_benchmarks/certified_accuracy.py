"""Certified accuracy of one network: one `secateur run` against as many calls of `secateur verify`.

    certified_accuracy.py NET.onnx --data mnist.npz --count 100 --epsilon 0.03

Writes the robustness properties of the first test images with `secateur property robust`, decides them all in one
process and, for comparison, a sample of them in a process each (--sample, evenly spread; its mean stands for all).
Whole processes are timed, start-up included, by the clock and by their processor time. `--tool-seconds` is what another
verifier needs for one of them, without its start-up, such as the reference table's. Verdicts must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SECATEUR = (sys.executable, "-m", "secateur.tools")


class Spent(NamedTuple):
    """Seconds of a process, by the clock and of the processor (user and system)."""

    wall: float
    processor: float


def main() -> int:
    arguments = _arguments()
    threads = ("--threads", str(arguments.threads))
    limit = ("--timeout", str(arguments.timeout))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _run(
            "property", "robust", arguments.model, "--data", arguments.data, "--count", str(arguments.count),
            "--epsilon", arguments.epsilon, "--timeout", str(arguments.timeout), "-o", str(folder),
        )  # fmt: skip
        instances = [line.split(",") for line in (folder / "instances.csv").read_text().split()]
        results = folder / "results.jsonl"
        _, together = _run("run", str(folder / "instances.csv"), "--results", str(results), *limit, *threads)
        records = {record["property"]: record for record in map(json.loads, results.read_text().splitlines())}
        step = max(1, len(instances) // arguments.sample) if arguments.sample else 1
        sample = instances[::step]
        wall = processor = 0.0
        wrong = []
        for model, prop, _ in sample:
            output, spent = _run("verify", str(folder / model), str(folder / prop), *limit, *threads)
            wall, processor = wall + spent.wall, processor + spent.processor
            verdicts = {output.strip(), records[prop]["verdict"]}
            if verdicts == {"sat", "unsat"}:
                wrong.append(prop)
    scale = len(instances) / len(sample)
    apart = Spent(wall * scale, processor * scale)
    counts = Counter(record["verdict"] for record in records.values())
    print(f"{os.cpu_count()} cores, {arguments.threads} threads; {len(instances)} properties: {dict(counts)}")
    print(f"certified {counts['unsat']} of {arguments.count} images at epsilon {arguments.epsilon}")
    print(f"{'':34} {'wall s':>8} {'cpu s':>8} {'ratio (cpu)':>12}")
    rows = [
        ("one run", together),
        (f"verify, {len(sample)} calls" + (f" × {scale:g}" if scale > 1 else ""), apart),
    ]
    if arguments.tool_seconds:
        reference = arguments.tool_seconds * len(instances)
        rows.append((f"other verifier, {arguments.tool_seconds:g} s each", Spent(float("nan"), reference)))
    for name, spent in rows:
        ratio = spent.processor / together.processor
        print(f"{name:34} {spent.wall:8.1f} {spent.processor:8.1f} {ratio:12.1f}")
    for prop in wrong:
        print(f"CONTRADICTION: {prop}")
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--data", required=True, help="a data set that `secateur property robust` reads")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--epsilon", default="0.03")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a property (default 60)")
    parser.add_argument("--sample", type=int, default=0, help="so many calls of `verify` (default: all)")
    parser.add_argument("--tool-seconds", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _run(*arguments: str) -> tuple[str, Spent]:
    """The standard output of `secateur …`, and what the process took."""
    before, started = _processor(), time.perf_counter()
    finished = subprocess.run([*SECATEUR, *arguments], capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"secateur {_shown(arguments)}: {finished.stderr.strip()}")
    return finished.stdout, Spent(time.perf_counter() - started, _processor() - before)


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _shown(arguments: Sequence[str]) -> str:
    return " ".join(arguments[:2])


if __name__ == "__main__":
    sys.exit(main())
