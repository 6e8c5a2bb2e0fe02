"""`secateur diff`: where two models disagree most."""

from __future__ import annotations

import click

from secateur.tools.common import device_option, emit_json, json_option, say, seed_option, split_option


@click.command(
    epilog="""\b
Examples:
  secateur diff dense.onnx quantised.onnx --property prop.vnnlib --worst worst.npz
  secateur convert net.onnx --opset 13 | secateur diff net.onnx - --tolerance 1e-6
  secateur diff dense.onnx pruned.onnx --data digits --tolerance 0.5 --layers
  secateur diff net.onnx shrunk.onnx --property prop.vnnlib --certify --json"""
)
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--property", "prop", metavar="P", help="Search in the input regions of this property (VNN-LIB)."
)
@click.option("--data", metavar="digits|PATH", help="Compare on this data set instead.")
@split_option
@click.option(
    "--samples", type=click.IntRange(min=1), default=256, show_default=True, help="Points drawn at random."
)
@click.option(
    "--climbers",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Points that go on from there by gradient ascent (with --property).",
)
@click.option(
    "--steps", type=click.IntRange(min=0), default=40, show_default=True, help="Steps that they take."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1e-4,
    show_default=True,
    help="The largest difference, relative to the largest output (at least 1), that passes for equal.",
)
@click.option(
    "--certify",
    is_flag=True,
    help="With --property: also bound the difference over all its inputs, by linear bounds; that proves it.",
)
@click.option(
    "--layers",
    is_flag=True,
    help="Show all values that both compute under one name, not only the first apart.",
)
@click.option(
    "--worst",
    metavar="FILE",
    help="Where to write the worst input: .npz with x, a and b, else a witness ((X_0 …) (Y_0 …)) of A.",
)
@json_option
@device_option
@seed_option
def command(
    first: str,
    second: str,
    prop: str | None,
    data: str | None,
    split: str,
    samples: int,
    climbers: int,
    steps: int,
    tolerance: float,
    certify: bool,
    layers: bool,
    worst: str | None,
    as_json: bool,
    device: str,
    seed: int,
) -> None:
    """Find the input at which models A and B disagree most, and say by how much, in which output, from which layer on.

    Inputs come from a property's regions (points drawn at random, the worst of which climb by gradients), from
    a data set, or from chance. Both models run in onnxruntime as they are. Exit code 0 when the worst
    difference found is within --tolerance, 1 when it is not: a search that finds nothing proves nothing;
    --certify may.
    """
    if prop is not None and data is not None:
        raise click.UsageError("give either --property or --data")
    if certify and prop is None:
        raise click.UsageError("--certify needs the inputs of a --property")
    if first == second == "-":
        raise click.UsageError("standard input holds one model: name the other")
    from secateur.formats import dataset, onnx_model, streams, vnnlib
    from secateur.formats.errors import CheckFailed
    from secateur.pipeline import difference

    if worst is not None:
        streams.check_destination(worst)
    a, b = onnx_model.read(first), onnx_model.read(second)
    query = None if prop is None else vnnlib.read(prop)
    images = None if data is None else dataset.load(data, split).images
    effort = difference.Effort(samples, climbers, steps)
    found = difference.worst(a, b, query=query, data=images, effort=effort, seed=seed)
    bound = (
        float(difference.bound(a, b, query, device=device).max()) if certify and query is not None else None
    )
    if worst is not None:
        difference.write(found, worst)
    if as_json:
        emit_json(found.to_dict() | {"bound": bound, "tolerance": tolerance})
    for line in found.lines(tolerance, all_layers=layers):
        say(line)
    if bound is not None:
        say(f"proven: the outputs differ by at most {bound:.6g} over the whole property")
    if not found.relative <= tolerance:
        raise CheckFailed(
            f"{a.name} and {b.name} differ by {found.relative:.3g} of the largest output (tolerance {tolerance:g})"
        )
