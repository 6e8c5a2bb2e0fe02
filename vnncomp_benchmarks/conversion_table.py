"""Export networks in every way that `secateur convert` reads, convert each, and print what became of them.

    .venv/bin/python vnncomp_benchmarks/conversion_table.py --all --results conversion.jsonl

Networks: of the pruning zoo and of `secateur train` (by torch.export, by both of torch's ONNX exporters at every opset
they know, as TorchScript archives, pickles and weights), of Keras and scikit-learn (where these are installed), and
.nnet files (those of --nnet, too). Each file is converted to every target opset of --targets; 0 leaves it as it is. A
difference is that of the converted model in onnxruntime from the network in its own package, relative to the largest
output, the worst on 16 random inputs. Exits with 1 if a file that its exporter wrote is not converted, or differs by
more than --tolerance (float16: a hundredfold).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

import numpy as np

from conversion_zoo import foreign_cases, torch_cases
from conversion_zoo.case import Case
from secateur.formats import onnx_model
from secateur.formats.errors import SecateurError
from secateur.pipeline import onnxgraph, onnxrt
from secateur.pipeline.convert import convert

SAMPLES = 16
QUICK = (7, 9, 11, 13, 17, 18, 20, 23)
NETWORKS = (*torch_cases.ZOO, *torch_cases.OURS, "foreign")


@dataclass
class Record:
    """What became of one file on the way to one opset (0: as it is)."""

    network: str
    source: str
    exporter: str
    opset: int | None
    target: int
    exported: bool = True
    converts: bool = False
    difference: float | None = None
    nodes: int | None = None
    seconds: float | None = None
    reason: str = ""


def measure(case: Case, targets: list[int], folder: Path) -> Iterator[Record]:
    """Export, convert to each target, compare with the network in its own package."""
    path = folder / f"network{case.suffix}"
    known = (case.network, case.source, case.exporter, case.opset)
    try:
        case.write(path)
    except Exception as error:  # whatever an exporter raises is a finding of its own
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        yield from (Record(*known, target, exported=False, reason=line[:150]) for target in targets)
        return
    for target in targets:
        record = Record(*known, target)
        start = time.perf_counter()
        try:
            proto = convert(str(path), to_opset=target or None, options=case.options).proto
            record.seconds = round(time.perf_counter() - start, 3)
            onnx_model.to_bytes(proto)
            rows = onnxrt.sample_inputs(onnxrt.count_inputs(proto), seed=1, samples=SAMPLES) * case.scale
            rows = rows.astype(np.float32)
            record.difference = onnxrt.difference(case.function(rows), onnxrt.run(proto, rows))
            record.nodes = len(proto.graph.node)
            record.converts = not target or onnxgraph.opset(proto) == target
        except SecateurError as error:
            record.reason = str(error)
        yield record


def table(records: Iterable[Record], targets: list[int]) -> Iterator[str]:
    """A row for neighbouring opsets of an exporter that fared the same."""
    titles = ["as it is" if not target else f"to opset {target}" for target in targets]
    yield f"| source | exporter | its opset | exported | {' | '.join(titles)} |"
    yield "|---" * (4 + len(targets)) + "|"
    groups: dict[tuple[str, str, int | None], list[Record]] = {}
    for record in records:
        groups.setdefault((record.source, record.exporter, record.opset), []).append(record)
    rows: list[tuple[tuple[str, ...], list[int | None], list[list[float]]]] = []
    for (source, exporter, opset), group in groups.items():
        cells, worst = [_count(r.exported for r in group if r.target == targets[0])], []
        for target in targets:
            files = [record for record in group if record.target == target and record.exported]
            cells.append(_count(record.converts for record in files))
            worst.append([r.difference for r in files if r.difference is not None])
        key = (source, exporter, *cells)
        if rows and rows[-1][0] == key and opset is not None:
            rows[-1][1].append(opset)
            rows[-1] = (key, rows[-1][1], [a + b for a, b in zip(rows[-1][2], worst, strict=True)])
        else:
            rows.append((key, [opset], worst))
    for (source, exporter, exported, *converted), opsets, found in rows:
        low, high = opsets[0], opsets[-1]
        opset = "–" if low is None else f"{low}" if low == high else f"{low}–{high}"
        cells = [f"{count}, {max(d):.0e}" if d else count for count, d in zip(converted, found, strict=True)]
        yield f"| {' | '.join([source, exporter, opset, exported, *cells])} |"


def _count(flags: Iterable[bool]) -> str:
    values = list(flags)
    return f"{sum(values)} of {len(values)}" if values else "–"


def main() -> int:
    options = _arguments()
    targets = list(dict.fromkeys(options.targets))
    chosen = options.networks or NETWORKS
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as temporary:
        opsets = range(100) if options.all else QUICK
        cases = (case for name in chosen if name != "foreign" for case in torch_cases.cases(name, opsets))
        foreign = foreign_cases.cases(options.nnet) if "foreign" in chosen else iter(())
        for case in chain(cases, foreign):
            found = list(measure(case, targets, Path(temporary)))
            records += found
            if options.results:
                with options.results.open("a") as stream:
                    stream.writelines(json.dumps(asdict(r), sort_keys=True) + "\n" for r in found)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    packages = ("torch", "onnx", "onnxruntime", "onnxscript", "keras", "scikit-learn", "skl2onnx")
    print(", ".join(f"{package} {_version(package)}" for package in packages), "\n")
    print(*table(records, targets), sep="\n")
    exported = [record for record in records if record.exported]
    bad = [record for record in exported if not _fine(record, options.tolerance)]
    print(
        f"\n{len(exported)} conversions of files that were exported, {len(bad)} failed; not exported: "
        f"{len({(r.network, r.source, r.exporter, r.opset) for r in records if not r.exported})} files"
    )
    for record in bad:
        target = f"to opset {record.target}" if record.target else "as it is"
        name = f"{record.network}, {record.source}, {record.exporter}, {record.opset or '–'}, {target}"
        print(f"FAILED {name}: {record.reason or f'differs by {record.difference:.1e}'}")
    return 1 if bad else 0


def _fine(record: Record, tolerance: float) -> bool:
    allowed = tolerance * (100 if "float16" in record.source else 1)
    return record.converts and record.difference is not None and record.difference <= allowed


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, metavar="NAME", help=f"only these of {', '.join(NETWORKS)}"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"every opset of torch's exporters, not only {', '.join(map(str, QUICK))}",
    )
    parser.add_argument(
        "--targets", nargs="+", type=int, default=[0, 13, 20], metavar="N", help="target opsets; 0: as it is"
    )
    parser.add_argument("--nnet", type=Path, metavar="DIR", help="also the .nnet files of this folder")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of the largest output (default 1e-4)")
    parser.add_argument("--results", type=Path, metavar="JSONL", help="append a JSON object a conversion")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
