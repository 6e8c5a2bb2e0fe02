"""Seconds and memory to prune a network of 25 million parameters, each command a process of its own:

    .venv/bin/python vnncomp_benchmarks/pruning_speed.py

torchvision's ResNet-50 with seeded random weights (opset 17) is pruned by magnitude, single weights (whose mask is then
applied) and channels, and what the latter leaves is shrunk; each command compares what it wrote in onnxruntime. Goals:
10 s of the clock a command, and a peak of resident memory of no more than 3 × the file. The peak is the kernel's count
for the whole process, Python and all; the floor, what numpy, onnx and onnxruntime take when they are imported and
nothing is done, is part of it, and shown apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

SECONDS, TIMES = 10.0, 3.0
FLOOR = ("-c", "import numpy, onnx, onnxruntime")
BUILD = """
import sys, torch, torchvision
torch.manual_seed(0)
network = torchvision.models.resnet50(weights=None).eval()
axes = {"input": {0: "batch"}, "output": {0: "batch"}}
names = {"input_names": ["input"], "output_names": ["output"]}
sample = (torch.zeros(1, 3, 224, 224),)
torch.onnx.export(network, sample, sys.argv[1], opset_version=17, dynamo=False, dynamic_axes=axes, **names)
"""


@dataclass(frozen=True)
class Spent:
    """What a process took: seconds of the clock and of the processor, and its peak of resident memory in bytes."""

    wall: float
    cpu: float
    peak: int


def run(*words: str) -> Spent:
    """Run Python with these words on one thread. (The peak counts from the fork on: this script stays small.)"""
    environment = os.environ | dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
    )
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([sys.executable, *words], stdout=said, stderr=said, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        if process.returncode:
            said.seek(0)
            sys.exit(f"pruning_speed: error: {' '.join(words[:4])}: {said.read().decode(errors='replace')}")
    return Spent(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def commands(dense: Path) -> dict[str, tuple[str, ...]]:
    """Name → words after `secateur`, in the order to run them."""
    sparse, masked, small = (str(dense.with_name(f"{name}.onnx")) for name in ("sparse", "masked", "small"))
    mask = str(dense.with_name("mask.safetensors"))
    channels = ("--granularity", "channel", "--scope", "layer")
    return {
        "prune weights": ("prune", "magnitude", str(dense), "-s", "0.8", "-o", sparse, "--mask-out", mask),
        "apply": ("apply", str(dense), mask, "-o", sparse),
        "prune channels": ("prune", "magnitude", str(dense), "-s", "0.5", *channels, "-o", masked),
        "shrink": ("shrink", masked, "-o", small),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, metavar="ONNX", help="prune this file instead")
    parser.add_argument("--results", type=Path, metavar="JSONL", help="write a JSON object a command")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        dense = Path(temporary) / "dense.onnx"
        if options.model:
            dense.symlink_to(options.model.resolve())
        else:
            run("-W", "ignore", "-c", BUILD, str(dense))
        size, floor = dense.stat().st_size, run(*FLOOR)
        print(
            f"{os.cpu_count()} cores, 1 thread; the file has {size / 2**20:.1f} MiB; floor {floor.peak / 2**20:.0f} MiB"
        )
        print(
            f"{'':16} {'wall s':>7} {'cpu s':>7} {'peak MiB':>9} {'/ file':>7} {'(peak - floor) / file':>22}"
        )
        records, missed = [], []
        for name, words in commands(dense).items():
            spent = run("-m", "secateur.tools", *words)
            times = spent.peak / size
            print(
                f"{name:16} {spent.wall:7.1f} {spent.cpu:7.1f} {spent.peak / 2**20:9.0f} {times:7.1f} "
                f"{(spent.peak - floor.peak) / size:22.1f}"
            )
            records.append({"command": name, "file": size, "floor": floor.peak} | asdict(spent))
            missed += [f"{name}: {spent.wall:.1f} s"] * (spent.wall > SECONDS)
            missed += [f"{name}: {times:.1f} × the file"] * (times > TIMES)
    for line in missed:
        print(f"over the goal: {line}")
    if options.results:
        options.results.write_text("".join(json.dumps(record, sort_keys=True) + "\n" for record in records))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
