"""Several verifiers at the same instances, and every disagreement settled by replay:

    .venv/bin/python vnncomp_benchmarks/cross_check.py ../benchmarks --verifier crown,marabou --results cross.jsonl

The folder holds benchmarks as run_folder.py reads them; without --instance the ten below are asked. A line of the table
is an instance: what each verifier said and in how many seconds, then what they say together, by the rule of
`secateur verify --verifier a,b`: a witness that holds in onnxruntime refutes an `unsat`, and an `unsat` of a verifier
that is known to err is no evidence alone. Every verifier that was refuted is named below the table, with a folder
that shows it again. Called again with the same --results it goes on. Exit code 1 when what they say together
contradicts known_results.csv.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from run_folder import expected_results

from secateur.formats import instances, streams
from secateur.formats.errors import SecateurError
from secateur.formats.verdict import Record
from secateur.pipeline import campaign, compute, crosscheck, dispatch
from secateur.pipeline.dispatch.foreign import Limits
from secateur.pipeline.questions import How
from secateur.tools.progress import progress

INSTANCES = (
    "acasxu ACASXU_run2a_2_2_batch_2000 prop_2",
    "acasxu ACASXU_run2a_1_1_batch_2000 prop_3",
    "mnist_fc mnist-net_256x2 prop_13_0.03",
    "eran_mnist mnist_relu_9_200 mnist_spec_idx_2626_eps_0.01500",
    "safenlp ruarobot/perturbations_0 ruarobot/hyperrectangle_4514",
    "collins_rul_cnn NN_rul_full_window_20 robustness_2perturbations_delta10_epsilon10_w20",
    "cersyve point_mass_pretrain_con prop_point_mass",
    "oval21 cifar_wide_kw cifar_wide_kw-img1909-eps0.0033986928104575162",
    "sri_resnet_b resnet_3b2_bn_mixup_ssadv_4.0_bs128_lr-1_v2 cifar10_spec_idx_9149_eps_0.00350",
    "sri_resnet_b resnet_3b2_bn_mixup_ssadv_4.0_bs128_lr-1_v2 cifar10_spec_idx_3684_eps_0.00350",
)
"""Benchmark, network, property: fully connected, convolutional and residual networks, with both answers; on those of
oval21 and sri_resnet_b some verifier of the index says `unsat` where a witness exists."""


def main() -> int:
    options = _options()
    compute.configure("cpu", options.threads)
    lines = [line.split() for line in options.instance or INSTANCES]
    names = dispatch.split(options.verifier)
    out = Path(options.results).with_suffix("")
    listing = f"{out}.csv"
    streams.write_bytes(listing, "".join(_listed(options, *line) for line in lines).encode())
    plan = campaign.plan(listing, options.results, verifiers=names)
    memory = compute.memory("cpu")
    how = How(memory=memory, limits=Limits(memory, options.threads or os.cpu_count() or 1))
    records = list(plan.finished)
    with progress(len(plan.pending), "verify") as step:
        for record in campaign.run(plan.pending, options.results, how, log_dir=f"{out}-logs"):
            records.append(record)
            step(f"{record.verifier}: {record.verdict} in {record.seconds:.1f} s")
    threads = options.threads or "as many"
    print(f"{os.cpu_count()} cores, {threads} threads, at most {options.timeout:g} s an instance\n")
    said = {(r.model_sha256, r.property_sha256, r.verifier): r for r in records}
    wrong = 0
    print(" | ".join(["instance", *names, "together", "known"]))
    for k, (benchmark, network, prop) in enumerate(lines):
        jobs = plan.jobs[k * len(names) : (k + 1) * len(names)]
        answers = [said[job.model_sha256, job.property_sha256, job.verifier] for job in jobs]
        together = crosscheck.conclude(answers).verdict
        known = expected_results(Path(options.folder, benchmark, "known_results.csv"))
        expected = known.get((f"onnx/{network}.onnx", f"vnnlib/{prop}.vnnlib"), "")
        wrong += together in ("sat", "unsat") and expected not in ("", together)
        print(" | ".join([f"{benchmark} {network} {prop}", *map(_cell, answers), together, expected or "-"]))
    remarks = Counter(
        f"{r.verifier}: {r.verdict}, {r.message}"
        for r in records
        if r.verdict in ("error", "invalid-witness")
    )
    for remark, count in remarks.items():
        print(f"{count} × {remark}")
    for message in crosscheck.disagreements(plan.jobs, records, f"{out}-disagreements", how):
        print(f"refuted: {message}")
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", help="the folder that holds the benchmarks' folders")
    parser.add_argument("--results", required=True, metavar="R.jsonl", help="records, appended to")
    parser.add_argument("--verifier", default="crown,marabou,neuralsat", help="as of `secateur verify`")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds an instance (default 60)")
    parser.add_argument("--threads", type=int, help="of each verifier")
    parser.add_argument(
        "--instance", action="append", metavar="'BENCHMARK NETWORK PROPERTY'", help="repeatable"
    )
    return parser.parse_args()


def _listed(options: argparse.Namespace, benchmark: str, network: str, prop: str) -> str:
    """A line of an instance list that may stand anywhere."""
    folder = str(Path(options.folder, benchmark, "instances.csv").resolve())
    files = (
        instances.resolve(folder, f"{kind}/{name}.{kind}")
        for kind, name in (("onnx", network), ("vnnlib", prop))
    )
    return ",".join([*files, f"{options.timeout:g}"]) + "\n"


def _cell(record: Record) -> str:
    return f"{record.verdict} {record.seconds:.1f}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SecateurError as error:
        sys.exit(f"cross_check: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
