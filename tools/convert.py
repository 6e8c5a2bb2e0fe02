"""`secateur convert`: any source to one clean ONNX model."""

from __future__ import annotations

import click

from secateur.tools.common import output_option, say, seed_option


def _shape(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        shape = tuple(int(size) for size in value.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise click.BadParameter(f"expected sizes such as 1,28,28, found '{value}'")
    return shape


@click.command(
    epilog="""\b
Examples:
  secateur convert net.pt2 -o net.onnx
  secateur convert old.onnx --opset 17 --fold-batchnorm -o clean.onnx
  secateur convert net.pt --trust-pickle --input-shape 3,32,32 -o net.onnx
  secateur convert - --keep-batch < old.onnx > clean.onnx"""
)
@click.argument("source", metavar="SRC")
@output_option
@click.option(
    "--opset", type=click.IntRange(min=7), metavar="N", help="Convert to this opset  [default: as it is]"
)
@click.option(
    "--fold-batchnorm",
    is_flag=True,
    help="Fold BatchNormalization into the layer in front (pruning by scale needs it unfolded).",
)
@click.option(
    "--dynamic-batch/--keep-batch",
    default=True,
    show_default=True,
    help="Make a batch fixed to 1 dynamic, where three samples together give what they give singly.",
)
@click.option(
    "--trust-pickle", is_flag=True, help="Load pickled objects, which run code: only if you trust SRC."
)
@click.option(
    "--input-shape",
    callback=_shape,
    metavar="C,H,W",
    help="Shape of one input, without the batch: for a pickled module, which does not tell.",
)
@seed_option
def command(
    source: str,
    output: str,
    opset: int | None,
    fold_batchnorm: bool,
    dynamic_batch: bool,
    trust_pickle: bool,
    input_shape: tuple[int, ...] | None,
    seed: int,
) -> None:
    """Turn a PyTorch or ONNX file into one clean ONNX model.

    SRC is ONNX, a torch.export archive (.pt2), or a pickled torch module (only with --trust-pickle); what it is,
    is told by its bytes. Constants are folded, unused nodes and initializers dropped, Dropout and Identity
    removed, flattening Reshapes named Flatten. Source and result are compared on random inputs from --seed
    in onnxruntime (and torch), within 1e-4 of the largest output.
    """
    from secateur.formats import onnx_model, streams
    from secateur.pipeline.convert import convert

    streams.check_destination(output, binary=True)
    result = convert(
        source,
        to_opset=opset,
        fold_batchnorm=fold_batchnorm,
        dynamic_batch=dynamic_batch,
        trust_pickle=trust_pickle,
        input_shape=input_shape,
        seed=seed,
    )
    onnx_model.write(result.proto, output)
    for note in result.notes:
        say(note)
    say(result.summary())
