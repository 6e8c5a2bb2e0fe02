"""The passes in order, with the judge behind each of them and behind the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import onnx

from secateur.formats import onnx_model
from secateur.formats.errors import SecateurError
from secateur.pipeline import onnxgraph
from secateur.pipeline.convert import sources, targets
from secateur.pipeline.convert.judge import Judge
from secateur.pipeline.convert.passes import table as passes
from secateur.pipeline.convert.passes.table import Pass
from secateur.pipeline.convert.sources import UNTOLD, Options, Source

TOLERANCE = 1e-4
HALF_TOLERANCE = 1e-2
"""Of float16, which keeps three digits: onnxruntime fuses its nodes, and so rounds, otherwise in another opset."""


@dataclass(frozen=True)
class Converted:
    """The converted model, what each pass did (or why it did not apply), the worst difference of each that did, and the
    worst difference in all, in onnxruntime, relative to the largest output."""

    proto: onnx.ModelProto
    passes: dict[str, str]
    difference: float
    nodes_before: int
    differences: dict[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What is to be known of the source, what could not be done, and what is no longer the same function."""
        wished = {"batch": "the batch is dynamic already", "batchnorm": "", "maxpool": "no MaxPool"}
        notes = [*self.remarks]
        notes += [
            f"no {_LONG.get(name, name)}: {self.passes[name]}"
            for name, fine in wished.items()
            if self.passes.get(name) not in (None, "done", fine)
        ]
        if "float32" in self.differences:
            notes.append(f"float32: the results differ by up to {self.differences['float32']:.1e}")
        return notes

    def summary(self) -> str:
        """One line for people."""
        done = [_LONG.get(name, name) for name, outcome in self.passes.items() if outcome == "done"]
        return (
            f"{self.nodes_before} -> {len(self.proto.graph.node)} nodes; passes: {', '.join(done) or 'none'}; "
            f"worst difference {self.difference:.1e}"
        )


_LONG = {"batch": "dynamic batch"}


def canonical(
    *, to_opset: int | None = None, fold_batchnorm: bool = False, dynamic_batch: bool = True
) -> tuple[Pass, ...]:
    """The passes of the canonical form, in order."""
    words = ["inputs,functions,constants,identity,dead", "batch" if dynamic_batch else ""]
    words += ["shapes,flatten,constants,identity,dead", "batchnorm" if fold_batchnorm else ""]
    if to_opset is not None:
        words.append(f"opset={to_opset},constants")  # onnx's converter leaves some to fold
    return passes.named(",".join([*words, "dead"]))


def convert(
    source: str,
    *,
    steps: Sequence[Pass] | None = None,
    target: str | None = None,
    to_opset: int | None = None,
    fold_batchnorm: bool = False,
    dynamic_batch: bool = True,
    options: Options = UNTOLD,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> Converted:
    """Read `source` (a path or `-`, of any format in `sources.FORMATS`) and make it one clean ONNX model: by `steps`,
    by what the verifier `target` needs, or in canonical form.

    Raises:
        InputError: an unreadable source; an unknown target.
        UnsupportedError: a source or operator that cannot be converted, or an opset that cannot be reached.
        CheckFailed: in onnxruntime, on random inputs, a pass changes the result by more than `tolerance`.
    """
    if target is not None:
        steps = passes.named(targets.target(target).passes)
        if to_opset is not None:
            steps = [*(step for step in steps if step.name != "opset"), *passes.named(f"opset={to_opset}")]
    read = sources.read(source, options)
    result = clean(
        read,
        steps=steps,
        to_opset=to_opset,
        fold_batchnorm=fold_batchnorm,
        dynamic_batch=dynamic_batch,
        seed=seed,
        tolerance=tolerance,
    )
    arguments: dict[str, object] = {"source": read.kind}
    if target is not None:
        arguments["for"] = target
        if unread := targets.target(target).unread(result.proto):
            remark = f"left is what {target} does not read: {', '.join(unread)}"
            result = replace(result, remarks=(*result.remarks, remark))
    elif steps is not None:
        arguments["passes"] = [step.written for step in steps]
    else:
        arguments |= {"dynamic_batch": dynamic_batch, "fold_batchnorm": fold_batchnorm, "opset": to_opset}
    onnx_model.add_provenance(result.proto, "convert", arguments, read.sha256)
    return result


def clean(
    source: Source,
    *,
    steps: Sequence[Pass] | None = None,
    to_opset: int | None = None,
    fold_batchnorm: bool = False,
    dynamic_batch: bool = True,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> Converted:
    """The passes, without provenance; see `convert`."""
    if steps is None:
        steps = canonical(to_opset=to_opset, fold_batchnorm=fold_batchnorm, dynamic_batch=dynamic_batch)
    if onnx.TensorProto.FLOAT16 in onnxgraph.element_types(source.proto).values():
        tolerance = max(tolerance, HALF_TOLERANCE)
    judge = Judge(source.proto, seed, tolerance, source.examples)
    if source.function is not None:
        judge.export(source.function)
    proto, outcomes, differences = source.proto, dict[str, str](), dict[str, float]()
    for step in steps:
        reason = step.check(proto)
        if reason is None:
            proto = _rewritten(step, proto)
            differences[step.name] = max(differences.get(step.name, 0.0), judge.step(proto, step))
        if outcomes.get(step.name) != "done":
            outcomes[step.name] = reason or "done"
    if all(outcome != "done" for outcome in outcomes.values()):
        proto = onnx.ModelProto()
        proto.CopyFrom(source.proto)
    return Converted(proto, outcomes, judge.whole(), len(source.proto.graph.node), differences, source.notes)


def _rewritten(step: Pass, proto: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return step.rewrite(proto)
    except SecateurError as error:
        error.hint = error.hint or f"in pass '{step.written}'"
        raise
