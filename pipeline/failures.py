"""Failures that a model can show, as questions for `minimal.reduce`: a command's, a pass's, the engine's,
onnx2torch's.

Each takes the whole model's failure for its measure: what a part must show is the same kind of failure.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from secateur.formats import onnx_model
from secateur.formats.errors import InputError, SecateurError
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt
from secateur.pipeline.convert.passes.table import Pass
from secateur.pipeline.dispatch.process import run
from secateur.pipeline.minimal import Failure
from secateur.pipeline.onnxrt import Array

Other = Callable[[onnx.ModelProto], Callable[[Array], Array]]
"""Another way of computing a network: from a model to a function [N, inputs] -> [N, outputs]."""

_SAMPLES = 8


def command(model: Model, template: str, *, matches: str | None = None, seconds: float = 60.0) -> Failure:
    """A command, with {onnx} for the model's file, that ends with the same exit code (not 0) as for the whole model, or
    whose output `matches` a regular expression. It may take `seconds`; to be ended for that is a failure, too.

    Raises:
        InputError: no {onnx} in it, no command line, no regular expression; the command cannot be started.
    """
    try:
        words, pattern = shlex.split(template), re.compile(matches or "")
    except (ValueError, re.error) as error:
        raise InputError(f"not a command line or a regular expression: {error}", where=template) from None
    if not words or "{onnx}" not in template:
        raise InputError("expected a command with {onnx} in it", where=template)
    if "/" in words[0]:  # it runs in a folder of its own, but was named from here
        words[0] = str(Path(words[0]).absolute())

    def ends(proto: onnx.ModelProto) -> tuple[object, bool]:
        with tempfile.TemporaryDirectory() as name:
            path = Path(name, "model.onnx")
            onnx_model.write(proto, str(path))
            finished = run([word.replace("{onnx}", str(path)) for word in words], Path(name), seconds=seconds)
            said = finished.stdout.read_text(errors="replace") + finished.stderr.read_text(errors="replace")
            return finished.stopped or finished.code, bool(pattern.search(said))

    if matches is not None:
        return lambda proto: ends(proto)[1]
    expected = ends(model.proto)[0]
    return lambda proto: expected != 0 and ends(proto)[0] == expected


def mismatch(model: Model, other: Other, *, tolerance: float, seed: int) -> Failure:
    """Another way of computing the network that differs from onnxruntime by more than `tolerance` (relative to the
    largest output), or breaks off with the same type of error."""

    def kind(proto: onnx.ModelProto) -> str:
        x = onnxrt.sample_inputs(onnxrt.count_inputs(proto), seed=seed, samples=_SAMPLES)
        try:
            expected = onnxrt.run(proto, x)
        except SecateurError:
            return ""  # no network of its own: nothing to differ from
        try:
            found = other(proto)(x)
        except Exception as error:
            return type(error).__name__
        return "" if onnxrt.difference(expected, np.asarray(found)) <= tolerance else "mismatch"

    expected = kind(model.proto)
    return lambda proto: expected != "" and kind(proto) == expected


def passes(steps: Sequence[Pass]) -> Other:
    """The network after these passes, where they have something to do."""

    def other(proto: onnx.ModelProto) -> Callable[[Array], Array]:
        for step in steps:
            if step.check(proto) is None:
                proto = step.rewrite(proto)
        return onnxrt.Runner(proto)

    return other


def engine(proto: onnx.ModelProto) -> Callable[[Array], Array]:
    """The network as the verification engine computes it, in float64."""
    import torch

    from secateur.pipeline.verify.engine import Engine

    graph = Engine(onnx_model.from_proto(proto)).graph

    def function(x: Array) -> Array:
        with torch.no_grad():
            points = torch.from_numpy(x.astype(np.float64)).view(-1, *graph.input.shape)
            return np.asarray(graph.forward(points).flatten(1).numpy())

    return function


def torch_module(proto: onnx.ModelProto) -> Callable[[Array], Array]:
    """The network as onnx2torch makes it."""
    import torch

    from secateur.pipeline import onnxtorch

    model = onnxtorch.prepared(onnx_model.from_proto(proto))
    module, shape = onnxtorch.module(model).eval(), onnxrt.input_shape(model)

    def function(x: Array) -> Array:
        with torch.no_grad():
            rows = [module(torch.from_numpy(row.reshape(shape).astype(np.float32))) for row in x]
        return np.stack([np.asarray(row.numpy()).reshape(-1) for row in rows])

    return function


OTHERS: dict[str, Other] = {"engine": engine, "torch": torch_module}
"""What can be held against onnxruntime, by name."""
