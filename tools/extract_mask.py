"""`secateur extract-mask`: the mask of a model that somebody else pruned."""

from __future__ import annotations

import click

from secateur.tools import common


@click.command(
    epilog="""\b
Examples:
  secateur extract-mask dense.onnx pruned.onnx -o m.safetensors
  secateur extract-mask dense.onnx pruned.onnx | secateur mask stats -"""
)
@click.argument("dense", metavar="DENSE")
@click.argument("pruned", metavar="PRUNED")
@common.output_option
def command(dense: str, pruned: str, output: str) -> None:
    """Write the mask by which PRUNED was made of DENSE, by whatever tool: what is zero went.

    Weights are matched by name where all layers' weights have the same names, else by their place in the graph and
    their shape. Weights that are not zero may have changed (retraining): how many have, is said. The mask is of
    DENSE: `secateur apply DENSE M` zeroes what PRUNED has zero.
    """
    from secateur.formats import mask as masks
    from secateur.formats import onnx_model, streams
    from secateur.pipeline.prune.masks import extract

    streams.check_destination(output, binary=True)
    found = extract(onnx_model.read(dense), onnx_model.read(pruned))
    masks.write(found.mask, output)
    common.say(found.summary())
