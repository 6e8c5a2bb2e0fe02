"""Verify all instances of VNN-COMP folders and compare with known results: `run_folder.py DIR... --results R.jsonl`.

Stopped, it goes on from the records in --results when called again. Exit code 1 when a verdict is wrong.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path

import torch

from secateur.formats import streams
from secateur.formats.errors import InputError, SecateurError
from secateur.formats.verdict import VERDICTS, Record
from secateur.pipeline import campaign, compute
from secateur.pipeline.campaign import Tally
from secateur.pipeline.dispatch.foreign import Limits
from secateur.pipeline.questions import How
from secateur.tools.progress import progress

Expected = dict[tuple[str, str], str]


def main() -> int:
    arguments = _arguments()
    compute.configure(arguments.device, arguments.threads)
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.device}, "
        f"verifier {arguments.verifier}, at most {arguments.timeout:g} s an instance"
    )
    tallies: dict[str, Tally] = {}
    wrong: list[Record] = []
    for folder in map(Path, arguments.folders):
        expected = expected_results(folder / "known_results.csv")
        records = _run(folder, arguments)
        wrong += [record for record in records if campaign.tally([record], expected).wrong]
        tallies[folder.name] = campaign.tally(records, expected)
    _print_table(tallies)
    for record in wrong:
        print(f"WRONG: {record.model} {record.property}: {record.verdict}")
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="a folder with an instances.csv")
    parser.add_argument("--results", required=True, metavar="R.jsonl", help="records, appended to")
    parser.add_argument(
        "--timeout", type=float, default=20.0, help="seconds an instance at most (default 20)"
    )
    parser.add_argument("--verifier", default="crown", help="as of `secateur verify` (default crown)")
    parser.add_argument("--limit", type=int, help="only the first N instances of each folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def _run(folder: Path, arguments: argparse.Namespace) -> list[Record]:
    plan = campaign.plan(
        str(folder / "instances.csv"),
        arguments.results,
        verifiers=[arguments.verifier],
        timeout=arguments.timeout,
        limit=arguments.limit,
        labels={"benchmark": folder.name},
    )
    records = plan.finished
    with progress(len(plan.pending), folder.name) as step:
        memory = compute.memory(arguments.device)
        limits = Limits(memory, arguments.threads or os.cpu_count() or 1, category=folder.name)
        how = How(device=arguments.device, seed=arguments.seed, memory=memory, limits=limits)
        for record in campaign.run(plan.pending, arguments.results, how):
            records.append(record)
            step(f"{record.verdict} in {record.seconds:.1f} s {record.message}"[:100])
    return records


def expected_results(path: Path) -> Expected:
    """(onnx, vnnlib) → `sat` or `unsat`, of a table with those columns and `expected`; empty without the file."""
    if not path.exists():
        return {}
    rows = csv.DictReader(streams.read_bytes(str(path)).decode().splitlines())
    missing = {"onnx", "vnnlib", "expected"} - set(rows.fieldnames or [])
    if missing:
        raise InputError(f"has no column {', '.join(sorted(missing))}", where=str(path))
    return {
        (row["onnx"], row["vnnlib"]): row["expected"] for row in rows if row["expected"] in ("sat", "unsat")
    }


def _print_table(tallies: dict[str, Tally]) -> None:
    columns = ["instances", "decided", "right", "wrong", *VERDICTS, "seconds", "median s"]
    widest = max(map(len, ["benchmark", *tallies]))
    print(f"{'benchmark':{widest}}" + "".join(f" {column:>9}" for column in columns))
    for name, tally in tallies.items():
        print(f"{name:{widest}}" + "".join(f" {cell:>9}" for cell in _cells(tally)))
    if len(tallies) > 1:
        counts = zip(*(_cells(tally)[:-2] for tally in tallies.values()), strict=True)
        total = [
            *(str(sum(map(int, column))) for column in counts),
            f"{sum(t.seconds for t in tallies.values()):.1f}",
        ]
        print(f"{'all':{widest}}" + "".join(f" {cell:>9}" for cell in total))


def _cells(tally: Tally) -> list[str]:
    counts = [
        tally.instances,
        tally.decided,
        tally.right,
        tally.wrong,
        *(tally.verdicts[v] for v in VERDICTS),
    ]
    return [*map(str, counts), f"{tally.seconds:.1f}", f"{tally.median_seconds:.2f}"]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SecateurError as error:
        sys.exit(f"run_folder: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
