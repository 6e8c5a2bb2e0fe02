"""`secateur inspect`: what is in a model."""

from __future__ import annotations

import click

from secateur.tools.common import device_option, emit_json, json_option, model_or_stdin_argument, say


@click.command(
    epilog="""\b
Examples:
  secateur inspect net.onnx
  secateur inspect net.onnx --property p.vnnlib --json
  secateur inspect pruned.onnx --recipe > r.toml
  secateur prune magnitude -s 0.9 net.onnx | secateur inspect - 2>&1 | grep 'zero channels'"""
)
@model_or_stdin_argument
@click.option(
    "--property", "prop", metavar="P", help="Also count stable and unstable neurons on its input region."
)
@click.option(
    "--method",
    type=click.Choice(["ibp", "crown", "alpha-crown"]),
    default="crown",
    show_default=True,
    help="The bounds by which neurons are counted.",
)
@click.option(
    "--recipe",
    is_flag=True,
    help="Write only the recipe by which the model was pruned, in TOML to standard output: see prune --recipe.",
)
@json_option
@device_option
def command(model: str, prop: str | None, method: str, recipe: bool, as_json: bool, device: str) -> None:
    """Show operators, shapes, parameters, zeros, cost and history of a model; stable neurons, given a property.

    The cost counts the multiply-adds of convolutions and matrix products for one sample, node by node, zeros
    included; a multiply-add is two floating-point operations (FLOPs).

    Zeros are counted a tensor and, for the weights of layers, as channels whose weights are all zero. One fact a
    line, on standard error; --json writes all of it to standard output.
    """
    from secateur.formats import onnx_model, vnnlib
    from secateur.pipeline.inspect import inspect

    if recipe:
        from secateur.pipeline.prune.recipe import of

        click.echo(of(onnx_model.read(model)), nl=False)
        return
    query = None if prop is None else vnnlib.read(prop)
    found = inspect(onnx_model.read(model), query, method=method, device=device)
    if as_json:
        emit_json(found.to_dict())
        return
    for line in found.lines():
        say(line)
