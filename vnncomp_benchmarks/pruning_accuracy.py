"""Accuracy after one-shot pruning without retraining, for every criterion: a Markdown table, JSON lines and a plot.

    .venv/bin/python vnncomp_benchmarks/pruning_accuracy.py --out accuracy
    .venv/bin/python vnncomp_benchmarks/pruning_accuracy.py --digits --out accuracy

Trains an MNIST LeNet and a CIFAR-10 CNN (three Conv-BN-ReLU) with `pipeline.train` on a part of the data from
$SECATEUR_DATA (folder of mnist.npz and cifar10.npz), or with --digits the CNN on the embedded digits, in seconds. Each
is pruned at --sparsities by every criterion in the table: single weights and channels by criteria that score weights,
channels by those that score channels, all layers together (global scope). Criteria with data see --samples training
images; accuracy is measured on test images that nothing else sees. Random is the mean of three seeds; SynFlow is done
in many steps, too, as its source does it. Each JSON line has the SHA-256 of the pruned file: with the same arguments it
must come out the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from secateur.formats import dataset, onnx_model
from secateur.formats.errors import InputError
from secateur.pipeline.prune import prune
from secateur.pipeline.prune.criteria import CRITERIA, Samples
from secateur.pipeline.train.evaluate import evaluate
from secateur.pipeline.train.loop import train
from secateur.pipeline.train.settings import Settings
from secateur.pipeline.train.start import starting_model

RANDOM_SEEDS = 3
SYNFLOW_STEPS = 20
FAMILIES = {
    "single weights": ("weight", ("lamp", "snip", "taylor", "grasp", "synflow", f"synflow ×{SYNFLOW_STEPS}", "hydra")),
    "channels: scores of weights, summed up": ("channel", ("lamp", "snip", "taylor", "grasp", "synflow", "hydra")),
    "channels: filters and what they do": (
        "channel", ("bn-scale", "fpgm", "cosine", "activation", "apoz", "taylor-channel"),
    ),
    "channels: stability within ε": ("channel", ("instability", "rs", "nrs", "unstable", "bound-width")),
}  # fmt: skip
"""The plot's panels: granularity, criteria. Random and magnitude are in each, for comparison."""
COLOURS = ("#1e3a8a", "#3b82f6", "#0f766e", "#d97706", "#9f1239", "#a855f7", "#65a30d")


@dataclass(frozen=True)
class Case:
    """A network to train: its architecture, data (a file below $SECATEUR_DATA, or `digits`), how many images, ε."""

    name: str
    architecture: str
    data: str
    images: int
    epochs: int
    epsilon: float


CASES = (
    Case("MNIST LeNet", "mnist_lenet", "mnist.npz", 20_000, 4, 0.02),
    Case("CIFAR-10 CNN", "digits_cnn", "cifar10.npz", 15_000, 8, 2 / 255),
)
DIGITS = Case("digits CNN", "digits_cnn", "digits", 1_400, 10, 0.02)


@dataclass(frozen=True)
class Record:
    """One pruned network; `accuracy` on the test images, `zeros` the share of the masked parameters that went."""

    network: str
    criterion: str
    granularity: str
    sparsity: float
    accuracy: float
    dense: float
    zeros: float
    seed: int
    seconds: float
    sha256: str


def main() -> int:
    arguments = _arguments()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    with (out / "accuracy.jsonl").open("w") as lines:
        for case in (DIGITS,) if arguments.digits else CASES:
            for record in _measure(case, arguments):
                lines.write(json.dumps(asdict(record)) + "\n")
                lines.flush()
                records.append(record)
                print(f"{_label(record)} {record.accuracy:.3f} {record.seconds:.1f} s", file=sys.stderr)
    text = table(records)
    (out / "accuracy.md").write_text(text)
    plot(records, out / "accuracy.png")
    print(text)
    return 0


