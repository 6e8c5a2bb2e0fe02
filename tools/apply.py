"""`secateur apply`: zero what a mask says."""

from __future__ import annotations

import click

from secateur.tools import common


@click.command(
    epilog="""\b
Examples:
  secateur apply dense.onnx m.safetensors -o sparse.onnx
  secateur apply - m.safetensors --force < retrained.onnx > sparse.onnx
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
@common.output_option
def command(model: str, mask: str, force: bool, sparse: bool, output: str) -> None:
    """Apply a mask: zero what it says and leave all else as it is.

    The mask names the model it was made for by hash; --force lets another one pass, such as the same network
    after more training.
    """
    from secateur.formats import mask as masks
    from secateur.formats import onnx_model
    from secateur.pipeline.prune import apply

    onnx_model.write(apply(onnx_model.read(model), masks.read(mask), force=force, sparse=sparse), output)
