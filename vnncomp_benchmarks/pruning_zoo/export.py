"""Exporting the zoo by both of torch's exporters, and saying which opset really came out."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from pruning_zoo.models import build

TORCHSCRIPT = range(13, 21)
DYNAMO = range(18, 22)


@dataclass(frozen=True)
class Variant:
    """One way of exporting a network.

    `style` is "" (the batch dimension left open), "fixed" (a batch of 1), or, with TorchScript only, "unfolded" (open,
    batch normalisations and constant sub-graphs left as they are).
    """

    model: str
    exporter: str  # "torchscript" or "dynamo"
    opset: int
    style: str = ""

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.model, self.exporter, str(self.opset), self.style)))


@dataclass(frozen=True)
class Exported:
    """A variant's file, the opset found in it; or `reason` why the exporter gave none."""

    variant: Variant
    path: Path | None
    opset: int | None
    reason: str = ""


def export(variant: Variant, folder: Path) -> Exported:
    """Export into `folder`, or take the file from there if an earlier run left it."""
    path = folder / f"{variant.name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        try:
            export_module(*build(variant.model), variant, temporary)
        except Exception as error:  # whatever an exporter raises is a finding of its own
            temporary.unlink(missing_ok=True)
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            return Exported(variant, None, None, f"not exported: {line[:150]}")
        temporary.rename(path)
    imports = onnx.load(path, load_external_data=False).opset_import
    return Exported(variant, path, next(entry.version for entry in imports if entry.domain == ""))


def export_module(module: nn.Module, shape: tuple[int, ...], variant: Variant, path: Path) -> None:
    """Export `module`, whose inputs have `shape` (without the batch), in the way of the variant."""
    free = variant.style != "fixed"
    sample = (torch.zeros(2 if free else 1, *shape),)
    names = {"input_names": ["input"], "output_names": ["output"]}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if variant.exporter == "torchscript":
            settings: dict[str, Any] = (
                {"dynamic_axes": {"input": {0: "batch"}, "output": {0: "batch"}}} if free else {}
            )
            if variant.style == "unfolded":
                settings |= {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
            torch.onnx.export(
                module, sample, str(path), opset_version=variant.opset, dynamo=False, **names, **settings
            )
            return
        shapes = ({0: torch.export.Dim("batch")},) if free else None
        program = torch.onnx.export(
            module,
            sample,
            opset_version=variant.opset,
            dynamo=True,
            dynamic_shapes=shapes,
            verbose=False,
            **names,
        )
        assert program is not None
        program.save(str(path), external_data=False)
