"""`secateur check`: check what others claim."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import click

from secateur.tools.common import model_argument, property_argument, say
from secateur.tools.progress import progress

MANY = 2_000
"""Leaves of a certificate from which its check shows how far it is."""


@click.group("check")
def command() -> None:
    """Check a witness exactly, in onnxruntime; or a certificate of 'unsat', step by step."""


@command.command(
    epilog="""\b
Examples:
  secateur check witness net.onnx prop.vnnlib witness.txt
  secateur verify net.onnx prop.vnnlib --witness w.txt && secateur check witness net.onnx prop.vnnlib w.txt
  gunzip -c net.onnx.gz | secateur check witness - prop.vnnlib witness.txt"""
)
@model_argument
@property_argument
@click.argument("file", metavar="FILE")
def witness(model: str, prop: str, file: str) -> None:
    """Replay the inputs of FILE, ((X_0 value) … ), on MODEL and evaluate PROPERTY exactly.

    Exit code 0 when the property holds there (the verdict 'sat' is right), 1 when not: then the input bound
    or the atoms that fail are named. Outputs stated in FILE are recomputed.
    """
    from secateur.formats import onnx_model, vnnlib
    from secateur.formats import witness as witness_format
    from secateur.pipeline import onnxrt, witnesses

    network = onnx_model.read(model)
    query = vnnlib.read(prop, inputs=onnxrt.count_inputs(network), outputs=onnxrt.count_outputs(network))
    x, _ = witness_format.read(file)
    y = witnesses.check(network, query, x, file)
    shown = ", ".join(f"Y_{index} = {value:.6g}" for index, value in enumerate(y[:10].tolist()))
    say(f"the witness holds: {shown}{', …' if len(y) > 10 else ''}")


@command.command(
    epilog="""\b
Examples:
  secateur verify net.onnx prop.vnnlib --certificate proof.npz
  secateur check certificate net.onnx prop.vnnlib proof.npz
  gunzip -c net.onnx.gz | secateur check certificate - prop.vnnlib proof.npz"""
)
@model_argument
@property_argument
@click.argument("file", metavar="FILE")
def certificate(model: str, prop: str, file: str) -> None:
    """Check that FILE proves that no input of MODEL satisfies PROPERTY.

    Exit code 0 when every step holds (the verdict 'unsat' is right), 1 when not: then the first region, clause and leaf
    that fails is named. The checker reads the network by itself, computes every bound anew with its own margins for
    rounding, and shares no code with the verifier that wrote FILE but the readers of files.
    """
    from secateur.formats import certificate as certificate_format
    from secateur.formats import onnx_model, vnnlib
    from secateur.pipeline.certificate import check, ignored

    started = time.perf_counter()
    proof = certificate_format.read(file)
    leaves = sum(len(region.box) for region in proof.regions if region is not None)
    with _percents(leaves) if leaves > MANY else nullcontext(ignored) as told:
        found = check(onnx_model.read(model), vnnlib.read(prop), proof, file, told)
    seconds = time.perf_counter() - started
    say(
        f"the certificate holds: {found.regions} regions, {found.clauses} clauses, {found.leaves} leaves, "
        f"least margin {found.margin:.3g}, {seconds:.2f} s"
    )


@contextmanager
def _percents(leaves: int) -> Iterator[Callable[[int], None]]:
    """Progress in hundredths of so many leaves; the yielded function takes how many more are done."""
    done = shown = 0
    with progress(100, "check") as step:

        def told(more: int) -> None:
            nonlocal done, shown
            done += more
            while shown < 100 * done // leaves:
                shown += 1
                step(f"{done} of {leaves} leaves")

        yield told
