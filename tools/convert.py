"""`secateur convert`: any source to one clean ONNX model."""

from __future__ import annotations

from typing import Any

import click

from secateur.tools.common import output_option, say, seed_option
from secateur.tools.source import reading, source_options


@click.command(
    epilog="""\b
Examples:
  secateur convert net.pt2 -o net.onnx
  secateur convert old.onnx --opset 17 --fold-batchnorm -o clean.onnx
  secateur convert weights.safetensors --architecture digits_cnn --input-shape 1,8,8 -o net.onnx
  secateur convert weights.pt --architecture nets.py:LeNet --input-shape 1,28,28 -o net.onnx
  secateur convert ACASXU_1_1.nnet --nnet-normalise -o acas.onnx
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
@source_options
@seed_option
def command(
    source: str,
    output: str,
    opset: int | None,
    fold_batchnorm: bool,
    dynamic_batch: bool,
    seed: int,
    **source_arguments: Any,
) -> None:
    """Turn a network of any format into one clean ONNX model.

    SRC is ONNX (its data inside or in files beside it), a torch.export archive (.pt2), TorchScript, a state_dict or
    safetensors with --architecture, a Keras model (.keras, .h5), .nnet, a scikit-learn MLP (skops, or pickled) or a
    pickled torch module; what it is, is told by its bytes. Keras and scikit-learn models need packages of their
    own: pip install 'secateur[keras,sklearn-onnx]'.

    Constants are folded, unused nodes and initializers dropped, Dropout and Identity removed, flattening Reshapes
    named Flatten. Source and result are compared on random inputs from --seed, in onnxruntime and in what the
    source comes from, within 1e-4 of the largest output. More than 2 GB of weights go to a second file, -o + .data.
    """
    from secateur.formats import onnx_model, streams
    from secateur.pipeline.convert import convert

    streams.check_destination(output, binary=True)
    result = convert(
        source,
        to_opset=opset,
        fold_batchnorm=fold_batchnorm,
        dynamic_batch=dynamic_batch,
        options=reading(**source_arguments),
        seed=seed,
    )
    onnx_model.write(result.proto, output)
    for note in result.notes:
        say(note)
    say(result.summary())
