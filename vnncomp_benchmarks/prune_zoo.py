"""Prune a zoo of networks by channel and print what it brought: a Markdown table, and a JSON line a file.

    .venv/bin/python vnncomp_benchmarks/prune_zoo.py --results zoo.jsonl
    .venv/bin/python vnncomp_benchmarks/prune_zoo.py --all --keep exported

Small networks of a dozen families with seeded random weights (pruning_zoo/) are exported by torch, by TorchScript
(opsets 13 to 20) and by dynamo (18 to 21); the opset that came out is read from the file. Networks of the shared
benchmarks are taken from $SECATEUR_DATA. In each, the share --sparsity of every layer's channels goes, those of least
magnitude first (`prune magnitude --granularity channel --scope layer`), then `shrink` removes them. The result must
pass ONNX's checker and agree with the masked network in onnxruntime; layers that kept all their channels are counted by
reason. A multiply-add is two FLOPs. Exits with 1 if anything is broken, or left alone without a reason.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from pruning_zoo.export import DYNAMO, TORCHSCRIPT, Variant, export
from pruning_zoo.measure import Record, measure
from pruning_zoo.models import ZOO

ROOT = Path(__file__).resolve().parent.parent
SHARED = (
    "cifar10_resnet/onnx/resnet_2b.onnx",
    "cifar10_resnet/onnx/resnet_4b.onnx",
    "sri_resnet_b/onnx/resnet_3b2_bn_mixup_ssadv_4.0_bs128_lr-1_v2.onnx",
    "cgan/onnx/cGAN_imgSz32_nCh_1.onnx",
    "vit/onnx/ibp_3_3_8.onnx",
    "vit/onnx/pgd_2_3_16.onnx",
    "collins_rul_cnn/onnx/NN_rul_full_window_20.onnx",
    "collins_rul_cnn/onnx/NN_rul_full_window_40.onnx",
    "collins_rul_cnn/onnx/NN_rul_small_window_20.onnx",
    "oval21/onnx/cifar_base_kw.onnx",
    "oval21/onnx/cifar_deep_kw.onnx",
    "oval21/onnx/cifar_wide_kw.onnx",
)


def variants(name: str, everything: bool) -> Iterator[Variant]:
    """The ways in which a network is exported; the quick look leaves most opsets out."""
    for opset in TORCHSCRIPT if everything else (17,):
        yield Variant(name, "torchscript", opset)
    yield Variant(name, "torchscript", 17, "fixed")
    yield Variant(name, "torchscript", 17, "unfolded")
    for opset in DYNAMO if everything else (18,):
        yield Variant(name, "dynamo", opset)
    if everything:
        yield Variant(name, "dynamo", 18, "fixed")


def zoo(options: argparse.Namespace, folder: Path) -> Iterator[Record]:
    """Export and measure; a file that torch does not export, or exports in another opset, is broken."""
    chosen = [variant for name in options.models or ZOO for variant in variants(name, options.all)]
    for variant in chosen:
        if variant.exporter not in options.exporters:
            continue
        exported = export(variant, folder)
        record = Record(
            variant.name,
            variant.model,
            variant.exporter,
            exported.opset,
            variant.style,
            broken=exported.reason,
        )
        if exported.path is not None:
            measure(record, exported.path, options.sparsity, options.granularity)
            if exported.opset != variant.opset and not record.broken:
                record.broken = f"opset {exported.opset} came out, {variant.opset} was asked for"
        yield record


def shared(options: argparse.Namespace) -> Iterator[Record]:
    """The networks of the shared benchmarks; one that is not there is skipped, and says so."""
    data = Path(os.environ.get("SECATEUR_DATA", ROOT.parent / "shared" / "data")) / "benchmarks"
    for name in SHARED:
        path = data / name
        record = Record(name, f"{path.parts[-3]}: {path.stem}", "", None)
        if path.exists():
            imports = onnx.load(path).opset_import
            record.opset = next(entry.version for entry in imports if entry.domain == "")
            measure(record, path, options.sparsity, options.granularity)
        else:
            record.refused = "skipped: not found (set SECATEUR_DATA to the folder that holds benchmarks/)"
        yield record


HEADER = (
    "| network | exported by | opset | parameters | million multiply-adds | ms | difference | left alone |\n"
    "|---|---|---|---|---|---|---|---|"
)


def table(records: Iterable[Record]) -> Iterator[str]:
    """Rows of the table: files that differ only in the opset share one, with the range of what differs."""
    kinds: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        reasons = "; ".join(f"{count} × {reason}" for reason, count in sorted(record.left_alone.items()))
        key = (record.model, record.exporter, record.style, record.refused, record.broken, reasons)
        kinds.setdefault(key, []).append(record)
    for (model, exporter, style, refused, broken, reasons), group in kinds.items():
        cells = [model, f"{exporter} {style}".strip(), _range([record.opset or 0 for record in group])]
        if group[0].parameters is None:
            yield " | ".join(["|", *cells, *["–"] * 4, f"**{broken}**" if broken else refused, "|"])
            continue
        cells.append(_change([record.parameters for record in group], "{:,}"))
        millions = [[cost / 1e6 for cost in record.multiply_adds or ()] for record in group]
        cells.append(_change(millions, "{:.2f}"))
        cells.append(_change([record.milliseconds for record in group], "{:.2f}"))
        cells.append(f"{max(record.difference or 0.0 for record in group):.0e}")
        kept = sum(group[0].left_alone.values())
        cells.append(f"{kept} of {group[0].layers}: {reasons}" + (f" **{broken}**" if broken else ""))
        yield f"| {' | '.join(cells)} |"


def _range(values: Sequence[float], pattern: str = "{}") -> str:
    low, high = pattern.format(min(values)), pattern.format(max(values))
    return low if low == high else f"{low}–{high}"


def _change(pairs: Sequence[Sequence[float] | None], pattern: str) -> str:
    known = [pair for pair in pairs if pair]
    share = _range([after / before for before, after in known], "{:.0%}")
    before, after = (_range([pair[i] for pair in known], pattern) for i in (0, 1))
    return f"{before} → {after} ({share})"


def main() -> int:
    options = _arguments()
    print(
        f"{os.cpu_count()} cores, 1 thread; {options.granularity}s at {options.sparsity:.0%}, "
        f"{_versions('torch', 'onnx', 'onnxruntime', 'onnxscript')}\n"
    )
    with tempfile.TemporaryDirectory() as temporary:
        records = [
            *zoo(options, options.keep or Path(temporary)),
            *([] if options.models else shared(options)),
        ]
    print(HEADER, *table(records), sep="\n")
    if options.results:
        lines = [json.dumps(_plain(record, options), sort_keys=True) + "\n" for record in records]
        options.results.write_text("".join(lines))
    broken = [record for record in records if record.broken]
    refused = sum(1 for record in records if record.refused)
    worst = max((record.difference or 0.0 for record in records), default=0.0)
    print(f"\n{len(records)} files, {refused} refused, {len(broken)} broken; worst difference {worst:.1e}")
    for record in broken:
        print(f"BROKEN {record.file}: {record.broken}")
    return 1 if broken else 0


def _plain(record: Record, options: argparse.Namespace) -> dict[str, Any]:
    return asdict(record) | {"sparsity": options.sparsity, "granularity": options.granularity}


def _versions(*packages: str) -> str:
    from importlib.metadata import version

    return ", ".join(f"{package} {version(package)}" for package in packages)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="every exporter, opset and style")
    parser.add_argument(
        "--models", nargs="+", choices=ZOO, metavar="NAME", help=f"only these of {', '.join(ZOO)}"
    )
    exporters = ("torchscript", "dynamo")
    parser.add_argument("--exporters", nargs="+", choices=exporters, default=exporters, help="only these")
    parser.add_argument(
        "--sparsity", type=float, default=0.5, help="share of each layer's units (default 0.5)"
    )
    parser.add_argument("--granularity", default="channel", help="channel (default) or head")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the exported files, and use those kept"
    )
    parser.add_argument("--results", type=Path, metavar="JSONL", help="write a JSON object a file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
