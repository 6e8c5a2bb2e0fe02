"""A torch module as ONNX, by torch.export and torch's ONNX exporter, and as the function to agree with."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from secateur.formats.errors import InputError, UnsupportedError
from secateur.pipeline.convert.sources.source import (
    NO_SHAPE,
    Array,
    Content,
    Function,
    Options,
    Shape,
    Source,
    line,
)

_OPSET = 18  # what torch's exporter is written in; it converts to others afterwards
_SCRIPT_OPSET = 17  # the last that the TorchScript exporter knows whole
_BATCH_TOLERANCE = 1e-3  # kernels round differently; mixed samples differ by far more


def from_module(module: torch.nn.Module, content: Content, options: Options, kind: str) -> Source:
    """A module in memory.

    Raises:
        InputError: the input's shape is not said, or does not fit.
        UnsupportedError: torch cannot export it.
    """
    shape = said_shape(content, options, "a module")
    program = _export(module.eval(), shape, content.name)
    return from_program(program, content, kind, (1, *shape))


def from_program(
    program: torch.export.ExportedProgram, content: Content, kind: str, shape: Shape | None
) -> Source:
    """An exported program; `shape`, the example's with batch, is None where none is known."""
    proto = _to_onnx(program, content.name)
    if shape is None:
        return Source(proto, content.sha256, kind)
    fixed = isinstance(_first_dimension(program), int)
    return Source(proto, content.sha256, kind, function_of(program.module(), shape, fixed=fixed))


def from_script(module: torch.jit.ScriptModule, content: Content, kind: str, shape: Shape) -> Source:
    """A TorchScript module for inputs of `shape` (with batch), by the exporter for TorchScript: torch.export refuses
    many scripted programs (`prim::If`). Nothing is folded, so that BatchNormalization stays."""
    fits(module, shape, content.name)
    free = batches(module, shape)
    settings: dict[str, Any] = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    if free:
        settings["dynamic_axes"] = {"input": {0: "batch"}, "output": {0: "batch"}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        try:
            torch.onnx.export(
                module,
                (torch.zeros(shape),),
                path,
                dynamo=False,
                opset_version=_SCRIPT_OPSET,
                input_names=["input"],
                output_names=["output"],
                **settings,
            )
        except Exception as error:
            message = f"torch cannot export it to ONNX: {line(error)}"
            raise UnsupportedError(message, where=content.name) from None
        proto = without_traces(onnx.load(path))
    return Source(proto, content.sha256, kind, function_of(module, shape, fixed=not free))


def said_shape(content: Content, options: Options, what: str) -> Shape:
    """The shape that the user said."""
    if options.input_shape is None:
        raise InputError(f"{what} does not tell its input's shape", where=content.name, hint=NO_SHAPE)
    return options.input_shape


def fits(module: Callable[..., Any], shape: Shape, name: str) -> None:
    """Raises InputError where the module does not take a batch of that shape."""
    try:
        with torch.no_grad():
            module(torch.zeros(shape))
    except Exception as error:
        raise InputError(
            f"the module does not take inputs of shape {shape[1:]}: {line(error)}",
            where=name,
            hint="set --input-shape",
        ) from None


def batches(module: Callable[..., Any], shape: Shape) -> bool:
    """Whether two samples together give what they give singly."""
    x = torch.rand(2, *shape[1:], generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            together = _rows(module(x), 2)
            singly = torch.cat([_rows(module(x[i : i + 1]), 1) for i in range(2)])
    except (RuntimeError, ValueError):
        return False
    return together.shape == singly.shape and torch.allclose(together, singly, atol=_BATCH_TOLERANCE)


def function_of(module: Callable[..., Any], shape: Shape, *, fixed: bool) -> Function:
    """A torch callable as a function of flat rows; `fixed` runs them one by one."""

    def function(rows: Array) -> Array:
        x = torch.from_numpy(np.ascontiguousarray(rows, np.float32)).reshape(-1, *shape[1:])
        with torch.no_grad():
            if fixed:
                parts = [_rows(module(row[None]), 1) for row in x]
            else:
                parts = [_rows(module(x), len(x))]
        return np.asarray(torch.cat(parts).numpy())

    return function


def without_traces(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes: they hold stack traces with paths of the machine."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    for part in [graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:], copy.metadata_props[:]
    return copy


def _rows(outputs: Any, count: int) -> torch.Tensor:
    """All outputs of `count` samples side by side."""
    tensors = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    return torch.cat([part.reshape(count, -1) for part in tensors], dim=1)


def _export(module: torch.nn.Module, shape: Shape, name: str) -> torch.export.ExportedProgram:
    """Exported with a dynamic batch where torch can, otherwise with a batch of one."""
    batch = {0: torch.export.Dim("batch")}
    fits(module, (1, *shape), name)
    try:
        return torch.export.export(module, (torch.zeros(2, *shape),), dynamic_shapes=(batch,))
    except Exception:
        try:
            return torch.export.export(module, (torch.zeros(1, *shape),))
        except Exception as error:
            raise UnsupportedError(f"torch cannot export it: {line(error)}", where=name) from None


def _to_onnx(program: torch.export.ExportedProgram, name: str) -> onnx.ModelProto:
    try:
        # unoptimised, since torch's optimiser folds BatchNormalization unasked
        exported = torch.onnx.export(
            program, dynamo=True, optimize=False, verbose=False, opset_version=_OPSET, external_data=False
        )
    except Exception as error:
        raise UnsupportedError(f"torch cannot export it to ONNX: {line(error)}", where=name) from None
    if exported is None:
        raise UnsupportedError("torch exported nothing", where=name)
    return without_traces(exported.model_proto)


def _first_dimension(program: torch.export.ExportedProgram) -> object:
    inputs = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in inputs:
            size = node.meta["val"].shape
            return size[0] if len(size) else 1
    return 1
