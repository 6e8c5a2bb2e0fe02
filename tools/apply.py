"""`secateur apply`: zero what a mask says."""

from __future__ import annotations

import click

from secateur.tools import common, pruning


@click.command(
    epilog="""\b
Examples:
  secateur apply dense.onnx m.safetensors -o sparse.onnx
  secateur apply - m.safetensors --force < retrained.onnx > sparse.onnx
  secateur apply dense.onnx m.safetensors --data digits -o sparse.onnx
  secateur apply dense.onnx m.safetensors --sparse-initializers -o small.onnx"""
)
@common.model_argument
@click.argument("mask", metavar="MASK")
@click.option(
    "--force", is_flag=True, help="Apply a mask made for another model, where names and shapes fit."
)
@click.option(
    "--sparse-initializers",
    "sparse",
    is_flag=True,
    help="Store tensors with few non-zeros as ONNX SparseTensorProto (12 bytes each in float32: smaller from two "
    "thirds of zeros on). onnxruntime reads such files and makes them dense; so does every command here.",
)
@pruning.compared_options
@common.output_option
def command(
    model: str,
    mask: str,
    force: bool,
    sparse: bool,
    data: str | None,
    split: str,
    samples: int,
    seed: int,
    output: str,
) -> None:
    """Apply a mask: zero what it says and leave all else as it is.

    The mask names the model it was made for by hash; --force lets another one pass, such as the same network
    after more training. The result is compared in onnxruntime with the original whose graph multiplies its weights by
    the mask, on random inputs drawn from --seed, and on --data (within 1e-4 of the largest output).
    """
    from secateur.formats import mask as masks
    from secateur.formats import onnx_model
    from secateur.pipeline.prune import apply

    network, zeros = onnx_model.read(model), masks.read(mask)
    real = pruning.samples(data, split, samples, seed)
    images = None if real is None else real.images
    result = apply(network, zeros, force=force, sparse=sparse, seed=seed, real_inputs=images)
    onnx_model.write(result, output)
