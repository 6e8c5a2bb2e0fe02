"""`secateur property`: properties (VNN-LIB) from data, in either dialect, about one network or several."""

from __future__ import annotations

import click

from secateur.tools.common import output_option, property_argument, say
from secateur.tools.property_kinds import KINDS


@click.group("property")
def command() -> None:
    """Write properties (VNN-LIB) of a model from data; convert between dialects; join several networks."""


for _kind in KINDS:
    command.add_command(_kind)


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
