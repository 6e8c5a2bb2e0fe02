"""Secateur beside Torch-Pruning and onnxsim: what half of the channels weighs in each.

    pip install --no-deps --target peers torch-pruning onnxsim
    PYTHONPATH=peers .venv/bin/python vnncomp_benchmarks/pruning_peers.py

Each tool takes the same share of every layer's channels by magnitude (L1 here, L2 there), where layers that are tied
lose theirs together, and leaves the outputs alone. Torch-Pruning works on the torch module, which is
exported afterwards as the dense one is for the other two (TorchScript, opset 17, batch normalisations folded where the
exporter does it), so that the same is counted of all: float elements and multiply-adds of the ONNX file. A tool
that is not installed is left out and named. Exits with 1 where Secateur leaves more parameters than another.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx
import torch

from pruning_zoo.export import Variant, export, export_module
from pruning_zoo.measure import parameters
from pruning_zoo.models import ZOO, build
from secateur.formats import onnx_model
from secateur.pipeline import flops
from secateur.pipeline.prune import prune, shrink

Tool = Callable[[str, Path, float], onnx.ModelProto]
"""Network of the zoo, its dense ONNX file, share of channels → the smaller model."""


def secateur(name: str, dense: Path, share: float) -> onnx.ModelProto:
    pruned = prune(
        onnx_model.read(str(dense)), "magnitude", sparsity=share, granularity="channel", scope="layer"
    )
    return shrink(onnx_model.from_proto(pruned.proto)).proto


def torch_pruning(name: str, dense: Path, share: float) -> onnx.ModelProto:
    import torch_pruning as tp

    module, shape = build(name)
    layers = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)]
    pruner = tp.pruner.BasePruner(
        module,
        torch.zeros(1, *shape),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=share,
        global_pruning=False,
        ignored_layers=layers[-1:],
    )
    pruner.step()
    path = dense.with_suffix(".torch_pruning.onnx")
    export_module(module, shape, Variant(name, "torchscript", 17), path)
    return onnx.load(path)


def onnxsim(name: str, dense: Path, share: float) -> onnx.ModelProto:
    import onnxsim

    with contextlib.redirect_stdout(io.StringIO()):
        return onnxsim.apply_structured_pruning(str(dense), sparsity=share, importance_norm="l2")


TOOLS: dict[str, tuple[Tool, str]] = {
    "secateur": (secateur, "prune magnitude --granularity channel --scope layer, then shrink"),
    "torch-pruning": (
        torch_pruning,
        "BasePruner, GroupMagnitudeImportance(p=2), global_pruning=False, last layer ignored",
    ),
    "onnxsim": (onnxsim, "apply_structured_pruning(importance_norm='l2')"),
}
"""Package → how it is called, and the settings in words."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=ZOO, default=["resnet", "densenet"], metavar="NAME")
    parser.add_argument("--sparsity", type=float, default=0.5, help="share of channels (default 0.5)")
    options = parser.parse_args()
    present = {}
    for package, (tool, settings) in TOOLS.items():
        try:
            print(f"{package} {version(package)}: {settings}")
            present[package] = tool
        except PackageNotFoundError:
            print(
                f"{package}: not installed (pip install --no-deps --target peers {package}; PYTHONPATH=peers)"
            )
    print(
        f"\n| network | tool | parameters at {options.sparsity:.0%} | million multiply-adds |\n|---|---|---|---|"
    )
    behind = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.models:
            dense = export(Variant(name, "torchscript", 17), Path(temporary)).path
            assert dense is not None
            before = onnx.load(dense)
            print(_row(name, "dense", before, parameters(before)))
            left = {}
            for package, tool in present.items():
                try:
                    smaller = tool(name, dense, options.sparsity)
                    onnx.checker.check_model(smaller, full_check=True)
                    left[package] = parameters(smaller)
                    print(_row(name, package, smaller, parameters(before)), flush=True)
                except Exception as error:  # another tool's failure is a result, ours ends the run
                    if package == "secateur":
                        raise
                    print(
                        f"| {name} | {package} | {type(error).__name__}: {str(error).splitlines()[0][:90]} | |"
                    )
            behind += [f"{name}: {package}" for package, rest in left.items() if rest < left["secateur"]]
    for line in behind:
        print(f"LESS LEFT BY ANOTHER: {line}")
    return 1 if behind else 0


def _row(name: str, tool: str, proto: onnx.ModelProto, before: int) -> str:
    count, cost = parameters(proto), flops.count(proto).multiply_adds / 1e6
    return f"| {name} | {tool} | {count:,} ({count / before:.1%}) | {cost:.2f} |"


if __name__ == "__main__":
    sys.exit(main())
