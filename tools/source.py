"""The options that say what a foreign source does not tell, shared by the commands that read one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from secateur.pipeline.convert.sources import Options

F = TypeVar("F", bound=Callable[..., Any])


def _shape(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        shape = tuple(int(size) for size in value.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise click.BadParameter(f"expected sizes such as 1,28,28, found '{value}'")
    return shape


_OPTIONS = (
    click.option(
        "--input-shape",
        callback=_shape,
        metavar="C,H,W",
        help="Shape of one input, without the batch: for modules, weights and scripts, which do not tell.",
    ),
    click.option(
        "--architecture",
        metavar="NAME|PLACE",
        help="What weights belong to: an architecture of secateur train, or package.module:callable or "
        "file.py:callable, which is imported and called: that runs its code.",
    ),
    click.option(
        "--nnet-normalise/--nnet-raw",
        default=False,
        show_default=True,
        help="Fold a .nnet's normalisation into its layers, so that inputs and outputs have their units.",
    ),
    click.option(
        "--trust-pickle", is_flag=True, help="Load pickled objects, which run code: only if you trust SRC."
    ),
)


def source_options(function: F) -> F:
    """The options as a decorator; `reading` takes their values."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def reading(*, architecture: str | None, **said: Any) -> Options:
    """What the options say."""
    from secateur.pipeline.convert.sources import Options

    if architecture is None:
        return Options(**said)
    from secateur.pipeline.architecture import find

    return Options(architecture=find(architecture), **said)
