"""The passes in order, with the judge behind each source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import onnx

from secateur.formats import onnx_model
from secateur.formats.errors import SecateurError
from secateur.pipeline import onnxrt
from secateur.pipeline.convert import (
    batch,
    batchnorm,
    constants,
    dead,
    flatten,
    identity,
    inputs,
    opset,
    shapes,
    sources,
)
from secateur.pipeline.convert.sources import UNTOLD, Options, Source

TOLERANCE = 1e-4
_Step = tuple[str, Callable[[onnx.ModelProto], str | None], Callable[[onnx.ModelProto], onnx.ModelProto]]
_NAMES: dict[ModuleType, str] = {
    inputs: "inputs",
    constants: "constants",
    identity: "identity",
    dead: "dead",
    batch: "dynamic batch",
    shapes: "shapes",
    flatten: "flatten",
    batchnorm: "batchnorm",
}


@dataclass(frozen=True)
class Converted:
    """The converted model, what each pass did (or why it did not apply), and the worst difference in
    onnxruntime, relative to the largest output."""

    proto: onnx.ModelProto
    passes: dict[str, str]
    difference: float
    nodes_before: int
    source_notes: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What is to be known of the source, what was wished for and could not be done."""
        wished = {"dynamic batch": "the batch is dynamic already", "batchnorm": ""}
        return [*self.source_notes] + [
            f"no {name}: {self.passes[name]}"
            for name, fine in wished.items()
            if self.passes.get(name) not in (None, "done", fine)
        ]

    def summary(self) -> str:
        """One line for people."""
        done = [name for name, outcome in self.passes.items() if outcome == "done"]
        return (
            f"{self.nodes_before} -> {len(self.proto.graph.node)} nodes; passes: {', '.join(done) or 'none'}; "
            f"worst difference {self.difference:.1e}"
        )


def convert(
    source: str,
    *,
    to_opset: int | None = None,
    fold_batchnorm: bool = False,
    dynamic_batch: bool = True,
    options: Options = UNTOLD,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> Converted:
    """Read `source` (a path or `-`, of any format in `sources.FORMATS`) and make it one clean ONNX model.

    Raises:
        InputError: an unreadable source.
        UnsupportedError: a source or operator that cannot be converted, or an opset that cannot be reached.
        CheckFailed: in onnxruntime, on random inputs, the result differs from the source by more than `tolerance`.
    """
    read = sources.read(source, options)
    arguments = {"dynamic_batch": dynamic_batch, "fold_batchnorm": fold_batchnorm, "opset": to_opset}
    result = clean(
        read,
        to_opset=to_opset,
        fold_batchnorm=fold_batchnorm,
        dynamic_batch=dynamic_batch,
        seed=seed,
        tolerance=tolerance,
    )
    onnx_model.add_provenance(result.proto, "convert", arguments | {"source": read.kind}, read.sha256)
    return result


def clean(
    source: Source,
    *,
    to_opset: int | None = None,
    fold_batchnorm: bool = False,
    dynamic_batch: bool = True,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> Converted:
    """The passes, without provenance; see `convert`."""

    def passes(*modules: ModuleType) -> list[_Step]:
        return [(_NAMES[module], module.check, module.rewrite) for module in modules]

    steps = passes(inputs, constants, identity, dead)
    if dynamic_batch:
        steps += passes(batch)
    steps += passes(shapes, flatten, constants, identity, dead)
    if fold_batchnorm:
        steps += passes(batchnorm)
    if to_opset is not None:
        steps.append(
            ("opset", partial(opset.check, target=to_opset), partial(opset.rewrite, target=to_opset))
        )
        steps += passes(constants)  # onnx's converter leaves some to fold
    steps += passes(dead)
    proto, outcomes = source.proto, dict[str, str]()
    for name, check, rewrite in steps:
        reason = check(proto)
        if reason is None:
            proto = rewrite(proto)
        if outcomes.get(name) != "done":
            outcomes[name] = reason or "done"
    if all(outcome != "done" for outcome in outcomes.values()):
        proto = onnx.ModelProto()
        proto.CopyFrom(source.proto)
    reference = source.function or source.proto
    try:
        difference = onnxrt.compare(
            reference, proto, seed=seed, tolerance=tolerance, real_inputs=source.examples
        )
    except SecateurError as error:
        error.hint = error.hint or f"passes: {', '.join(n for n, o in outcomes.items() if o == 'done')}"
        raise
    return Converted(proto, outcomes, difference, len(source.proto.graph.node), source.notes)
