"""`secateur shrink`: remove dead channels from the graph."""

from __future__ import annotations

import click

from secateur.tools import common, pruning


@click.command(
    epilog="""\b
Examples:
  secateur shrink sparse.onnx -o small.onnx --report
  secateur shrink sparse.onnx -o small.onnx --data digits
  secateur prune magnitude -s 0.5 --granularity channel dense.onnx | secateur shrink > small.onnx"""
)
@common.model_or_stdin_argument
@click.option("--report", is_flag=True, help="Say layer by layer what went and what could not, and why.")
@pruning.compared_options
@common.output_option
def command(
    model: str, report: bool, data: str | None, split: str, samples: int, seed: int, output: str
) -> None:
    """Remove dead neurons and channels from the graph.

    A channel goes when nobody reads it, when it is exactly zero after bias, normalisation and activation, or when
    it is a constant that fits into the bias of every layer that reads it. The result is compared with the
    original in onnxruntime on random inputs drawn from --seed, and on --data (within 1e-4 of the largest output).
    """
    from secateur.formats import onnx_model
    from secateur.pipeline.prune import shrink

    network = onnx_model.read(model)
    real = pruning.samples(data, split, samples, seed)
    result = shrink(network, seed=seed, real_inputs=None if real is None else real.images)
    onnx_model.write(result.proto, output)
    if report:
        for layer in result.layers:
            common.say(layer.summary())
    common.say(result.summary())
