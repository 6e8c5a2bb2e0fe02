"""What commands share: arguments, options, and how they speak."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

STREAM_HELP = "a path, or '-' for standard output"


def device_callback(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Lets devices by name pass, and None."""
    if value is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise click.BadParameter(f"expected cpu, cuda or cuda:N, found '{value}'")
    return value


model_argument = click.argument("model", metavar="MODEL")
"""MODEL: a path or `-`."""

model_or_stdin_argument = click.argument("model", metavar="[MODEL]", required=False, default="-")
"""[MODEL]: a path, or standard input when left out."""

property_argument = click.argument("prop", metavar="PROPERTY")
"""PROPERTY: the path of a VNN-LIB file, or `-`; arrives as `prop`."""

output_option = click.option(
    "-o", "--output", metavar="OUT", default="-", show_default=True, help=f"Where to write: {STREAM_HELP}."
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed: the same seed, the same result.",
)
device_option = click.option(
    "--device",
    default="cpu",
    show_default=True,
    callback=device_callback,
    help="Where to compute: cpu, cuda or cuda:N.",
)


def _bytes(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(
        r"(\d+(?:\.\d+)?)([KMGT]?)", value.strip().upper().removesuffix("B").removesuffix("I")
    )
    size = float(found[1]) * 1024 ** " KMGT".index(found[2] or " ") if found else 0
    if size < 1:
        raise click.BadParameter(f"expected a size such as 500M or 2G, found '{value}'")
    return int(size)


memory_option = click.option(
    "--memory",
    metavar="SIZE",
    callback=_bytes,
    help="Memory that the search may hold, such as 500M or 2G: batches shrink with it, and when it is full the search "
    "goes depth-first. Not counted: the program and its libraries (300M to 600M), the network as folded for one "
    "input region, replays."
    "  [default: 60 % of what is free on --device]",
)
branching_option = click.option(
    "--branching",
    type=click.Choice(["babsr", "fsb"]),
    default="babsr",
    show_default=True,
    help="How the neuron to split is chosen: by an estimate of what its relaxation costs, or by trying the three that "
    "cost most, which takes longer a domain.",
)
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Stop after this time with what is known by then.",
)
verifier_option = click.option(
    "--verifier",
    "verifiers",
    multiple=True,
    default=("crown",),
    show_default=True,
    metavar="NAME[,NAME…]",
    help="Who decides: crown (bounds, attack, branch and bound), milp (one mixed-integer program by HiGHS, within its "
    "tolerances), auto_lirpa (that library's linear bounds, never 'sat'), a foreign one (see secateur verifiers list), "
    "vnncomp:DIR (a VNN-COMP tool's folder), or command:'PROGRAM {onnx} {vnnlib} {timeout} {result}'. Several "
    "check each other.",
)
verifier_args_option = click.option(
    "--verifier-args",
    metavar="WORDS",
    default="",
    callback=lambda _, __, value: _words(value),
    help="Arguments passed through to a foreign verifier, as in a shell.",
)


def _words(value: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise click.BadParameter(f"not a command line: {error}") from None


threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU threads to compute with  [default: all cores]",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Write one JSON object to standard output."
)
data_option = click.option(
    "--data",
    metavar="digits|PATH",
    default="digits",
    show_default=True,
    help="Data set: 'digits' (comes with scikit-learn), or an .npz, IDX, CIFAR binary file or image folder.",
)
split_option = click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    default="test",
    show_default=True,
    help="Which part of the data.",
)


def say(message: str) -> None:
    """One line for people, on standard error."""
    click.echo(message, err=True)


def emit_json(value: Any) -> None:
    """`value` as one line of JSON on standard output. NaN and infinities are refused: they are not JSON."""
    click.echo(json.dumps(value, sort_keys=True, allow_nan=False))


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C only makes the yielded function say True, so that work can end in order; the second
    ends the program as ever."""
    pressed = False

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)
        say("stopping; press Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def uninterrupted() -> bool:
    """What `interruptible` yields where Ctrl-C is not looked after: False."""
    return False


def on_terminal() -> bool:
    """Whether people watch standard error: only then are progress bars drawn."""
    return sys.stderr.isatty()
