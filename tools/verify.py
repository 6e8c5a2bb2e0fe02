"""`secateur verify`: decide whether a property can be violated."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from secateur.tools.common import (
    device_option,
    interruptible,
    json_option,
    memory_option,
    model_argument,
    property_argument,
    say,
    seed_option,
    threads_option,
    timeout_option,
    uninterrupted,
    verifier_option,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from secateur.formats.verdict import Label, Record
    from secateur.pipeline.profile import Sampler

EXIT_CODES = {"unsat": 10, "sat": 11}


@click.command(
    epilog="""\b
Examples:
  secateur verify net.onnx prop.vnnlib --timeout 120 --witness bad_input.txt
  secateur shrink net.onnx | secateur verify - prop.vnnlib --json
  secateur verify net.onnx prop.vnnlib --exit-verdict; test $? -eq 10 && echo proved"""
)
@model_argument
@property_argument
@timeout_option
@verifier_option
@click.option("--witness", "witness_file", metavar="FILE", help="Where to write the witness of a 'sat'.")
@click.option(
    "--exit-verdict", is_flag=True, help="Exit with 10 for unsat, 11 for sat, 12 for unknown or timeout."
)
@json_option
@click.option(
    "--profile",
    is_flag=True,
    help="Print where the time went: seconds a phase, domains a second, memory, kinds of operations (sampled, at the "
    "cost of 5 % of the time and two seconds at first). With --json, in the record's labels.",
)
@device_option
@memory_option
@click.option(
    "--state",
    metavar="FILE",
    help="When time is over or at Ctrl-C, write what is left of the search here; go on from it when it is there. "
    "Trust it as you trust who wrote it: what it leaves out counts as proved.",
)
@seed_option
@threads_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    prop: str,
    timeout: float,
    verifier: str,
    witness_file: str | None,
    exit_verdict: bool,
    as_json: bool,
    profile: bool,
    device: str,
    memory: int | None,
    state: str | None,
    seed: int,
    threads: int | None,
) -> None:
    """Decide whether an input can satisfy PROPERTY (VNN-LIB) on MODEL (ONNX).

    Prints 'sat' (there is one: see --witness), 'unsat' (proved: there is none), 'unknown' or 'timeout'.
    A property states what must not happen, so 'unsat' is the good news. 'sat' is said only of an input that
    violates the property in onnxruntime too. Ctrl-C ends the search in order: 'timeout', with what is known by then.
    """
    if profile:
        os.environ.setdefault(
            "KINETO_LOG_LEVEL", "99"
        )  # the profiler's own messages; read when torch is imported
    from secateur.formats import verdict
    from secateur.pipeline import campaign, compute
    from secateur.pipeline.profile import Sampler

    if state is not None and verifier != "crown":
        raise click.UsageError(f"the verifier {verifier} leaves no --state")
    compute.configure(device, threads)
    with interruptible() if verifier == "crown" else nullcontext(uninterrupted) as stop:
        sampler = Sampler(stop) if profile else None
        try:
            record = campaign.verify_files(
                model,
                prop,
                verifier=verifier,
                timeout=timeout,
                device=device,
                seed=seed,
                memory=compute.memory(device) if memory is None else memory,
                state=state,
                stop=sampler or stop,
                witness_file=witness_file,
            )
        finally:  # a profiler that listens when the process ends crashes it
            if sampler is not None:
                sampler.close()
    if sampler is not None:
        record = replace(record, labels=_numbers(record, sampler, device))
        for line in _table(record):
            say(line)
    click.echo(verdict.to_json(record) if as_json else record.verdict)
    reached = "" if record.bound is None else f", bound {record.bound:.4g}"
    why = f": {record.message}" if record.message else ""
    say(f"{record.verdict} in {record.seconds:.2f} s, {record.domains} sub-problems{reached}{why}")
    if stop() and record.verdict == "timeout":
        ctx.exit(130)
    if exit_verdict:
        ctx.exit(EXIT_CODES.get(record.verdict, 12))


def _numbers(record: Record, sampler: Sampler, device: str) -> Mapping[str, Label]:
    """The profile's numbers besides the phases."""
    from secateur.pipeline.profile import peak_bytes

    branch = record.phases.get("branch", 0.0)
    return {
        "domains_per_second": record.domains / branch if branch else 0.0,
        "peak_bytes": peak_bytes(device),
        "sampled_seconds": sampler.heard,
        **{f"share of {name}": share for name, share in sampler.shares().items()},
    }


def _table(record: Record) -> list[str]:
    """The profile of a record, for people."""
    lines = [f"{'phase':24} {'seconds':>9} {'share':>7}"]
    for phase, seconds in record.phases.items():
        lines.append(f"{phase:24} {seconds:9.3f} {seconds / record.seconds:7.1%}")
    numbers = {name: float(value) for name, value in record.labels.items()}
    lines.append(f"{'domains a second':24} {numbers['domains_per_second']:9.0f}")
    lines.append(f"{'peak memory, MB':24} {numbers['peak_bytes'] / 1e6:9.0f}")
    lines.append(f"{'kinds of operations':24} {numbers['sampled_seconds']:9.2f} seconds heard")
    for name, value in numbers.items():
        if name.startswith("share of "):
            lines.append(f"  {name.removeprefix('share of '):22} {'':9} {value:7.1%}")
    return lines
