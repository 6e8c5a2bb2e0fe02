"""`secateur bounds`: bound the outputs over a property's input region."""

from __future__ import annotations

import click

from secateur.tools.common import (
    device_option,
    emit_json,
    json_option,
    model_argument,
    property_argument,
    say,
    threads_option,
)


@click.command(
    epilog="""\b
Examples:
  secateur bounds net.onnx prop.vnnlib
  secateur bounds net.onnx prop.vnnlib --method alpha-crown --iterations 100
  secateur bounds - prop.vnnlib --method ibp --json < net.onnx"""
)
@model_argument
@property_argument
@click.option(
    "--method",
    type=click.Choice(["ibp", "crown", "alpha-crown"]),
    default="crown",
    show_default=True,
    help="From loose and fast to tight and slow: intervals, linear relaxation, optimised linear relaxation.",
)
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    metavar="N",
    help="Steps of alpha-crown  [default: the engine's]",
)
@json_option
@device_option
@threads_option
def command(
    model: str,
    prop: str,
    method: str,
    iterations: int | None,
    as_json: bool,
    device: str,
    threads: int | None,
) -> None:
    """Bound the outputs of MODEL over the input region of PROPERTY, and how far its conditions are from holding.

    Prints 'unsat' when these bounds alone prove the property, else 'unknown', and a table on standard error. Each
    region of the property has its own bounds; a clause is one conjunction of the output condition, and where its
    violation is bounded above 0 no input of the region satisfies it.
    """
    from secateur.pipeline import campaign, compute

    compute.configure(device, threads)
    found = campaign.bound_files(model, prop, method=method, iterations=iterations, device=device)
    if as_json:
        emit_json(found.to_dict())
        return
    for number, region in enumerate(found.regions, 1):
        say(f"region {number} of {len(found.regions)}")
        say(f"  {'output':10} {'lower':>14} {'upper':>14}")
        for index, (lower, upper) in enumerate(zip(region.lower, region.upper, strict=True)):
            say(f"  {f'Y_{index}':10} {lower:14.6g} {upper:14.6g}")
        for index, violation in enumerate(region.clauses, 1):
            verdict = "cannot hold" if violation > 0 else "may hold"
            say(f"  clause {index}: violation at least {violation:.6g}, {verdict}")
    click.echo("unsat" if found.refuted else "unknown")
