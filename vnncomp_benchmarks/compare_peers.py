"""Secateur beside Marabou and NeuralSAT, each a whole process an instance, one after the other in one run:

    .venv/bin/python vnncomp_benchmarks/compare_peers.py ../benchmarks --marabou PYTHON --neuralsat PYTHON

PYTHON is the interpreter of a virtual environment into which that verifier was installed (`pip install maraboupy`,
`pip install neuralsat`); leave one out and it does not run. The folder holds benchmarks as run_folder.py reads them.

A `sat` counts only when its witness holds in onnxruntime on the property as written (moved into the property's box
first where it lies outside by no more than 1e-4: Marabou prints six decimals), and no verdict counts that contradicts
known_results.csv. Where nothing is decided the whole timeout is charged.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from run_folder import expected_results

from secateur.formats import instances, onnx_model, streams, vnnlib
from secateur.formats.errors import SecateurError
from secateur.pipeline.dispatch import FOREIGN, homes
from secateur.pipeline.dispatch.generic import own
from secateur.pipeline.dispatch.judge import judge
from secateur.pipeline.dispatch.process import run
from secateur.pipeline.dispatch.protocol import Home, Task, Tool
from secateur.pipeline.verify.replay import Replay

INSTANCES = (
    "acasxu ACASXU_run2a_2_2_batch_2000 prop_2",
    "acasxu ACASXU_run2a_1_5_batch_2000 prop_1",
    "mnist_fc mnist-net_256x2 prop_13_0.03",
    "mnist_fc mnist-net_256x6 prop_2_0.03",
    "eran_mnist mnist_relu_9_200 mnist_spec_idx_2626_eps_0.01500",
    "eran_mnist mnist_relu_9_200 mnist_spec_idx_1013_eps_0.01500",
    "safenlp ruarobot/perturbations_0 ruarobot/hyperrectangle_4514",
    "safenlp ruarobot/perturbations_0 ruarobot/hyperrectangle_3589",
    "collins_rul_cnn NN_rul_full_window_20 robustness_2perturbations_delta10_epsilon10_w20",
    "collins_rul_cnn NN_rul_small_window_20 monotonicity_CI_shift20_w20",
)
"""Benchmark, network, property: of each benchmark an easy instance and one that took Marabou about its median."""

GRACE = 15.0
"""Seconds beyond the timeout after which a process is stopped."""


@dataclass(frozen=True)
class Instance:
    """One instance, its files unpacked."""

    benchmark: str
    network: str
    prop: str
    onnx: Path
    vnnlib: Path
    expected: str | None


@dataclass(frozen=True)
class Answer:
    """What a process said, seconds of the clock and of the CPU; `remark`: why it does not count, if it should."""

    verdict: str
    wall: float
    cpu: float
    remark: str = ""


@dataclass(frozen=True)
class Peer:
    """A verifier and where it lives."""

    name: str
    tool: Tool
    home: Home
    version: str


def decide(peer: Peer, instance: Instance, folder: Path, timeout: float, threads: int) -> Answer:
    """Run a verifier on one instance, a whole process, with `folder` to write in, and judge what it says."""
    task = Task(instance.onnx, instance.vnnlib, timeout, folder, peer.home, threads)
    count = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    environment = {**count, **peer.tool.environment}
    done = run(peer.tool.command(task), folder, seconds=timeout + GRACE, environment=environment)
    model, query = onnx_model.read(str(instance.onnx)), vnnlib.read(str(instance.vnnlib))
    judged = judge(peer.tool.read(task, done), query, Replay(model))
    verdict, remark = judged.verdict, ""
    if verdict == "error":
        remark = judged.message
    elif verdict == "invalid-witness" or judged.replay == "tolerant":
        verdict, remark = "sat", judged.message
    elif verdict in ("sat", "unsat") and instance.expected not in (verdict, None):
        remark = f"known to be {instance.expected}"
    return Answer(verdict, done.seconds, done.cpu_seconds, remark)


def find(folder: Path, names: list[str], unpacked: Path) -> Iterator[Instance]:
    """The named instances, gzipped files unpacked."""
    for number, line in enumerate(names):
        benchmark, network, prop = line.split()
        listed = str(folder / benchmark / "instances.csv")
        known = expected_results(folder / benchmark / "known_results.csv")
        paths = []
        for name in (f"onnx/{network}.onnx", f"vnnlib/{prop}.vnnlib"):
            paths.append(unpacked / f"{number}{Path(name).suffix}")
            paths[-1].write_bytes(streams.read_bytes(instances.resolve(listed, name)))
        yield Instance(
            *(benchmark, network, prop, *paths),
            expected=known.get((f"onnx/{network}.onnx", f"vnnlib/{prop}.vnnlib")),
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder of the benchmarks' folders")
    parser.add_argument("--marabou", metavar="PYTHON", help="an interpreter that has maraboupy")
    parser.add_argument("--neuralsat", metavar="PYTHON", help="an interpreter that has neuralsat")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds an instance (default 60)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each (default 1)")
    parser.add_argument(
        "--instance",
        action="append",
        metavar="'BENCHMARK NETWORK PROPERTY'",
        help="instead of the ten named in this file; may be repeated",
    )
    options = parser.parse_args()
    peers = [Peer("secateur", own("crown"), Home(), onnx_model.tool_version())]
    for name in ("marabou", "neuralsat"):
        if python := getattr(options, name):
            tool, home = FOREIGN[name], Home(Path(python).absolute())
            peers.append(Peer(name, tool, home, homes.version(tool, home)))
    print(
        f"{os.cpu_count()} cores, {options.threads} threads, {options.timeout:g} s an instance; "
        + ", ".join(f"{peer.name} {peer.version}" for peer in peers)
    )
    print("seconds of the clock / of the CPU, whole processes")
    print(f"{'instance':62}" + "".join(f"{peer.name:>26}" for peer in peers))
    answers: dict[str, list[Answer]] = {peer.name: [] for peer in peers}
    with tempfile.TemporaryDirectory() as place:
        for instance in find(options.folder, options.instance or list(INSTANCES), Path(place)):
            label = f"{instance.benchmark} {Path(instance.network).name} {Path(instance.prop).name}"
            print(f"{label[:61]:62}", end="", flush=True)
            for peer in peers:
                with tempfile.TemporaryDirectory() as place_of_its_own:
                    answer = decide(peer, instance, Path(place_of_its_own), options.timeout, options.threads)
                answers[peer.name].append(answer)
                said = f"{answer.verdict} {answer.wall:.1f} / {answer.cpu:.1f}"
                print(f"{said:>26}", end="", flush=True)
            print()
    for title, cells in totals(answers, options.timeout):
        print(f"{title:62}" + "".join(f"{cell:>26}" for cell in cells))
    for name, given in answers.items():
        for line, answer in zip(options.instance or INSTANCES, given, strict=True):
            if answer.remark:
                print(f"{name} on {line}: {answer.verdict}, {answer.remark}")
    return 1 if any(answer.remark for answer in answers["secateur"]) else 0


def totals(answers: dict[str, list[Answer]], timeout: float) -> Iterator[tuple[str, list[str]]]:
    """What counts: how many are decided, and the sums of seconds, the timeout charged where nothing is."""
    right = {
        n: [a for a in given if a.verdict in ("sat", "unsat") and not a.remark]
        for n, given in answers.items()
    }
    missing = {n: timeout * (len(given) - len(right[n])) for n, given in answers.items()}
    yield "decided", [f"{len(right[n])} of {len(given)}" for n, given in answers.items()]
    yield "sum, clock", [f"{sum(a.wall for a in right[n]) + missing[n]:.1f}" for n in answers]
    yield "sum, CPU", [f"{sum(a.cpu for a in right[n]) + missing[n]:.1f}" for n in answers]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SecateurError as error:
        sys.exit(f"compare_peers: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
