"""Secateur beside Marabou and NeuralSAT, each a whole process an instance, one after the other in one run:

    .venv/bin/python vnncomp_benchmarks/compare_peers.py ../benchmarks --marabou PYTHON --neuralsat PYTHON

PYTHON is the interpreter of a virtual environment into which that verifier was installed (`pip install maraboupy`,
`pip install neuralsat`); leave one out and it does not run. The folder holds benchmarks as run_folder.py reads them.

A `sat` counts only when its witness holds in onnxruntime on the property as written (moved into the property's box
first where it lies outside by no more than SLACK: Marabou prints six decimals), and no verdict counts that contradicts
known_results.csv. Where nothing is decided the whole timeout is charged.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from run_folder import expected_results

from secateur.formats import instances, onnx_model, streams, vnnlib, witness
from secateur.formats.errors import SecateurError
from secateur.formats.query import Query
from secateur.pipeline.verify import check_witness

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

SLACK = 1e-4
"""How far outside a box a witness may lie and still be moved into it: what the competition's checker allows, too."""

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
class Process:
    """A finished process: seconds of the clock and of the CPU, and its standard output."""

    wall: float
    cpu: float
    stdout: str


class Tool:
    """A verifier that is run as a process; `python` is the interpreter that has it."""

    name = ""
    package = ""

    def __init__(self, python: str) -> None:
        self.python = python

    def version(self) -> str:
        code = f"from importlib.metadata import version; print(version('{self.package}'))"
        found = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=False)
        if found.returncode:
            sys.exit(f"compare_peers: error: {self.python} has no {self.package}")
        return f"{self.name} {found.stdout.strip()}"

    def decide(self, instance: Instance, folder: Path, timeout: float, threads: int) -> Answer:
        """Run on one instance, with `folder` to write in, and judge."""
        done = run(self.command(instance, folder, timeout, threads), folder, timeout + GRACE, threads)
        verdict = self.verdict(done.stdout, folder)
        remark = ""
        if verdict == "sat":
            x = self.witness(done.stdout, folder)
            remark = "" if x is not None and holds(instance, x) else "replay refutes its witness"
        if verdict in ("sat", "unsat") and instance.expected not in (verdict, None):
            remark = f"known to be {instance.expected}"
        if verdict == "error":
            lines = done.stdout.split("\n") + read_if_any(folder / "stderr").split("\n")
            remark = next((line.strip()[:120] for line in reversed(lines) if line.strip()), "")
        return Answer(verdict, done.wall, done.cpu, remark)

    def command(self, instance: Instance, folder: Path, timeout: float, threads: int) -> list[str]:
        raise NotImplementedError

    def verdict(self, stdout: str, folder: Path) -> str:
        raise NotImplementedError

    def witness(self, stdout: str, folder: Path) -> np.ndarray | None:
        raise NotImplementedError


class Secateur(Tool):
    name = package = "secateur"

    def command(self, instance: Instance, folder: Path, timeout: float, threads: int) -> list[str]:
        return [
            *(self.python, "-m", "secateur.tools", "verify", str(instance.onnx), str(instance.vnnlib)),
            *("--timeout", f"{timeout:g}", "--threads", str(threads), "--witness", str(folder / "witness")),
        ]

    def verdict(self, stdout: str, folder: Path) -> str:
        return first_word(stdout)

    def witness(self, stdout: str, folder: Path) -> np.ndarray | None:
        return witness.read(str(folder / "witness"))[0]


class Marabou(Tool):
    name, package = "Marabou", "maraboupy"

    def command(self, instance: Instance, folder: Path, timeout: float, threads: int) -> list[str]:
        entry = "import sys; from maraboupy.MarabouMain import main; sys.exit(main())"
        return [
            *(self.python, "-c", entry, str(instance.onnx), str(instance.vnnlib)),
            *("--timeout", str(max(1, round(timeout))), "--verbosity", "0", "--blas-threads", str(threads)),
            *("--summary-file", str(folder / "summary")),
        ]

    def verdict(self, stdout: str, folder: Path) -> str:
        return first_word(read_if_any(folder / "summary"))

    def witness(self, stdout: str, folder: Path) -> np.ndarray | None:
        values = {int(i): float(v) for i, v in re.findall(r"^\s*x(\d+) = (\S+)$", stdout, re.MULTILINE)}
        return np.array([values[i] for i in range(len(values))]) if values else None


