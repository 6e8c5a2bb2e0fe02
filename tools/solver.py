"""`secateur-solver`: the verifier behind the VNN-LIB standard's command line (chapter 5)."""

from __future__ import annotations

import click

from secateur.tools.common import device_option, seed_option, threads_option
from secateur.tools.reporting import ReportingGroup, run


@click.group("secateur-solver", cls=ReportingGroup, invoke_without_command=True)
@click.option("--name", is_flag=True, help="Print the solver's name.")
@click.option("--version", is_flag=True, help="Print the solver's version.")
@click.pass_context
def command(ctx: click.Context, name: bool, version: bool) -> None:
    """Decide VNN-LIB queries, as the standard's chapter 5 says.

    Errors go to standard error, with exit code 2 for bad input and 3 for what is not supported.
    """
    from secateur.formats import onnx_model

    if name:
        click.echo("secateur")
    elif version:
        click.echo(onnx_model.tool_version())
    elif ctx.invoked_subcommand is None:
        raise click.UsageError("expected verify, supports, --name or --version")


@command.command(
    epilog="""\b
Examples:
  secateur-solver verify query.vnnlib --network f=net.onnx --timeout 60
  secateur-solver verify twins.vnnlib --network f=dense.onnx --network g=pruned.onnx"""
)
@click.argument("query", metavar="QUERY")
@click.option(
    "--network", "networks", multiple=True, metavar="NAME=FILE", help="The model of a network; repeatable."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
)
@click.option(
    "--serialise-assignments",
    "--assignments",
    "folder",
    metavar="DIR",
    help="Write the variables of a 'sat' as ONNX tensors DIR/NAME.pb instead of printing them.",
)
@device_option
@seed_option
@threads_option
def verify(
    query: str,
    networks: tuple[str, ...],
    timeout: float,
    folder: str | None,
    device: str,
    seed: int,
    threads: int | None,
) -> None:
    """Print sat, unsat, unknown or timed-out, and after sat the assignment that satisfies QUERY."""
    files = {}
    for text in networks:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in files:
            raise click.UsageError(f"--network '{text}': expected NAME=FILE, each network once")
        files[name] = path
    from secateur.pipeline import compute, standard
    from secateur.pipeline.questions import How

    compute.configure(device, threads)
    how = How(device=device, seed=seed, memory=compute.memory(device))
    reply = standard.solve(query, files, how, timeout=timeout)
    click.echo(reply.word)
    if reply.witness is not None:
        if folder is None:
            click.echo(standard.assignment(reply.query, reply.witness), nl=False)
        else:
            standard.serialise(reply.query, reply.witness, folder)
    if reply.message:
        click.echo(reply.message, err=True)


@command.command(
    epilog="""\b
Examples:
  secateur-solver instance onnx/net.onnx vnnlib/prop.vnnlib result.txt 300
  secateur-solver instance "[('f','onnx/a.onnx'),('g','onnx/b.onnx')]" vnnlib/twins.vnnlib result.txt 300"""
)
@click.argument("onnx")
@click.argument("query", metavar="VNNLIB")
@click.argument("result", metavar="RESULT")
@click.argument("timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS")
@device_option
@seed_option
@threads_option
def instance(
    onnx: str, query: str, result: str, timeout: float, device: str, seed: int, threads: int | None
) -> None:
    """Decide an instance as VNN-COMP asks: the verdict and the witness, in the property's dialect, go to RESULT."""
    from secateur.pipeline import compute, standard
    from secateur.pipeline.questions import How

    compute.configure(device, threads)
    how = How(device=device, seed=seed, memory=compute.memory(device))
    click.echo(standard.competition(onnx, query, result, how, timeout=timeout))


@command.command(
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  secateur-solver supports --onnx-operators
  secateur-solver supports --vnnlib-versions""",
)
@click.argument("capabilities", nargs=-1, required=True, metavar="--CAPABILITY…")
def supports(capabilities: tuple[str, ...]) -> None:
    """Print what is supported of each CAPABILITY of the standard's section 5.4, a line each."""
    from secateur.pipeline.standard import CAPABILITIES

    unknown = [name for name in capabilities if name not in CAPABILITIES]
    if unknown:
        raise click.UsageError(
            f"unknown capability '{unknown[0]}': expected one of {', '.join(CAPABILITIES)}"
        )
    for name in capabilities:
        for line in CAPABILITIES[name]:
            click.echo(line)


def main() -> None:
    """The executable `secateur-solver`."""
    run(command)
