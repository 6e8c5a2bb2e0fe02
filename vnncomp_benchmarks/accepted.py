"""Which networks of benchmark folders Marabou reads, as they are and after `secateur convert --for marabou`:

    .venv/bin/python vnncomp_benchmarks/accepted.py ../benchmarks --results accepted.jsonl

Every ONNX file is first brought into canonical form and compared in onnxruntime, then into Marabou's. A file counts as
accepted when Marabou writes down the query that it made of it, and as agreeing when Marabou finds one input, and what
onnxruntime makes of it within 1 %, satisfiable: a reader may take a network for another. Files that have a record are
skipped. `secateur verifiers install marabou` puts Marabou where this finds it; or name the interpreter that has it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from secateur.formats import onnx_model
from secateur.formats.errors import SecateurError
from secateur.pipeline import onnxrt
from secateur.pipeline.convert import conversion
from secateur.pipeline.dispatch import homes, marabou
from secateur.pipeline.dispatch.process import run
from secateur.pipeline.dispatch.protocol import Home, Task, read_if_any, word

MARGIN = 0.01
READING = 120.0
"""Seconds that Marabou gets to read a network."""
MEMORY = 8 * 2**30
CONSTRAINED = 16
"""Outputs that the question fixes, at most."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder of the benchmarks' folders")
    parser.add_argument("--results", type=Path, required=True, help="records, one a file; gone on with")
    parser.add_argument("--python", type=Path, help="the interpreter that has maraboupy")
    parser.add_argument("--timeout", type=float, default=15, help="seconds to answer at one point")
    parser.add_argument("--only", default="", help="only files whose path contains this")
    arguments = parser.parse_args()
    try:
        home = Home(arguments.python.absolute()) if arguments.python else homes.find(marabou.TOOL)
    except SecateurError as error:
        sys.exit(str(error))
    done = _records(arguments.results)
    paths = sorted(path for path in arguments.folder.glob("*/onnx/**/*.onnx*") if arguments.only in str(path))
    for number, path in enumerate(paths, 1):
        name = str(path.relative_to(arguments.folder))
        if name not in done:
            record = {"network": name, **examine(path, home, arguments.timeout)}
            done[name] = record
            with arguments.results.open("a") as stream:
                stream.write(json.dumps(record, sort_keys=True) + "\n")
            print(f"{number}/{len(paths)} {name}: {record}", file=sys.stderr)
    report([record for name, record in done.items() if arguments.only in name])


def _records(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {record["network"]: record for record in map(json.loads, lines)}


def examine(path: Path, home: Home, timeout: float) -> dict[str, Any]:
    """The record of one file: its canonical form's difference, and what Marabou says before and after."""
    try:
        canonical = conversion.convert(str(path))
        model = onnx_model.read(str(path)).proto
    except SecateurError as error:
        return {"canonical": None, "reason": str(error)}
    record: dict[str, Any] = {"canonical": canonical.difference, "before": ask(model, home, timeout)}
    try:
        changed = conversion.convert(str(path), target="marabou")
    except SecateurError as error:
        return record | {"after": {"accepted": False, "reason": str(error)}}
    done = [name for name, outcome in changed.passes.items() if outcome == "done"]
    return record | {
        "difference": changed.difference,
        "passes": done,
        "after": ask(changed.proto, home, timeout),
    }


def ask(model: onnx.ModelProto, home: Home, timeout: float) -> dict[str, Any]:
    """Whether Marabou reads `model`, and what it says of one input and its output."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network, prop = folder / "net.onnx", folder / "prop.vnnlib"
        network.write_bytes(model.SerializeToString())
        prop.write_text(question(model))
        task = Task(
            network, prop, timeout, folder, home, arguments=("--query-dump-file", str(folder / "query"))
        )
        read = run(marabou.TOOL.command(task), folder, seconds=READING, memory=MEMORY)
        if not (folder / "query").exists():
            said = re.sub(r"/tmp/\S+", "", read.complaint()) or f"exit code {read.code}"
            late = f"not read within {READING:.0f} s" if read.stopped == "time" else read.stopped
            return {"accepted": False, "reason": late or said.split("Message: ")[-1]}
        (folder / "query").unlink()
        task = Task(network, prop, timeout, folder, home)
        finished = run(marabou.TOOL.command(task), folder, seconds=2 * timeout, memory=MEMORY)
        late = "timeout" if finished.stopped == "time" else finished.stopped
        answer = word(read_if_any(task.result)) or late or finished.complaint()
        return {"accepted": True, "answer": answer, "seconds": round(finished.seconds, 1)}


def question(model: onnx.ModelProto) -> str:
    """Is there an input equal to this one whose first outputs are within a margin of onnxruntime's?"""
    x = onnxrt.sample_inputs(onnxrt.count_inputs(model), seed=0, samples=1)
    y = np.asarray(onnxrt.run(model, x)[0], np.float64)
    margin = MARGIN * max(1.0, float(np.abs(y).max()))
    lines = [f"(declare-const X_{i} Real)" for i in range(x.size)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(y.size)]
    for i, value in enumerate(x[0].tolist()):
        lines += [f"(assert (>= X_{i} {value:.9f}))", f"(assert (<= X_{i} {value:.9f}))"]
    for i, value in enumerate(y.tolist()[:CONSTRAINED]):
        lines += [f"(assert (>= Y_{i} {value - margin:.9f}))", f"(assert (<= Y_{i} {value + margin:.9f}))"]
    return "\n".join(lines) + "\n"


def report(records: list[dict[str, Any]]) -> None:
    """Counts, and what stands in the way of the rest."""
    equal = [record for record in records if record["canonical"] is not None]
    worst = max((record["canonical"] for record in equal), default=0.0)
    print(f"{len(records)} networks, {len(equal)} canonical and equal (worst difference {worst:.1e})")
    for side in ("before", "after"):
        asked = [record[side] for record in equal if side in record]
        accepted = [entry for entry in asked if entry["accepted"]]
        answers = Counter(entry["answer"] for entry in accepted)
        said = ", ".join(f"{count} {answer}" for answer, count in sorted(answers.items()))
        print(f"{side}: {len(accepted)} accepted; at one point: {said}")
        reasons = Counter(entry["reason"] for entry in asked if not entry["accepted"])
        for reason, count in reasons.most_common():
            print(f"  {count} refused: {reason}")
    for record in equal:
        for side in ("before", "after"):
            if record.get(side, {}).get("answer") == "unsat":
                print(f"  {side}, at its own output unsat: {record['network']}")


if __name__ == "__main__":
    main()
