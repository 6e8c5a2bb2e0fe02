"""`secateur prune`: zero what a criterion scores lowest."""

from __future__ import annotations

from typing import Any

import click

from secateur.tools import common, pruning


def _list_criteria(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from secateur.pipeline.prune import criteria

    for name in criteria.names():
        row = criteria.find(name)
        needs = ", ".join(sorted(row.needs)) or "nothing"
        click.echo(f"{name}: {row.summary}\n    scores {row.unit}s; needs {needs}; {row.source}")
        for option in row.options:
            values = f" ({', '.join(option.choices)})" if option.choices else ""
            click.echo(f"    --option {option.name}={option.default}: {option.summary}{values}")
    context.exit()


@click.command(
    epilog="""\b
Examples:
  secateur prune magnitude dense.onnx -s 0.8 -o sparse.onnx
  secateur prune magnitude dense.onnx -s 0.5 --granularity channel --mask-out m.safetensors -o sparse.onnx
  secateur prune magnitude dense.onnx --granularity 2:4 -o sparse.onnx
  secateur prune magnitude dense.onnx -s 0.9 --ratios erk --exclude 'fc*' -o sparse.onnx
  secateur prune magnitude dense.onnx --ratio 'conv*=0.5' --ratio 'fc*=0.9' -o sparse.onnx
  secateur prune random -s 0.9 --seed 1 - < dense.onnx | secateur shrink - > small.onnx
  secateur prune --recipe r.toml dense.onnx -o small.onnx
  secateur prune --list"""
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_criteria,
    help="List the criteria: what they score, what they need, where they come from, their options.",
)
@click.argument("arguments", metavar="CRITERION [MODEL]", nargs=-1)
@click.option(
    "--recipe",
    metavar="R",
    help="Do the steps of this TOML file instead of CRITERION: [[step]] with prune = CRITERION and keys named as "
    "the options here, or with shrink = true.",
)
@pruning.sparsity_option
@pruning.unit_options
@pruning.scope_options
@pruning.step_options
@pruning.data_options
@common.seed_option
@common.device_option
@common.output_option
@click.option("--mask-out", metavar="M", help="Also write the mask (safetensors).")
@click.pass_context
def command(
    context: click.Context,
    /,
    arguments: tuple[str, ...],
    recipe: str | None,
    output: str,
    mask_out: str | None,
    data: str | None,
    split: str,
    samples: int,
    seed: int,
    device: str,
    **options: Any,
) -> None:
    """Zero the units that CRITERION scores lowest: weights, channels, blocks, heads, residual branches.

    Weights of Conv, ConvTranspose, Gemm and MatMul with two or more dimensions are pruned; biases stay (but go
    with their channel). Exactly round(S·n) of n units go, ties in order of position: same model, arguments and
    data, same bytes. The result is compared in onnxruntime with the original whose graph multiplies its weights by the
    mask, on random inputs and on some of --data (within 1e-4 of the largest output). How a model was pruned stands in
    its metadata: see `secateur inspect`.
    """
    from secateur.formats import mask as masks
    from secateur.formats import onnx_model, streams
    from secateur.pipeline.prune import recipe as recipes

    model, steps = _steps(context, arguments, recipe, options | {"seed": seed})
    streams.check_destination(output, binary=True)
    if mask_out is not None:
        streams.check_destination(mask_out, binary=True)
    source = onnx_model.read(model)
    if recipe is None:
        steps = (pruning.measured(steps[0], source, options["ratios"]),)
    made = recipes.run(source, steps, data=pruning.samples(data, split, samples, seed), device=device)
    if mask_out is not None:
        if made.mask is None:
            raise click.UsageError("--mask-out: a recipe that shrinks has no mask of the model it began with")
        masks.write(made.mask, mask_out)
    onnx_model.write(made.model, output)
    for line in made.lines:
        common.say(line)


def _steps(
    context: click.Context, arguments: tuple[str, ...], recipe: str | None, options: dict[str, Any]
) -> tuple[str, Any]:
    """MODEL, and the steps to do."""
    from secateur.pipeline.prune import recipe as recipes

    most = 1 if recipe else 2
    if not recipe and not arguments:
        raise click.UsageError("missing argument 'CRITERION': --list shows them")
    if len(arguments) > most:
        raise click.UsageError(f"too many arguments: '{arguments[most]}'")
    model = arguments[most - 1] if len(arguments) == most else "-"
    if recipe is None:
        return model, (pruning.plan(arguments[0], options),)
    given = pruning.given(context, (*options, "sparsity"))
    if given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} goes into the recipe")
    return model, recipes.read(recipe)
