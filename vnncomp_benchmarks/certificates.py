"""What a certificate costs: the same instances verified without and with one, and the certificates checked.

    .venv/bin/python vnncomp_benchmarks/certificates.py ../benchmarks --timeout 60

The folder holds benchmarks as run_folder.py reads them. Every step is a process of its own; seconds are its record's
(reading, but not starting Python), those of the check by the process's clock. Exit code 1 when a certificate is
rejected, or an `unsat` has none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from secateur.formats import instances

INSTANCES = (
    "acasxu ACASXU_run2a_1_1_batch_2000 prop_3",
    "acasxu ACASXU_run2a_3_3_batch_2000 prop_2",
    "mnist_fc mnist-net_256x2 prop_13_0.03",
    "mnist_fc mnist-net_256x4 prop_8_0.03",
    "eran_mnist mnist_relu_9_200 mnist_spec_idx_1013_eps_0.01500",
    "oval21 cifar_base_kw cifar_base_kw-img4763-eps0.024705882352941175",
    "oval21 cifar_base_kw cifar_base_kw-img8717-eps0.011633986928104577",
    "cifar10_resnet resnet_2b prop_4_eps_0.008",
    "sri_resnet_b resnet_3b2_bn_mixup_ssadv_4.0_bs128_lr-1_v2 cifar10_spec_idx_5190_eps_0.00350",
    "collins_rul_cnn NN_rul_small_window_20 robustness_16perturbations_delta10_epsilon10_w20",
    "safenlp ruarobot/perturbations_0 ruarobot/hyperrectangle_3445",
    "tllverifybench tllBench_n=2_N=M=8_m=1_instance_0_1 property_N=8_1",
    "linearizenn AllInOne_10_10 prop_10_10_2",
)
"""Benchmark, network, property: known to be `unsat`, at least one of every kind that a certificate can be about."""


def verify(model: str, prop: str, timeout: float, *words: str) -> tuple[str, float]:
    """The verdict and its seconds; what was said instead where there is none."""
    command = ["verify", model, prop, "--json", "--threads", "1", "--timeout", str(timeout), *words]
    done = secateur(*command)
    if not done.stdout:
        return " ".join(done.stderr.split()), 0.0
    record = json.loads(done.stdout)
    return record["verdict"], record["seconds"]


def secateur(*words: str) -> subprocess.CompletedProcess[str]:
    """One command, in a process of its own."""
    return subprocess.run([sys.executable, "-m", "secateur.tools", *words], capture_output=True, text=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder of the benchmarks' folders")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a verdict (default 60)")
    parser.add_argument(
        "--instance",
        action="append",
        metavar="'BENCHMARK NETWORK PROPERTY'",
        help="instead of those named in this file; may be repeated",
    )
    options = parser.parse_args()
    print(f"{'instance':62}{'without':>17}{'with':>17}{'bytes':>12}{'check':>9}")
    failed = False
    for line in options.instance or INSTANCES:
        benchmark, network, prop = line.split()
        listed = str(options.folder / benchmark / "instances.csv")
        files = [
            instances.resolve(listed, name) for name in (f"onnx/{network}.onnx", f"vnnlib/{prop}.vnnlib")
        ]
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, "proof.npz")
            plain = verify(*files, options.timeout)
            proved = verify(*files, options.timeout, "--certificate", str(path))
            cells = [f"{verdict[:9]} {seconds:.2f}" for verdict, seconds in (plain, proved)]
            size, check = "", ""
            if path.exists():
                started = time.perf_counter()
                done = secateur("check", "certificate", *files, str(path))
                size, check = str(path.stat().st_size), f"{time.perf_counter() - started:.2f}"
                if done.returncode:
                    check, failed = "rejected", True
            failed = failed or (proved[0] == "unsat") != path.exists()
        label = f"{benchmark} {Path(network).name} {Path(prop).name}"
        print(f"{label[:61]:62}{cells[0]:>17}{cells[1]:>17}{size:>12}{check:>9}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
