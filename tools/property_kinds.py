"""The kinds of properties that `secateur property` writes: a command each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from secateur.tools.common import model_argument
from secateur.tools.property_options import Images, ball_options, box_options, images_options, write

if TYPE_CHECKING:
    from secateur.pipeline.properties.agreement import Agreement

_inputs_option = click.option(
    "--input",
    "inputs",
    type=click.IntRange(min=0),
    multiple=True,
    required=True,
    metavar="I",
    help="This input, counted flat; repeatable.",
)
_outputs_option = click.option(
    "--output-number",
    "outputs",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="J",
    help="This output; repeatable  [default: all]",
)
_within_option = click.option("--within", metavar="D", help="All outputs differ by less than D.")
_class_option = click.option(
    "--same-class",
    metavar="M",
    help="The class is the same wherever it leads by M in both.",
)


@click.command(
    epilog="""\b
Examples:
  secateur property robust net.onnx --count 10 --epsilon 0.02 -o digits_eps0.02
  secateur property robust net.onnx --data mnist.npz --index 3 --index 7 --epsilon 2/255 --targeted -o props
  secateur property robust cifar.onnx --data cifar10.npz --count 20 --epsilon 1/255 \\
    --mean 0.4914,0.4822,0.4465 --std 0.2023,0.1994,0.2010 --timeout 300 --format both -o cifar
  secateur property robust net.onnx --index 3 --epsilon-map borders.npy -o props
  secateur run digits_eps0.02/instances.csv --results digits.jsonl"""
)
@model_argument
@click.option("--targeted", is_flag=True, help="One property for each other class, not one for all of them.")
@ball_options
def robust(model: str, targeted: bool, **options: Any) -> None:
    """Robustness of MODEL around images: no input within epsilon (L∞) of an image changes its class.

    Writes DIR/vnnlib/*.vnnlib, DIR/instances.csv and a copy of the model in DIR/onnx, ready for 'secateur run'.
    Images that the model gets wrong are left out. Boxes are clipped to [0, 1] and rounded outward to float32.
    """
    images = Images(options)
    epsilon = images.epsilon
    if epsilon is None:
        raise click.UsageError("give either --epsilon or --epsilon-map")
    data = images.data()
    from secateur.formats import onnx_model
    from secateur.pipeline import properties

    network = onnx_model.read(model)
    write(properties.robust(network, *data, epsilon, targeted=targeted, **images.rest), options)


@click.command(
    epilog="""\b
Examples:
  secateur property patch net.onnx --index 3 --size 2 -o patches
  secateur property patch net.onnx --count 10 --size 2 --at 0,0 --at 3,3 --format both -o patches"""
)
@model_argument
@click.option(
    "--size", type=click.IntRange(min=1), required=True, metavar="K", help="A patch is K × K pixels."
)
@click.option(
    "--at",
    "positions",
    multiple=True,
    metavar="ROW,COLUMN",
    help="Its upper left pixel; repeatable  [default: everywhere]",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Without --at: every N-th row and column.",
)
@images_options
def patch(model: str, size: int, positions: tuple[str, ...], stride: int, **options: Any) -> None:
    """Patches: whatever K × K pixels of an image become, MODEL gives it its class.

    One property for each image and position. The pixels of the patch are free in [0, 1], in all channels; the others
    keep their values, or move by at most --epsilon.
    """
    images = Images(options)
    corners = [_corner(text) for text in positions]
    data = images.data()
    from secateur.formats import onnx_model
    from secateur.pipeline import properties

    found = properties.patch(
        onnx_model.read(model),
        *data,
        size,
        positions=corners,
        stride=stride,
        epsilon=options["epsilon"] or 0,
        **images.rest,
    )
    write(found, options)


def _corner(text: str) -> tuple[int, int]:
    row, _, column = text.partition(",")
    try:
        return int(row), int(column)
    except ValueError:
        raise click.BadParameter(f"--at '{text}': expected such as 3,4 (row, column)") from None


@click.command(
    epilog="""\b
Examples:
  secateur property brightness net.onnx --count 10 --shift 0.1 -o brighter
  secateur property brightness net.onnx --index 3 --shift 0.2 --epsilon 0.005 --format both -o brighter"""
)
@model_argument
@click.option("--shift", required=True, metavar="B", help="All pixels move alike, by at most B (raw pixels).")
@images_options
def brightness(model: str, shift: str, **options: Any) -> None:
    """Brightness: an image made brighter or darker by up to B, clipped to [0, 1], keeps its class.

    The network that is written has layers in front: its first input is the shift, the others are the raw image. What
    verifiers see is a box that is thin but for the shift.
    """
    images = Images(options)
    data = images.data()
    from secateur.formats import onnx_model
    from secateur.pipeline import properties

    network = onnx_model.read(model)
    write(
        properties.brightness(network, *data, shift, epsilon=options["epsilon"] or 0, **images.rest), options
    )


@click.command(
    "range",
    epilog="""\b
Examples:
  secateur property range net.onnx --box 0,1 --lower -10 --upper 10 -o range
  secateur property range net.onnx --count 10 --epsilon 0.01 --near 0.5 --output-number 3 -o range""",
)
@model_argument
@_outputs_option
@click.option("--lower", metavar="L", help="They are above L.")
@click.option("--upper", metavar="U", help="They are below U.")
@click.option("--near", metavar="D", help="They are within D of their values at the image.")
@box_options
def within_range(
    model: str,
    outputs: tuple[int, ...],
    lower: str | None,
    upper: str | None,
    near: str | None,
    **options: Any,
) -> None:
    """Ranges: over a box, or around images, outputs of MODEL stay between bounds."""
    from secateur.formats import onnx_model
    from secateur.pipeline import properties

    network = onnx_model.read(model)
    boxes = Images(options).boxes(network)
    write(
        properties.within_range(network, boxes, outputs=outputs, lower=lower, upper=upper, near=near), options
    )


@click.command(
    epilog="""\b
Examples:
  secateur property monotone credit.onnx --box 0,1 --input 2 --output-number 0 -o monotone
  secateur property monotone credit.onnx --box box.npz --input 4 --decreasing --format both -o falls"""
)
@model_argument
@_inputs_option
@_outputs_option
@click.option("--decreasing", is_flag=True, help="The outputs fall instead.")
@click.option(
    "--tolerance",
    default="0.001",
    show_default=True,
    metavar="T",
    help="A violation goes the wrong way by T or more.",
)
@box_options
def monotone(
    model: str,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    decreasing: bool,
    tolerance: str,
    **options: Any,
) -> None:
    """Monotonicity: when an input grows and the others stay, an output of MODEL does not fall.

    One property for each box, input and output, about two copies of the network (VNN-LIB 2.0), or about their product
    network (1.0).
    """
    from secateur.formats import onnx_model
    from secateur.pipeline import onnxrt, properties

    network = onnx_model.read(model)
    boxes = Images(options).boxes(network)
    chosen = outputs or tuple(range(onnxrt.count_outputs(network)))
    found = properties.monotone(network, boxes, inputs, chosen, decreasing=decreasing, tolerance=tolerance)
    write(found, options)


@click.command(
    epilog="""\b
Examples:
  secateur property fair credit.onnx --data people.npz --count 20 --epsilon 0.01 --input 3 -o fair
  secateur property fair credit.onnx --box 0,1 --input 3 --input 4 --within 0.2 --format both -o fair"""
)
@model_argument
@_inputs_option
@_within_option
@_class_option
@box_options
def fair(
    model: str, inputs: tuple[int, ...], within: str | None, same_class: str | None, **options: Any
) -> None:
    """Fairness: inputs that differ in nothing but the protected ones (--input) are given the same class by MODEL.

    Protected inputs are free in the box, or, around data, in the data's whole range [0, 1]. A violation is one by a
    margin (--same-class, 0.001 when not given), or by a difference of outputs (--within).
    """
    agreement = _agreement(within=within, same_class=same_class)
    from secateur.formats import onnx_model
    from secateur.pipeline import properties

    network, images = onnx_model.read(model), Images(options)
    write(properties.fair(network, images.boxes(network), inputs, agreement, pixels=images.pixels()), options)


@click.command(
    epilog="""\b
Examples:
  secateur property twins dense.onnx pruned.onnx --count 10 --epsilon 0.01 -o twins
  secateur property twins dense.onnx pruned.onnx --count 10 --epsilon 0.01 --right 0.5 --format both -o twins
  secateur property twins dense.onnx pruned.onnx --box 0,1 --within 0.1 -o twins"""
)
@click.argument("dense", metavar="DENSE")
@click.argument("pruned", metavar="PRUNED")
@click.option("--right", metavar="M", help="Right by M in DENSE implies right in PRUNED  [default: 0]")
@_within_option
@_class_option
@box_options
def twins(
    dense: str, pruned: str, right: str | None, within: str | None, same_class: str | None, **options: Any
) -> None:
    """Twins: PRUNED is right where DENSE is, around images; or their outputs, or classes, agree.

    About both networks on the same input (VNN-LIB 2.0), or about their product network (1.0).
    """
    agreement = _agreement(right=right, within=within, same_class=same_class)
    from secateur.formats import onnx_model
    from secateur.pipeline import properties

    first, second = onnx_model.read(dense), onnx_model.read(pruned)
    write(properties.twins(first, second, Images(options).boxes(first), agreement), options)


@click.command(
    epilog="""\b
Examples:
  secateur property equivalent a.onnx b.onnx --box 0,1 --within 0.001 -o same
  secateur property equivalent a.onnx b.onnx --count 10 --epsilon 0.05 --format both -o same"""
)
@click.argument("first", metavar="FIRST")
@click.argument("second", metavar="SECOND")
@_within_option
@_class_option
@box_options
def equivalent(first: str, second: str, within: str | None, same_class: str | None, **options: Any) -> None:
    """Equivalence of two files: the same class wherever it leads by a margin (0.001), or outputs within D."""
    agreement = _agreement(within=within, same_class=same_class)
    from secateur.formats import onnx_model
    from secateur.pipeline import properties

    one, other = onnx_model.read(first), onnx_model.read(second)
    write(properties.equivalent(one, other, Images(options).boxes(one), agreement), options)


def _agreement(
    *, right: str | None = None, within: str | None = None, same_class: str | None = None
) -> Agreement | None:
    if sum(value is not None for value in (right, within, same_class)) > 1:
        raise click.UsageError("give one of --right, --within and --same-class")
    from secateur.pipeline import properties

    if within is not None:
        return properties.Within(within)
    if same_class is not None:
        return properties.SameClass(same_class)
    return None if right is None else properties.RightToo(right)


KINDS = (robust, patch, brightness, within_range, monotone, fair, twins, equivalent)
