"""`secateur convert`: any source to one clean ONNX model."""

from __future__ import annotations

from typing import Any

import click

from secateur.tools.common import output_option, say, seed_option
from secateur.tools.source import reading, source_options


def _list(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from secateur.pipeline.convert import targets
    from secateur.pipeline.convert.passes import table as passes

    rows = [("pass", "by", "what it does", "needs")]
    rows += [(row.written, row.origin, row.summary, row.needs) for row in passes.PASSES.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        columns = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        click.echo(("  ".join(columns) + "  " + row[3]).rstrip())
    for name, target in targets.TARGETS.items():
        click.echo(f"\n--for {name}: {target.passes}\n  {target.because}")
    ctx.exit()


@click.command(
    epilog="""\b
Examples:
  secateur convert net.pt2 -o net.onnx
  secateur convert old.onnx --opset 17 --fold-batchnorm -o clean.onnx
  secateur convert weights.safetensors --architecture digits_cnn --input-shape 1,8,8 -o net.onnx
  secateur convert weights.pt --architecture nets.py:LeNet --input-shape 1,28,28 -o net.onnx
  secateur convert ACASXU_1_1.nnet --nnet-normalise -o acas.onnx
  secateur convert - --keep-batch < old.onnx > clean.onnx
  secateur convert net.onnx --for marabou -o for_marabou.onnx
  secateur convert net.onnx --passes inputs,constants,batch=1,gemm,affine -o fused.onnx
  secateur convert --list-passes"""
)
@click.argument("source", metavar="SRC", required=False)
@output_option
@click.option(
    "--list-passes",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="List the passes, what each does and needs, and which of them each verifier gets; then stop.",
)
@click.option(
    "--passes",
    "words",
    metavar="NAME[,NAME…]",
    help="Run exactly these passes, in this order  [default: the canonical form]",
)
@click.option(
    "--for",
    "target",
    metavar="VERIFIER",
    help="Run what this verifier needs: abcrown, marabou, matlab, neuralsat, nnenum, pynever or vibecheck.",
)
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
    source: str | None,
    output: str,
    words: str | None,
    target: str | None,
    opset: int | None,
    fold_batchnorm: bool,
    dynamic_batch: bool,
    seed: int,
    **source_arguments: Any,
) -> None:
    """Turn a network of any format into one clean ONNX model, by passes.

    SRC is ONNX (its data inside or in files beside it), a torch.export archive (.pt2), TorchScript, a state_dict or
    safetensors with --architecture, a Keras model (.keras, .h5), .nnet, a scikit-learn MLP (skops, or pickled) or a
    pickled torch module; what it is, is told by its bytes. Keras and scikit-learn models need packages of their
    own: pip install 'secateur[keras,sklearn-onnx]'.

    Constants are folded, unused nodes and initializers dropped, Dropout and Identity removed, flattening Reshapes
    named Flatten; --passes and --for run other passes. What comes out of each pass is compared with what went in on
    random inputs from --seed, in onnxruntime and in what the source comes from, within 1e-4 of the largest output: a
    difference names the pass, and nothing is written. More than 2 GB of weights go to a second file, -o + .data.
    """
    if source is None:
        raise click.UsageError("name the model to convert, or '-' for standard input")
    if words is not None and target is not None:
        raise click.UsageError("give either --passes or --for")
    if words is not None and (opset or fold_batchnorm):
        raise click.UsageError("--passes names all passes: say opset=N and batchnorm there")
    from secateur.formats import onnx_model, streams
    from secateur.pipeline.convert import convert
    from secateur.pipeline.convert.passes import table as passes

    streams.check_destination(output, binary=True)
    result = convert(
        source,
        steps=None if words is None else passes.named(words),
        target=target,
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