class NeuralSAT(Tool):
    name = package = "neuralsat"

    def command(self, instance: Instance, folder: Path, timeout: float, threads: int) -> list[str]:
        # Its package is called `src` and has no entry point: main.py runs with its own folder first on the path.
        entry = (
            "import runpy, sys, importlib.util as u; p = u.find_spec('src').submodule_search_locations[0]; "
        )
        entry += "sys.path.insert(0, p); runpy.run_path(p + '/main.py', run_name='__main__')"
        return [
            *(self.python, "-c", entry, "--net", str(instance.onnx), "--spec", str(instance.vnnlib)),
            *("--device", "cpu", "--timeout", f"{timeout:g}"),
            *("--result_file", str(folder / "result"), "--export_cex"),
        ]

    def verdict(self, stdout: str, folder: Path) -> str:
        return first_word(read_if_any(folder / "result"))

    def witness(self, stdout: str, folder: Path) -> np.ndarray | None:
        pairs = re.findall(r"\(X_(\d+) (\S+?)\)", read_if_any(folder / "result"))
        values = {int(i): float(v) for i, v in pairs}
        return np.array([values[i] for i in range(len(values))]) if values else None


def run(command: list[str], folder: Path, limit: float, threads: int) -> Process:
    """The process in `folder`, stopped with all its children after `limit` seconds."""
    count = str(threads)
    environment = os.environ | dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count
    )
    started = time.perf_counter()
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=err, env=environment, start_new_session=True
        )
        timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    return Process(wall, usage.ru_utime + usage.ru_stime, (folder / "stdout").read_text(errors="replace"))


def first_word(text: str) -> str:
    """The verdict that a text starts with, in the words of VNN-COMP; "error" where there is none."""
    word = (text.split() or [""])[0].lower()
    return word if word in ("sat", "unsat", "unknown", "timeout") else "error"


def read_if_any(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def holds(instance: Instance, x: np.ndarray) -> bool:
    """Whether x, moved into one of the property's boxes where it is next to it, is a witness."""
    model, query = onnx_model.read(str(instance.onnx)), vnnlib.read(str(instance.vnnlib))
    return len(x) == query.inputs and any(
        check_witness(model, query, near)[0] for near in candidates(query, x)
    )


def candidates(query: Query, x: np.ndarray) -> Iterator[np.ndarray]:
    yield x
    for region in query.regions:
        inside = np.clip(x, region.nearest_lower, region.nearest_upper)
        if np.abs(inside - x).max() <= SLACK:
            yield inside


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
    tools: list[Tool] = [Secateur(sys.executable)]
    tools += [Marabou(options.marabou)] if options.marabou else []
    tools += [NeuralSAT(options.neuralsat)] if options.neuralsat else []
    print(
        f"{os.cpu_count()} cores, {options.threads} threads, {options.timeout:g} s an instance; "
        + ", ".join(tool.version() for tool in tools)
    )
    print("seconds of the clock / of the CPU, whole processes")
    print(f"{'instance':62}" + "".join(f"{tool.name:>26}" for tool in tools))
    answers: dict[str, list[Answer]] = {tool.name: [] for tool in tools}
    with tempfile.TemporaryDirectory() as place:
        for instance in find(options.folder, options.instance or list(INSTANCES), Path(place)):
            label = f"{instance.benchmark} {Path(instance.network).name} {Path(instance.prop).name}"
            print(f"{label[:61]:62}", end="", flush=True)
            for tool in tools:
                with tempfile.TemporaryDirectory() as own:
                    answer = tool.decide(instance, Path(own), options.timeout, options.threads)
                answers[tool.name].append(answer)
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
