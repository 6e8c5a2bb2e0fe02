"""`secateur run`: verify every instance of an instances.csv, and resume."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secateur.tools.common import (
    branching_option,
    device_option,
    interruptible,
    memory_option,
    say,
    seed_option,
    threads_option,
    uninterrupted,
    verifier_args_option,
    verifier_option,
)

if TYPE_CHECKING:
    from secateur.pipeline.campaign import Tally


@click.command(
    epilog="""\b
Examples:
  secateur run instances.csv --timeout 20 --results results.jsonl
  secateur run instances.csv --results both.jsonl --verifier crown,marabou --disagreements wrong
  secateur report results.jsonl -o report.html"""
)
@click.argument("instances", metavar="INSTANCES.csv")
@click.option(
    "--results", metavar="R.jsonl", required=True, help="Records, one JSON line an instance; appended to."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="At most this long an instance  [default: as long as INSTANCES.csv says]",
)
@verifier_option
@verifier_args_option
@click.option(
    "--disagreements",
    metavar="DIR",
    default="disagreements",
    show_default=True,
    help="Where, a folder each, all that shows it again is written when verifiers disagree.",
)
@click.option(
    "--log-dir", metavar="DIR", help="Where to write what foreign verifiers print; made when missing."
)
@click.option(
    "--witness-dir", metavar="DIR", help="Where to write a witness of every 'sat'; made when missing."
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N instances.")
@device_option
@memory_option
@branching_option
@click.option(
    "--state",
    "state_dir",
    metavar="DIR",
    help="Where to write what time leaves open, and from where a run with a longer --timeout goes on; made when "
    "missing.",
)
@seed_option
@threads_option
@click.pass_context
def command(
    ctx: click.Context,
    instances: str,
    results: str,
    timeout: float | None,
    verifiers: tuple[str, ...],
    verifier_args: tuple[str, ...],
    disagreements: str,
    log_dir: str | None,
    witness_dir: str | None,
    limit: int | None,
    device: str,
    memory: int | None,
    branching: str,
    state_dir: str | None,
    seed: int,
    threads: int | None,
) -> None:
    """Verify every instance of INSTANCES.csv (VNN-COMP: onnx,vnnlib,timeout), one record each in --results.

    Call it again after a stop: what has a record (same model, property, verifier and timeout) is skipped.
    An instance that fails gets the verdict 'error', and the run goes on; the next call tries it again. Several
    verifiers have a record each; who said 'unsat' against a witness is named at the end (exit code 1).
    """
    from secateur.pipeline import campaign, compute, crosscheck, dispatch
    from secateur.pipeline.dispatch.foreign import Limits
    from secateur.pipeline.questions import How
    from secateur.tools.progress import progress

    names = [name for value in verifiers for name in dispatch.split(value)]
    if state_dir is not None and names != ["crown"]:
        raise click.UsageError(f"the verifier {', '.join(names)} leaves no --state")
    compute.configure(device, threads)
    memory = compute.memory(device) if memory is None else memory
    limits = Limits(
        memory, threads or os.cpu_count() or 1, verifier_args, Path(instances).parent.name or "benchmark"
    )
    plan = campaign.plan(instances, results, verifiers=names, timeout=timeout, limit=limit)
    records = plan.finished
    if records:
        say(f"{len(records)} of {len(plan.jobs)} instances are done already in {results}")
    try:
        with (
            progress(len(plan.pending), "verify") as step,
            nullcontext(uninterrupted) if state_dir is None else interruptible() as stop,
        ):
            for record in campaign.run(
                plan.pending,
                results,
                How(device=device, seed=seed, memory=memory, branching=branching, stop=stop, limits=limits),
                witness_dir=witness_dir,
                state_dir=state_dir,
                log_dir=log_dir,
            ):
                records.append(record)
                step(counts(campaign.tally(records)))
            if stop():
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        # Counted from the file: the last record may have been written without having been heard of.
        plan = campaign.plan(instances, results, verifiers=names, timeout=timeout, limit=limit)
        done = f"{len(plan.finished)} of {len(plan.jobs)} instances are in {results}"
        say(f"{done}; the same command goes on from there")
        raise
    for record in records:
        if record.verdict == "error":
            say(f"error: {record.model} {record.property}: {record.message}")
    total = campaign.tally(records)
    say(f"{total.instances} instances: {counts(total)}")
    say(f"{total.seconds:.1f} s in all, median {total.median_seconds:.2f} s")
    wrong = crosscheck.disagreements(plan.jobs, records, disagreements, How(seed=seed))
    for message in wrong:
        say(message)
    if wrong:
        ctx.exit(1)


def counts(tally: Tally) -> str:
    """`unsat 12, sat 3, error 1`: the verdicts that occurred."""
    return ", ".join(f"{name} {count}" for name, count in tally.verdicts.items() if count) or "nothing done"
