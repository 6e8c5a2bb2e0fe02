"""`secateur verify`: decide whether a property can be violated."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from secateur.tools.common import (
    branching_option,
    device_option,
    emit_json,
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
    verifier_args_option,
    verifier_option,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from secateur.formats.verdict import Label, Record
    from secateur.pipeline.profile import Sampler
    from secateur.pipeline.questions import How

EXIT_CODES = {"unsat": 10, "sat": 11}


@click.command(
    epilog="""\b
Examples:
  secateur verify net.onnx prop.vnnlib --timeout 120 --witness bad_input.txt
  secateur shrink net.onnx | secateur verify - prop.vnnlib --json
  secateur verify net.onnx prop.vnnlib --exit-verdict; test $? -eq 10 && echo proved
  secateur verify net.onnx prop.vnnlib --certificate proof.npz
  secateur verify net.onnx prop.vnnlib --verifier crown,marabou --disagreement /tmp/who-is-wrong
  secateur verify net.onnx prop.vnnlib --verifier crown,neuralsat --portfolio
  secateur verify f=dense.onnx,g=pruned.onnx twins.vnnlib"""
)
@model_argument
@property_argument
@timeout_option
@verifier_option
@verifier_args_option
@click.option(
    "--portfolio",
    is_flag=True,
    help="Run all verifiers side by side; the first answer that can be trusted ends the others.",
)
@click.option(
    "--disagreement",
    metavar="DIR",
    default="disagreement",
    show_default=True,
    help="Where all that shows it again is written when verifiers disagree.",
)
@click.option("--log", metavar="FILE", help="Where to write what a foreign verifier printed.")
@click.option("--witness", "witness_file", metavar="FILE", help="Where to write the witness of a 'sat'.")
@click.option(
    "--certificate",
    metavar="FILE",
    help="Where to write the certificate of an 'unsat', which 'secateur check certificate' checks by other code. Of "
    "ReLU networks; such a proof takes longer than the verdict alone.",
)
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
@branching_option
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
    verifiers: tuple[str, ...],
    verifier_args: tuple[str, ...],
    portfolio: bool,
    disagreement: str,
    log: str | None,
    witness_file: str | None,
    certificate: str | None,
    exit_verdict: bool,
    as_json: bool,
    profile: bool,
    device: str,
    memory: int | None,
    branching: str,
    state: str | None,
    seed: int,
    threads: int | None,
) -> None:
    """Decide whether an input can satisfy PROPERTY (VNN-LIB 1.0 or 2.0) on MODEL (ONNX).

    Prints 'sat' (there is one: see --witness), 'unsat' (proved: there is none), 'unknown' or 'timeout'.
    A property states what must not happen, so 'unsat' is the good news. 'sat' is said only of an input that
    violates the property in onnxruntime too (a foreign verifier's that does not is an 'invalid-witness'). Ctrl-C ends
    the search in order: 'timeout', with what is known by then. Several networks are given as NAME=FILE,NAME=FILE.

    With several verifiers a witness that holds settles the question, then 'unsat' from one that is not known to have
    said it wrongly; who said 'unsat' against a witness is named, and the exit code is 1.
    """
    if profile:
        os.environ.setdefault(
            "KINETO_LOG_LEVEL", "99"
        )  # the profiler's own messages; read when torch is imported
    from secateur.formats import verdict
    from secateur.pipeline import campaign, compute, dispatch
    from secateur.pipeline.dispatch.foreign import Limits
    from secateur.pipeline.profile import Sampler
    from secateur.pipeline.questions import How

    names = [name for value in verifiers for name in dispatch.split(value)]
    if state is not None and names != ["crown"]:
        raise click.UsageError(f"the verifier {', '.join(names)} leaves no --state")
    if certificate is not None and (names != ["crown"] or state is not None):
        raise click.UsageError(
            "a --certificate is written by the verifier crown alone, in one run without --state"
        )
    compute.configure(device, threads)
    memory = compute.memory(device) if memory is None else memory
    limits = Limits(memory, threads or os.cpu_count() or 1, verifier_args)
    how = How(device=device, seed=seed, memory=memory, branching=branching, limits=limits)
    if len(names) > 1:
        if witness_file is not None or log is not None or profile:
            raise click.UsageError("--witness, --log and --profile go with one verifier")
        _several(ctx, model, prop, names, how, timeout, portfolio, disagreement, as_json, exit_verdict)
        return
    [verifier] = names
    with interruptible() if verifier == "crown" else nullcontext(uninterrupted) as stop:
        sampler = Sampler(stop) if profile else None
        try:
            record = campaign.verify_files(
                model,
                prop,
                replace(how, verifier=verifier, stop=sampler or stop),
                timeout=timeout,
                state=state,
                witness_file=witness_file,
                log=log,
                certificate=certificate,
            )
        finally:  # a profiler that listens when the process ends crashes it
            if sampler is not None:
                sampler.close()
    if sampler is not None:
        record = replace(record, labels={**record.labels, **_numbers(record, sampler, device)})
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


def _several(
    ctx: click.Context,
    model: str,
    prop: str,
    names: list[str],
    how: How,
    timeout: float,
    portfolio: bool,
    disagreement: str,
    as_json: bool,
    exit_verdict: bool,
) -> None:
    """Several verifiers: side by side, or one after the other to check each other."""
    from secateur.formats import verdict
    from secateur.pipeline import crosscheck

    def tell(record: Record) -> None:
        why = f": {record.message}" if record.message else ""
        say(f"{record.verifier}: {record.verdict} in {record.seconds:.2f} s{why}")

    if portfolio:
        records = list(crosscheck.portfolio(model, prop, names, how, timeout=timeout))
        for record in records:
            tell(record)
    else:
        records = crosscheck.check_each(model, prop, names, how, timeout=timeout, said=tell)
    conclusion = crosscheck.conclude(records)
    if as_json:
        lines = [json.loads(verdict.to_json(record)) for record in records]
        emit_json({"verdict": conclusion.verdict, "refuted": conclusion.refuted, "records": lines})
    else:
        click.echo(conclusion.verdict)
    if conclusion.message:
        say(conclusion.message)
    if conclusion.refuted:
        crosscheck.write_reproduction(disagreement, model, prop, records, how)
        say(f"{disagreement} shows it again: sh {disagreement}/reproduce.sh")
        ctx.exit(1)
    if exit_verdict:
        ctx.exit(EXIT_CODES.get(conclusion.verdict, 12))


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
