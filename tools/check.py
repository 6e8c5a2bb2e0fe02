"""`secateur check`: check what others claim."""

from __future__ import annotations

import click

from secateur.tools.common import model_argument, property_argument, say


@click.group("check")
def command() -> None:
    """Check a witness exactly, in onnxruntime."""


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
