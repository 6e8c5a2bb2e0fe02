"""`secateur prune`: zero what a criterion scores lowest."""

from __future__ import annotations

import click

from secateur.tools import common


def _list_criteria(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from secateur.pipeline.prune import CRITERIA

    for name, criterion in CRITERIA.items():
        click.echo(f"{name:<12} {criterion.summary}  [{criterion.source}]")
    context.exit()


@click.command(
    epilog="""\b
Examples:
  secateur prune magnitude dense.onnx -s 0.8 -o sparse.onnx
  secateur prune magnitude dense.onnx -s 0.5 --granularity channel --mask-out m.safetensors -o sparse.onnx
  secateur prune random -s 0.9 --seed 1 - < dense.onnx | secateur shrink - > small.onnx
  secateur prune --list"""
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_criteria,
    help="List the criteria.",
)
@click.argument("criterion")
@common.model_or_stdin_argument
@click.option(
    "-s",
    "--sparsity",
    type=click.FloatRange(0, 1),
    required=True,
    metavar="S",
    help="Share of units to zero, 0 to 1: of n, round(S·n) go.",
)
@click.option(
    "--granularity",
    type=click.Choice(["weight", "channel"]),
    default="weight",
    show_default=True,
    help="The units: single weights, or whole output channels.",
)
@click.option(
    "--scope",
    type=click.Choice(["global", "layer"]),
    default="global",
    show_default=True,
    help="Rank all units together, or each layer's own.",
)
@common.seed_option
@common.output_option
@click.option("--mask-out", metavar="M", help="Also write the mask (safetensors).")
def command(
    criterion: str,
    model: str,
    sparsity: float,
    granularity: str,
    scope: str,
    seed: int,
    output: str,
    mask_out: str | None,
) -> None:
    """Zero the weights or channels that CRITERION scores lowest.

    Weights of Conv, ConvTranspose, Gemm and MatMul with two or more dimensions are pruned; biases stay (but go
    with their channel). Ties are broken by position: same model, criterion and seed, same bytes.
    """
    from secateur.formats import mask as masks
    from secateur.formats import onnx_model, streams
    from secateur.pipeline.prune import prune

    streams.check_destination(output, binary=True)
    if mask_out is not None:
        streams.check_destination(mask_out, binary=True)
    source = onnx_model.read(model)
    result = prune(source, criterion, sparsity=sparsity, granularity=granularity, scope=scope, seed=seed)
    if mask_out is not None:
        masks.write(result.mask, mask_out)
    onnx_model.write(result.proto, output)
    common.say(result.summary())
