"""`secateur shrink`: remove dead channels from the graph."""

from __future__ import annotations

import click

from secateur.tools import common


@click.command(
    epilog="""\b
Examples:
  secateur shrink sparse.onnx -o small.onnx --report
  secateur prune magnitude -s 0.5 --granularity channel dense.onnx | secateur shrink > small.onnx"""
)
@common.model_or_stdin_argument
@click.option("--report", is_flag=True, help="Say layer by layer what went and what could not, and why.")
@common.seed_option
@common.output_option
def command(model: str, report: bool, seed: int, output: str) -> None:
    """Remove dead neurons and channels from the graph.

    A channel goes when nobody reads it, when it is exactly zero after bias, normalisation and activation, or when
    it is a constant that fits into the bias of every layer that reads it. The result is compared with the
    original in onnxruntime on random inputs drawn from --seed (within 1e-4 of the largest output).
    """
    from secateur.formats import onnx_model
    from secateur.pipeline.prune import shrink

    result = shrink(onnx_model.read(model), seed=seed)
    onnx_model.write(result.proto, output)
    if report:
        for layer in result.layers:
            common.say(layer.summary())
    common.say(result.summary())
