"""What the kinds of `secateur property` share: which inputs, and the folder that is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from secateur.tools.common import data_option, say, split_option

if TYPE_CHECKING:
    from secateur.formats.dataset import Dataset
    from secateur.formats.onnx_model import Model
    from secateur.pipeline.properties import Balls, Box, Pixels, PropertySet
    from secateur.pipeline.properties.boxes import Radius

F = TypeVar("F", bound=Callable[..., Any])


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",")) if value else ()


_IMAGES = (
    data_option,
    split_option,
    click.option(
        "--index",
        "indices",
        type=click.IntRange(min=0),
        multiple=True,
        metavar="I",
        help="This image; repeatable.",
    ),
    click.option("--count", type=click.IntRange(min=1), metavar="N", help="The first N images instead."),
    click.option(
        "--start",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="I",
        help="Where --count begins.",
    ),
    click.option("--all-images", is_flag=True, help="Also images that the model gets wrong."),
    click.option(
        "--mean",
        callback=_numbers,
        metavar="M[,M…]",
        help="Mean a channel, when the model wants normalised pixels.",
    ),
    click.option(
        "--std", callback=_numbers, metavar="S[,S…]", help="Standard deviation a channel, likewise."
    ),
    click.option("--epsilon", metavar="E", help="Radius on raw pixels in [0, 1], such as 0.02 or 2/255."),
)
_MAP = click.option(
    "--epsilon-map",
    metavar="FILE",
    help="A radius a pixel instead: an .npy or .npz (array 'epsilon') of an image's shape.",
)
_BOX = click.option(
    "--box",
    metavar="L,U|FILE",
    help="A box instead of data: all inputs in [L, U], or an .npz with the arrays 'lower' and 'upper'.",
)
_FOLDER = (
    click.option(
        "--format",
        "version",
        type=click.Choice(["1.0", "2.0", "both"]),
        default="1.0",
        show_default=True,
        help="Version of VNN-LIB; of both, in the folders 1.0 and 2.0.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="What instances.csv grants each property.",
    ),
    click.option("--gzip", "compress", is_flag=True, help="Compress networks and properties."),
    click.option("-o", "--output", required=True, metavar="DIR", help="The folder to write."),
)


def _with(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


images_options = _with(*_IMAGES, *_FOLDER)
"""For kinds that are about images: `Images.of` reads them from the command's arguments."""

ball_options = _with(*_IMAGES, _MAP, *_FOLDER)
"""Likewise, where ε may differ a pixel."""

box_options = _with(*_IMAGES, _MAP, _BOX, *_FOLDER)
"""For kinds that are about balls around images or about a box: see `Images.boxes`."""


@dataclass(frozen=True)
class Images:
    """The images that a command's arguments name, and how far around them."""

    options: dict[str, Any]

    @property
    def epsilon(self) -> Radius | None:
        given, file = self.options.get("epsilon"), self.options.get("epsilon_map")
        if given is not None and file is not None:
            raise click.UsageError("give either --epsilon or --epsilon-map")
        if file is None:
            return given
        from secateur.pipeline import properties

        return properties.read_array(file, "epsilon")

    def data(self) -> tuple[Dataset, tuple[int, ...] | range]:
        """The data set, and which of it."""
        count, indices, start = (self.options[name] for name in ("count", "indices", "start"))
        if (count is None) == (not indices):
            raise click.UsageError("give either --index or --count")
        from secateur.formats import dataset

        images = dataset.load(self.options["data"], self.options["split"])
        return images, indices or range(start, min(start + (count or 0), len(images)))

    @property
    def rest(self) -> dict[str, Any]:
        """What the functions of `pipeline.properties` about images take besides."""
        return {
            "only_correct": not self.options["all_images"],
            "mean": self.options["mean"],
            "std": self.options["std"],
        }

    def pixels(self) -> Pixels | None:
        """How data become inputs; None of a box."""
        if self.options.get("box"):
            return None
        from secateur.pipeline import properties

        images, _ = self.data()
        return properties.Pixels(self.options["mean"], self.options["std"], images.images.shape[1:])

    def boxes(self, model: Model) -> Balls | list[Box]:
        """Balls around images, or the box of --box."""
        from secateur.pipeline import properties

        box = self.options["box"]
        if box is not None:
            if self.options["count"] is not None or self.options["indices"] or self.epsilon is not None:
                raise click.UsageError("give either --box or images with --epsilon")
            return [_given(model, box)]
        if self.epsilon is None:
            raise click.UsageError("give --epsilon (or --epsilon-map, or --box instead of images)")
        return properties.around(model, *self.data(), self.epsilon, **self.rest)


def _given(model: Model, text: str) -> Box:
    from secateur.pipeline import properties

    ends = text.split(",")
    if len(ends) == 2:
        return properties.given(model, ends[:1], ends[1:])
    sides = (properties.read_array(text, name).ravel() for name in ("lower", "upper"))
    lower, upper = ([str(number) for number in side] for side in sides)
    return properties.given(model, lower, upper)


def write(found: PropertySet, options: dict[str, Any]) -> None:
    """Write the folder, and say what is in it."""
    from secateur.pipeline import properties

    if found.misclassified:
        say(f"left out, misclassified: image {', '.join(map(str, found.misclassified))}")
    listings = properties.write(
        found.properties,
        options["output"],
        timeout=options["timeout"],
        version=options["version"],
        compress=options["compress"],
    )
    images = found.images - len(found.misclassified)
    source = f" of {images} images" if images else ""
    say(f"{len(found.properties)} properties{source}: {' and '.join(listings)}")
