"""`secateur reduce-model`: a minimal part of a model that still shows a failure."""

from __future__ import annotations

import time

import click

from secateur.tools.common import interruptible, model_argument, output_option, say, seed_option

SECONDS_BETWEEN_LINES = 5.0


@click.command(
    epilog="""\b
Examples:
  secateur reduce-model net.onnx --fails 'marabou {onnx} prop.vnnlib' --matches 'not currently supported' -o small.onnx
  secateur reduce-model net.onnx --fails 'python check.py {onnx}' -o small.onnx
  secateur reduce-model net.onnx --pass relus -o small.onnx
  secateur reduce-model net.onnx --mismatch torch -o small.onnx && secateur inspect small.onnx"""
)
@model_argument
@output_option
@click.option(
    "--fails",
    "template",
    metavar="COMMAND",
    help="The failure: this command, with {onnx} for the model's file, ends as for the whole model, with an exit code "
    "that is not 0.",
)
@click.option(
    "--matches",
    metavar="REGEX",
    help="With --fails: the failure is that its output has this, whatever the exit code.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="With --fails: what each call may take; to take longer is an end, too.",
)
@click.option(
    "--pass",
    "words",
    metavar="NAME[,NAME…]",
    help="The failure: these conversion passes change the results, or break off.",
)
@click.option(
    "--mismatch",
    type=click.Choice(["engine", "torch"]),
    help="The failure: our engine's graph, or onnx2torch's, differs from onnxruntime, or breaks off.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1e-4,
    show_default=True,
    help="The largest difference, relative to the largest output (at least 1), that passes for equal.",
)
@seed_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    output: str,
    template: str | None,
    matches: str | None,
    timeout: float,
    words: str | None,
    mismatch: str | None,
    tolerance: float,
    seed: int,
) -> None:
    """Find a minimal part of MODEL that still shows a failure: a verifier's, a pass's, the engine's, onnx2torch's.

    The model is cut behind and in front by bisection, then nodes are left out one by one; what they computed
    becomes inputs or, where that does not do, recorded constants. The result is a valid model, of which no node
    can be left out. Ctrl-C writes the smallest part found by then; run again on it to go on.
    """
    if sum(choice is not None for choice in (template, words, mismatch)) != 1:
        raise click.UsageError("name one failure: --fails, --pass or --mismatch")
    if matches is not None and template is None:
        raise click.UsageError("--matches goes with --fails")
    from secateur.formats import onnx_model, streams
    from secateur.pipeline import failures, minimal
    from secateur.pipeline.convert.passes import table as passes

    streams.check_destination(output, binary=True)
    network = onnx_model.read(model)
    if template is not None:
        fails = failures.command(network, template, matches=matches, seconds=timeout)
    else:
        other = (
            failures.OTHERS[mismatch] if mismatch is not None else failures.passes(passes.named(words or ""))
        )
        fails = failures.mismatch(network, other, tolerance=tolerance, seed=seed)
    last = time.monotonic()

    def progress(trials: int, nodes: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            say(f"{trials} parts tried, {nodes} nodes left")

    with interruptible() as stop:
        found = minimal.reduce(network, fails, seed=seed, stop=stop, progress=progress)
    arguments: dict[str, object] = {"seed": seed, "fails": words or mismatch or "command"}
    onnx_model.add_provenance(found.proto, "reduce-model", arguments, network.sha256)
    onnx_model.write(found.proto, output)
    say(
        f"{len(network.graph.node)} -> {len(found.nodes)} nodes in {found.trials} trials: {', '.join(found.nodes[:8])}"
    )
    if not found.finished:
        say("stopped: no part was found to be minimal yet")
        ctx.exit(130)
