"""The `secateur` command: a table of subcommands, each imported only when it is called."""

from __future__ import annotations

import gc
import importlib

import click

from secateur.tools.reporting import ReportingGroup, run

SECTIONS: dict[str, dict[str, str]] = {
    "Models": {
        "convert": "Turn a PyTorch or ONNX file into one clean ONNX model.",
        "diff": "Find the input at which two models disagree most.",
        "reduce-model": "Find a minimal part of a model that still shows a failure.",
        "inspect": "Show operators, shapes, zeros and, given a property, stable neurons.",
        "train": "Train a named architecture or an ONNX model in place.",
        "evaluate": "Measure accuracy on a data set.",
    },
    "Pruning": {
        "prune": "Zero the weights or channels that a criterion scores lowest.",
        "apply": "Apply a mask to a model.",
        "mask": "Show, compare and combine masks.",
        "extract-mask": "Recover the mask of a model that another tool pruned.",
        "sensitivity": "Measure what the pruning of each layer costs, and draw it.",
        "shrink": "Remove dead neurons and channels from the graph.",
    },
    "Proving": {
        "property": "Write properties (VNN-LIB) from data; convert them; join networks.",
        "attack": "Search for an input that violates a property.",
        "bounds": "Bound the outputs over a property's input region.",
        "verify": "Decide whether a property can be violated.",
        "check": "Check a witness, or a certificate of 'unsat'.",
        "verifiers": "List, install and examine verifiers; what ours understands.",
    },
    "Studies": {
        "benchmark": "Begin, generate and check benchmark folders (VNN-COMP).",
        "run": "Verify every instance of an instances.csv; resumes.",
        "measure": "Measure models alike: accuracy, certified accuracy, bounds, cost.",
        "report": "Turn records into one HTML page, tables and figures.",
        "tickets": "Train, prune, rewind, train again, by method and seed; measure every round.",
        "demo": "Train, prune, shrink, attack, verify and report on digits.",
    },
}
"""What `secateur --help` shows, so that it need not import a single command."""

COMMANDS: dict[str, str] = {
    name: f"secateur.tools.{name.replace('-', '_')}:command"
    for section in SECTIONS.values()
    for name in section
}
"""Each subcommand's click object, as `module:attribute`."""


class LazyGroup(ReportingGroup):
    """A click group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            advice = f"; did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"there is no command '{args[0]}'{advice}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl(list(commands.items()))


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"secateur {version('secateur')}")
        ctx.exit()


@click.group(
    "secateur",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="A MODEL is an ONNX file (.gz too) or '-' for standard streams. Standard output carries the model, the "
    "verdict or --json, and nothing else. Exit codes: 0 done, 1 a check failed, 2 bad input, "
    "3 unsupported operator or format, 130 interrupted.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version.",
)
def cli() -> None:
    """Prune neural networks as ONNX files, and prove what the pruned ones do.

    \b
    secateur prune magnitude -s 0.8 - < dense.onnx | secateur shrink - | secateur verify - p.vnnlib
    """


def main() -> None:
    """The console script."""
    # Importing torch makes a million objects that stay; looking for garbage among them takes a tenth of it.
    gc.set_threshold(10_000)
    run(cli)
