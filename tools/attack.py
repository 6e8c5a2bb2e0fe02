"""`secateur attack`: search for an input that violates a property."""

from __future__ import annotations

import click

from secateur.tools.common import (
    device_option,
    model_argument,
    property_argument,
    say,
    seed_option,
    threads_option,
    timeout_option,
)


@click.command(
    epilog="""\b
Examples:
  secateur attack net.onnx prop.vnnlib --restarts 100 --witness bad_input.txt
  secateur check witness net.onnx prop.vnnlib bad_input.txt"""
)
@model_argument
@property_argument
@timeout_option
@click.option("--restarts", type=click.IntRange(min=1), help="Random starts  [default: the engine's]")
@click.option("--steps", type=click.IntRange(min=1), help="Gradient steps a start  [default: the engine's]")
@click.option("--witness", "witness_file", metavar="FILE", help="Where to write the input that was found.")
@device_option
@seed_option
@threads_option
def command(
    model: str,
    prop: str,
    timeout: float,
    restarts: int | None,
    steps: int | None,
    witness_file: str | None,
    device: str,
    seed: int,
    threads: int | None,
) -> None:
    """Search for an input that satisfies PROPERTY (VNN-LIB) on MODEL (ONNX), by projected gradient descent.

    Prints 'sat' when one was found and replayed in onnxruntime, else 'unknown': an attack that fails proves
    nothing ('secateur verify' may).
    """
    from secateur.pipeline import campaign, compute

    compute.configure(device, threads)
    found = campaign.attack_files(
        model,
        prop,
        timeout=timeout,
        restarts=restarts,
        steps=steps,
        device=device,
        seed=seed,
        witness_file=witness_file,
    )
    click.echo("sat" if found else "unknown")
    say(
        "an input that violates the property was found"
        if found
        else "no violation was found; that proves nothing"
    )