def _measure(case: Case, arguments: argparse.Namespace) -> Iterator[Record]:
    folder = Path(os.environ.get("SECATEUR_DATA", "."))
    source = case.data if case.data == "digits" else str(folder / case.data)
    training = dataset.load(source, "train", case.images)
    test = dataset.load(source, "test", arguments.test)
    started = time.process_time()
    settings = Settings(epochs=case.epochs, seed=arguments.seed)
    model = train(starting_model(case.architecture, training, arguments.seed), training, settings).model
    dense = evaluate(model, test).accuracy
    print(
        f"{case.name}: {dense:.2%} on {len(test)} test images, {time.process_time() - started:.0f} CPU s",
        file=sys.stderr,
    )
    samples = Samples(training.images[: arguments.samples], training.labels[: arguments.samples])
    for name, granularity, settings_of in _runs():
        chosen = {"granularity": granularity, "data": samples, "epsilon": case.epsilon, **settings_of}
        for sparsity in arguments.sparsities:
            for seed in range(arguments.seed, arguments.seed + (RANDOM_SEEDS if name == "random" else 1)):
                started = time.process_time()
                try:
                    result = prune(model, name.split()[0], sparsity=sparsity, seed=seed, **chosen)
                except InputError as reason:  # such as no BatchNormalization to look at
                    print(reason, file=sys.stderr)
                    continue
                seconds = time.process_time() - started
                digest = hashlib.sha256(onnx_model.to_bytes(result.proto)).hexdigest()
                accuracy = evaluate(onnx_model.from_proto(result.proto, case.name), test).accuracy
                yield Record(
                    case.name, name, granularity, sparsity, accuracy, dense, result.mask.sparsity, seed, seconds, digest
                )  # fmt: skip


def _runs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Criterion, granularity and settings of each row."""
    for name, row in CRITERIA.items():
        if row.unit == "weight":
            yield name, "weight", {}
        if row.unit != "block":
            yield name, "channel", {}
    yield f"synflow ×{SYNFLOW_STEPS}", "weight", {"steps": SYNFLOW_STEPS}


def _label(record: Record) -> str:
    return f"{record.network}: {record.criterion}, {record.granularity}, {record.sparsity:.0%}:"


def _accuracies(records: Sequence[Record]) -> dict[tuple[str, str], dict[float, float]]:
    """Accuracy by criterion and granularity, by sparsity; means over seeds."""
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    for record in records:
        places = found.setdefault((record.criterion, record.granularity), {})
        places.setdefault(record.sparsity, []).append(record.accuracy)
    return {key: {s: fmean(values) for s, values in places.items()} for key, places in found.items()}


def table(records: Sequence[Record]) -> str:
    """Markdown: for every network and granularity the criteria, best first, with their accuracy at each sparsity."""
    sparsities = sorted({record.sparsity for record in records})
    lines = []
    for network in dict.fromkeys(record.network for record in records):
        mine = [record for record in records if record.network == network]
        lines += [f"### {network} ({mine[0].dense:.1%} dense)", ""]
        for granularity in ("weight", "channel"):
            rows = [(key[0], at) for key, at in _accuracies(mine).items() if key[1] == granularity]
            lines.append(f"| {granularity}s | " + " | ".join(f"{s:.0%}" for s in sparsities) + " |")
            lines.append("|---|" + "---:|" * len(sparsities))
            for name, at in sorted(rows, key=lambda row: -sum(row[1].values())):
                lines.append(f"| {name} | " + " | ".join(f"{at[s]:.1%}" for s in sparsities) + " |")
            lines.append("")
    return "\n".join(lines)


def plot(records: Sequence[Record], path: Path) -> None:
    """Accuracy against sparsity: a row of panels a network, a panel a family of criteria."""
    from matplotlib.figure import Figure

    networks = list(dict.fromkeys(record.network for record in records))
    figure = Figure(figsize=(4.2 * len(FAMILIES), 3.9 * len(networks)), layout="constrained")
    axes = figure.subplots(len(networks), len(FAMILIES), squeeze=False, sharey="row")
    for row, network in zip(axes, networks, strict=True):
        mine = [record for record in records if record.network == network]
        found, dense = _accuracies(mine), mine[0].dense
        for axis, (title, (granularity, names)) in zip(row, FAMILIES.items(), strict=True):
            styles = [("random", "#94a3b8", ":"), ("magnitude", "#334155", "--")]
            styles += [(name, colour, "-") for name, colour in zip(names, COLOURS, strict=False)]
            for name, colour, dash in styles:
                at = found.get((name, granularity))
                if at:
                    x, y = [0.0, *sorted(at)], [dense, *(at[s] for s in sorted(at))]
                    axis.plot(
                        [100 * s for s in x],
                        [100 * a for a in y],
                        dash,
                        color=colour,
                        marker="o",
                        ms=3,
                        label=name,
                    )
            axis.set_title(f"{network}\n{title}", fontsize=10)
            axis.set_xlabel("pruned (%)")
            axis.set_ylim(0, 102)
            axis.grid(color="#e2e8f0")
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(frameon=False, fontsize=8)
        row[0].set_ylabel("test accuracy (%)")
    figure.savefig(path, dpi=110)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--digits", action="store_true", help="the embedded digits alone: seconds, no files")
    parser.add_argument("--out", default="pruning_accuracy", help="folder for accuracy.md, .jsonl and .png")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.8, 0.9])
    parser.add_argument("--samples", type=int, default=512, help="training images that criteria see")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
