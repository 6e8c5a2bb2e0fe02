"""`secateur benchmark`: benchmark folders in the competition's layout: begun, generated, checked."""

from __future__ import annotations

import click

from secateur.tools.common import say, seed_option, threads_option, verifier_args_option, verifier_option


@click.group("benchmark")
def command() -> None:
    """Begin, generate and check benchmark folders in the layout of VNN-COMP."""


@command.command(
    epilog="""\b
Examples:
  secateur benchmark new my_benchmark --network dense.onnx --network pruned.onnx
  secateur benchmark generate my_benchmark 0 && secateur benchmark check my_benchmark"""
)
@click.argument("directory", metavar="DIR")
@click.option(
    "--network", "networks", multiple=True, metavar="FILE", help="Copied to DIR/networks; repeatable."
)
def new(directory: str, networks: tuple[str, ...]) -> None:
    """Begin a benchmark in DIR: a generator that works, and a README that says what is to be filled in."""
    from secateur.pipeline import benchmark

    for file in benchmark.new(directory, networks):
        say(f"wrote {directory}/{file}")


@command.command(
    epilog="""\b
Examples:
  secateur benchmark generate my_benchmark 42
  secateur benchmark generate vnncomp_benchmarks/pruned_families 0 --networks --twice"""
)
@click.argument("directory", metavar="DIR")
@click.argument("seed", metavar="SEED", type=click.IntRange(min=0))
@click.option("--networks", is_flag=True, help="Make the networks anew, too, by DIR/generate_networks.py.")
@click.option("--twice", is_flag=True, help="Do it twice, and compare byte by byte.")
def generate(directory: str, seed: int, networks: bool, twice: bool) -> None:
    """Run DIR/generate_properties.py SEED: it writes the folders 1.0 and 2.0 anew.

    It is a program: run what you trust. It works in a copy, which takes the folder's place when all went well.
    """
    from secateur.formats import instances
    from secateur.pipeline import benchmark

    for listing in benchmark.generate(directory, seed, networks=networks, twice=twice, say=say):
        lines = instances.read(listing)
        say(f"{len(lines)} instances, {sum(line.timeout for line in lines):.0f} s: {listing}")


@command.command(
    epilog="""\b
Examples:
  secateur benchmark check vnncomp_benchmarks/pruned_families
  secateur benchmark check my_benchmark --run 3 --timeout 10 --verifier crown"""
)
@click.argument("directory", metavar="DIR")
@click.option(
    "--run",
    "count",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Run N instances of each dialect, drawn by --seed.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="At most this long each.",
)
@verifier_option
@verifier_args_option
@seed_option
@threads_option
@click.pass_context
def check(
    ctx: click.Context,
    directory: str,
    count: int,
    timeout: float,
    verifiers: tuple[str, ...],
    verifier_args: tuple[str, ...],
    seed: int,
    threads: int | None,
) -> None:
    """Check DIR: lists and files, sizes and timeouts, every network and every property; a line a finding.

    Standard output has the findings; exit code 1 when one is an error. Notes (a missing README, say) are none.
    """
    from secateur.pipeline import benchmark, compute, dispatch
    from secateur.pipeline.benchmark import checking
    from secateur.pipeline.dispatch.foreign import Limits
    from secateur.pipeline.questions import How
    from secateur.tools.progress import progress

    compute.configure("cpu", threads)
    errors = notes = 0
    with progress(checking.properties(directory), "check") as step:
        for finding in benchmark.check(directory, step):
            errors, notes = errors + finding.error, notes + (not finding.error)
            click.echo(f"{'error' if finding.error else 'note'}: {finding}")
    for verifier in [name for value in verifiers for name in dispatch.split(value)] if count else []:
        how = How(verifier=verifier, seed=seed, limits=Limits(None, threads or 1, verifier_args, "benchmark"))
        for line, said in benchmark.run_some(directory, count, how, timeout=timeout):
            failed = said.startswith("error")
            errors += failed
            click.echo(f"{'error' if failed else 'ran'}: {line.onnx} {line.vnnlib}: {verifier} says {said}")
    say(f"{errors} errors, {notes} notes")
    if errors:
        ctx.exit(1)
