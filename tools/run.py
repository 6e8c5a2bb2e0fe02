"""`secateur run`: verify every instance of an instances.csv, and resume."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from secateur.tools.common import (
    device_option,
    interruptible,
    memory_option,
    say,
    seed_option,
    threads_option,
    uninterrupted,
    verifier_option,
)

if TYPE_CHECKING:
    from secateur.pipeline.campaign import Tally


@click.command(
    epilog="""\b
Examples:
  secateur run instances.csv --timeout 20 --results results.jsonl
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
@click.option(
    "--witness-dir", metavar="DIR", help="Where to write a witness of every 'sat'; made when missing."
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N instances.")
@device_option
@memory_option
@click.option(
    "--state",
    "state_dir",
    metavar="DIR",
    help="Where to write what time leaves open, and from where a run with a longer --timeout goes on; made when "
    "missing.",
)
@seed_option
@threads_option
def command(
    instances: str,
    results: str,
    timeout: float | None,
    verifier: str,
    witness_dir: str | None,
    limit: int | None,
    device: str,
    memory: int | None,
    state_dir: str | None,
    seed: int,
    threads: int | None,
) -> None:
    """Verify every instance of INSTANCES.csv (VNN-COMP: onnx,vnnlib,timeout), one record each in --results.

    Call it again after a stop: what has a record (same model, property, verifier and timeout) is skipped.
    An instance that fails gets the verdict 'error', and the run goes on; the next call tries it again.
    """
    from secateur.pipeline import campaign, compute
    from secateur.tools.progress import progress

    if state_dir is not None and verifier != "crown":
        raise click.UsageError(f"the verifier {verifier} leaves no --state")
    compute.configure(device, threads)
    plan = campaign.plan(instances, results, verifier=verifier, timeout=timeout, limit=limit)
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
                device=device,
                seed=seed,
                memory=compute.memory(device) if memory is None else memory,
                witness_dir=witness_dir,
                state_dir=state_dir,
                stop=stop,
            ):
                records.append(record)
                step(counts(campaign.tally(records)))
            if stop():
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        say(
            f"{len(records)} of {len(plan.jobs)} instances are in {results}; the same command goes on from there"
        )
        raise
    for record in records:
        if record.verdict == "error":
            say(f"error: {record.model} {record.property}: {record.message}")
    total = campaign.tally(records)
    say(f"{total.instances} instances: {counts(total)}")
    say(f"{total.seconds:.1f} s in all, median {total.median_seconds:.2f} s")


def counts(tally: Tally) -> str:
    """`unsat 12, sat 3, error 1`: the verdicts that occurred."""
    return ", ".join(f"{name} {count}" for name, count in tally.verdicts.items() if count) or "nothing done"
