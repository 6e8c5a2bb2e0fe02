"""The options that say what to prune, shared by the commands that do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from secateur.tools import common

if TYPE_CHECKING:
    from secateur.formats.onnx_model import Model
    from secateur.pipeline.prune import Plan
    from secateur.pipeline.prune.criteria import Samples

F = TypeVar("F", bound=Callable[..., Any])


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _pairs(what: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, str]]:
    def parse(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
        found = {}
        for value in values:
            key, equals, rest = value.rpartition("=") if what == "PATTERN=S" else value.partition("=")
            if not equals or not key:
                raise click.BadParameter(f"expected {what}, found '{value}'")
            found[key] = rest
        return found

    return parse


def _ratios(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for pattern, share in _pairs("PATTERN=S")(context, parameter, values).items():
        try:
            found[pattern] = float(share)
        except ValueError:
            raise click.BadParameter(
                f"expected PATTERN=S with a number S, found '{pattern}={share}'"
            ) from None
    return found


sparsity_option = click.option(
    "-s",
    "--sparsity",
    type=click.FloatRange(0, 1),
    metavar="S",
    help="Share of units to zero, 0 to 1: of n, round(S·n) go.",
)
granularity_option = click.option(
    "--granularity",
    default="weight",
    show_default=True,
    metavar="UNIT",
    help="The units: weight; N:M such as 2:4 (N of M weights along the inputs stay); block:RxC (of the matrix outputs "
    "× inputs); kernel; grouped-kernel:G (ends in convolutions of G groups); channel or filter; neuron (channels of "
    "fully connected layers alone); head (of attention); layer (residual branches).",
)
choice_options = _all(
    click.option(
        "--include", multiple=True, metavar="PATTERN", help="Only layers whose name, or weight's, fits."
    ),
    click.option("--exclude", multiple=True, metavar="PATTERN", help="Not these layers; may be repeated."),
)
unit_options = _all(
    granularity_option,
    choice_options,
    click.option(
        "--reduction",
        metavar="sum|mean|max|l1|l2",
        help="How the scores of a unit's weights become one  [default: as the criterion's source does]",
    ),
    click.option(
        "--normaliser",
        metavar="none|mean|layer|lamp",
        help="How the scores of different layers are made to compare  [default: as the criterion's source does]",
    ),
)
scope_options = _all(
    click.option(
        "--scope",
        type=click.Choice(["global", "layer"]),
        help="Rank all units together, or each layer's own  [default: global where it can be]",
    ),
    click.option(
        "--ratio",
        "ratio",
        multiple=True,
        callback=_ratios,
        metavar="PATTERN=S",
        help="These layers' own sparsity; the first pattern that fits counts, other layers have -s or stay whole.",
    ),
    click.option(
        "--ratios",
        metavar="uniform|erk|FILE",
        help="Share -s out: the same for each layer; by the Erdős–Rényi kernel rule; so that all layers cost the "
        "same accuracy, by a file of `secateur sensitivity`.",
    ),
)
step_options = _all(
    click.option(
        "--steps",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Prune in so many steps, with new scores in each.",
    ),
    click.option(
        "--schedule",
        type=click.Choice(["geometric", "linear", "cubic"]),
        default="geometric",
        show_default=True,
        help="How the steps approach -s: the same share of what is left, the same number, many first.",
    ),
    click.option(
        "--refill",
        is_flag=True,
        help="Prune weights first; the units in which least is left go, the others are whole again.",
    ),
)
criterion_options = _all(
    click.option(
        "--epsilon",
        type=click.FloatRange(min=0, min_open=True),
        metavar="E",
        help="ℓ∞ radius on raw pixels, for criteria that need bounds.",
    ),
    click.option(
        "--option",
        "options",
        multiple=True,
        callback=_pairs("KEY=VALUE"),
        metavar="KEY=VALUE",
        help="An option of the criterion's own; see --list.",
    ),
)
data_options = _all(
    click.option(
        "--data",
        metavar="digits|PATH",
        help="Data for criteria that need it: 'digits' (comes with scikit-learn), or an .npz, IDX, CIFAR binary file "
        "or image folder.",
    ),
    click.option(
        "--split",
        type=click.Choice(["train", "test"]),
        default="train",
        show_default=True,
        help="Part of the data.",
    ),
    click.option(
        "--samples",
        type=click.IntRange(min=1),
        default=256,
        show_default=True,
        help="How many samples of it, drawn by --seed.",
    ),
    criterion_options,
)


compared_options = _all(
    click.option(
        "--data",
        metavar="digits|PATH",
        help="Compare on this data's samples, too: 'digits', or an .npz, IDX, CIFAR binary file or image folder.",
    ),
    common.split_option,
    click.option(
        "--samples",
        type=click.IntRange(min=1),
        default=256,
        show_default=True,
        help="How many samples of it, drawn by --seed.",
    ),
    common.seed_option,
)


def given(context: click.Context, names: Iterable[str]) -> list[str]:
    """Those of the options that stand on the command line."""
    written = click.core.ParameterSource.COMMANDLINE
    return [name for name in names if context.get_parameter_source(name) is written]


def plan(criterion: str, options: dict[str, Any]) -> Plan:
    """The plan that the options say: those of this module that a command has, and `seed`; without --ratios FILE."""
    from secateur.pipeline.prune import Plan

    settings = {key: value for key, value in options.items() if value is not None}
    ratio, ratios = settings.pop("ratio", {}), settings.pop("ratios", None)
    if ratios is not None:
        if ratio or "scope" in settings:
            other = "--ratio" if ratio else "--scope"
            raise click.UsageError(f"--ratios {ratios} says what each layer loses: leave out {other}")
        settings["scope"] = "erk" if ratios == "erk" else "layer"
    return Plan(criterion, **settings, ratios=ratio)


def measured(plan: Plan, model: Model, ratios: str | None) -> Plan:
    """The plan with the ratios that --ratios FILE measured, where it names a file."""
    if ratios in (None, "uniform", "erk"):
        return plan
    from dataclasses import replace

    from secateur.formats import sensitivity as records
    from secateur.pipeline.prune import sensitivity

    return replace(plan, ratios=sensitivity.ratios(model, plan, records.read(ratios), ratios))


def samples(data: str | None, split: str, count: int, seed: int) -> Samples | None:
    """`count` samples of the data; None without any."""
    if data is None:
        return None
    from secateur.formats import dataset
    from secateur.pipeline.prune import calibration

    return calibration.draw(dataset.load(data, split), count, seed)
