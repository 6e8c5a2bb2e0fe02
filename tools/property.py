"""`secateur property`: properties (VNN-LIB) from data, in either dialect, about one network or several."""

from __future__ import annotations

import click

from secateur.tools.common import (
    data_option,
    model_argument,
    output_option,
    property_argument,
    say,
    split_option,
)


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",")) if value else ()


@click.group("property")
def command() -> None:
    """Write properties (VNN-LIB) of a model from data; convert between dialects; join several networks."""


@command.command(
    epilog="""\b
Examples:
  secateur property robust net.onnx --count 10 --epsilon 0.02 -o digits_eps0.02
  secateur property robust net.onnx --data mnist.npz --index 3 --index 7 --epsilon 2/255 --targeted -o props
  secateur property robust cifar.onnx --data cifar10.npz --count 20 --epsilon 1/255 \\
    --mean 0.4914,0.4822,0.4465 --std 0.2023,0.1994,0.2010 --timeout 300 -o cifar
  secateur run digits_eps0.02/instances.csv --results digits.jsonl"""
)
@model_argument
@data_option
@split_option
@click.option(
    "--index",
    "indices",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="I",
    help="This image; repeatable.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="The first N images instead.")
@click.option(
    "--start",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="I",
    help="Where --count begins.",
)
@click.option(
    "--epsilon", required=True, metavar="E", help="Radius on raw pixels in [0, 1], such as 0.02 or 2/255."
)
@click.option("--targeted", is_flag=True, help="One property for each other class, not one for all of them.")
@click.option("--all-images", is_flag=True, help="Also images that the model gets wrong.")
@click.option(
    "--mean",
    callback=_numbers,
    metavar="M[,M…]",
    help="Mean a channel, when the model wants normalised pixels.",
)
@click.option("--std", callback=_numbers, metavar="S[,S…]", help="Standard deviation a channel, likewise.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="What instances.csv grants each property.",
)
@click.option("-o", "--output", required=True, metavar="DIR", help="The folder to write.")
def robust(
    model: str,
    data: str,
    split: str,
    indices: tuple[int, ...],
    count: int | None,
    start: int,
    epsilon: str,
    targeted: bool,
    all_images: bool,
    mean: tuple[str, ...],
    std: tuple[str, ...],
    timeout: float,
    output: str,
) -> None:
    """Robustness of MODEL around images: no input within epsilon (L∞) of an image changes its class.

    Writes DIR/vnnlib/*.vnnlib, DIR/instances.csv and a copy of the model in DIR/onnx, ready for 'secateur run'.
    Images that the model gets wrong are left out. Boxes are clipped to [0, 1] and rounded outward to float32.
    """
    if (count is None) == (not indices):
        raise click.UsageError("give either --index or --count")
    from secateur.formats import dataset, onnx_model
    from secateur.pipeline import properties

    network = onnx_model.read(model)
    images = dataset.load(data, split)
    found = properties.robust(
        network,
        images,
        indices or range(start, min(start + (count or 0), len(images))),
        epsilon,
        targeted=targeted,
        only_correct=not all_images,
        mean=mean,
        std=std,
    )
    if found.misclassified:
        say(f"left out, misclassified: image {', '.join(map(str, found.misclassified))}")
    listing = properties.write(network, found.properties, output, timeout=timeout)
    say(f"{len(found.properties)} properties of {found.images - len(found.misclassified)} images: {listing}")


@command.command(
    epilog="""\b
Examples:
  secateur property convert prop.vnnlib --to 2.0 -o prop.v2.vnnlib
  secateur property convert prop.vnnlib --to 2.0 --model net.onnx -o prop.v2.vnnlib
  secateur property convert prop.v2.vnnlib --to 1.0 | secateur verify net.onnx -"""
)
@property_argument
@click.option(
    "--to", "version", type=click.Choice(["1.0", "2.0"]), required=True, help="The version of VNN-LIB."
)
@click.option(
    "--model",
    metavar="MODEL",
    help="For 2.0: declare the input and output with this model's shapes and types.",
)
@output_option
def convert(prop: str, version: str, model: str | None, output: str) -> None:
    """Write PROPERTY in another version of VNN-LIB, with the same meaning.

    What 1.0 cannot say (several networks, inputs or outputs, hidden values) is refused with the reason. Numbers are
    written as exact decimals.
    """
    if model is not None and version != "2.0":
        raise click.UsageError("--model goes with --to 2.0: 1.0 declares no shapes")
    from secateur.formats import onnx_model, vnnlib
    from secateur.pipeline import product

    query = vnnlib.read(prop)
    if model is not None:
        query = product.declared_as(query, onnx_model.read(model))
    vnnlib.write(vnnlib.to_text(query, query.comments, version), output)


@command.command(
    "product",
    epilog="""\b
Examples:
  secateur property product twins.vnnlib -n f=dense.onnx -n g=pruned.onnx -o both.onnx --property-out both.vnnlib
  secateur verify both.onnx both.vnnlib --verifier neuralsat""",
)
@property_argument
@click.option(
    "-n",
    "--network",
    "networks",
    multiple=True,
    required=True,
    metavar="NAME=FILE",
    help="A network's model.",
)
@output_option
@click.option(
    "--property-out",
    required=True,
    metavar="FILE",
    help="Where to write the property over the product (1.0).",
)
def product_of(prop: str, networks: tuple[str, ...], output: str, property_out: str) -> None:
    """Compile PROPERTY (2.0) about several networks into one ONNX network and a VNN-LIB 1.0 property.

    Inputs that the property ties together by equality become one input of the product. Several inputs, outputs and
    hidden values of a network are compiled likewise. For verifiers that know only one network; the product is compared
    with its networks in onnxruntime.
    """
    from secateur.formats import onnx_model, streams, vnnlib
    from secateur.pipeline import product
    from secateur.pipeline.questions import read_models, sources

    streams.check_destination(output, binary=True)
    streams.check_destination(property_out)
    query = vnnlib.read(prop)
    models = product.models_of(query, read_models(sources(",".join(networks))), query.name)
    whole = product.compile(query, models)
    vnnlib.write(vnnlib.to_text(whole.query, query.comments), property_out)
    onnx_model.write(whole.model, output)
    count = len(query.networks)
    said = f"{count} network{'s' if count > 1 else ''}, {query.inputs} inputs of which {whole.query.inputs} are free"
    say(f"{said}, {whole.query.outputs} outputs")
