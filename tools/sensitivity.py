"""`secateur sensitivity`: what the pruning of each layer costs."""

from __future__ import annotations

from typing import Any

import click

from secateur.tools import common, pruning


def _sparsities(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        found = tuple(float(part) for part in value.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < share <= 1 for share in found):
        raise click.BadParameter(f"expected shares above 0 and up to 1 such as 0.5,0.9, found '{value}'")
    return found


@click.command(
    epilog="""\b
Examples:
  secateur sensitivity net.onnx --data digits --results s.jsonl --chart s.svg
  secateur sensitivity net.onnx --data mnist.npz --granularity channel --epsilon 0.02 --results s.jsonl --chart s.png
  secateur prune magnitude net.onnx -s 0.8 --ratios s.jsonl -o sparse.onnx"""
)
@common.model_argument
@click.option(
    "--criterion", default="magnitude", show_default=True, help="By what to prune; see prune --list."
)
@pruning.unit_options
@common.data_option
@common.split_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images.")
@click.option(
    "--sparsities",
    callback=_sparsities,
    metavar="S,S,…",
    help="What to try  [default: 0.1 to 0.9 by 0.1, and 0.95]",
)
@pruning.criterion_options
@click.option(
    "--bounded",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="With --epsilon: count the unstable neurons of so many images.",
)
@click.option(
    "--bounds",
    type=click.Choice(["ibp", "crown"]),
    default="crown",
    show_default=True,
    help="By which bounds.",
)
@click.option(
    "--results", metavar="R.jsonl", required=True, help="Records, a JSON line each; what is there is kept."
)
@click.option("--chart", metavar="FILE", help="Also draw them: .svg or .png.")
@common.seed_option
@common.device_option
def command(
    model: str,
    criterion: str,
    data: str,
    split: str,
    limit: int | None,
    sparsities: tuple[float, ...] | None,
    bounded: int,
    bounds: str,
    results: str,
    chart: str | None,
    device: str,
    **options: Any,
) -> None:
    """Prune each layer alone, more and more, and measure accuracy; with --epsilon, also unstable neurons.

    Criteria that need data see 256 images of the training split. Call it again after a stop: what is in --results is
    not measured again. `secateur prune --ratios R.jsonl` prunes each layer so far that all cost the same.
    """
    from secateur.formats import dataset, onnx_model, streams
    from secateur.formats import sensitivity as records
    from secateur.pipeline.prune import sensitivity
    from secateur.pipeline.study import sensitivity_chart
    from secateur.tools.progress import progress

    sensitivity.check_granularity(options["granularity"])
    points = records.resume(results)
    if chart is not None:
        streams.check_destination(chart)
    sweep = sensitivity.sweep(
        onnx_model.read(model),
        pruning.plan(criterion, options | {"sparsity": 0.0}),
        dataset.load(data, split, limit),
        sparsities=sparsities or sensitivity.SPARSITIES,
        finished=points,
        samples=pruning.samples(data, "train", 256, options["seed"]),
        epsilon=options["epsilon"],
        bounded=bounded,
        bounds=bounds,
        device=device,
    )
    with progress(len(sweep.todo), "measure") as step:
        for point in sweep.points():
            points.append(point)
            records.write(points, results)
            step(f"{point.layer or 'dense'} at {point.sparsity:g}: accuracy {point.accuracy:.2%}")
    own = [point for point in points if point.settings == sweep.settings]
    if chart is not None:
        sensitivity_chart.draw(own, chart)
    common.say(f"{len(own)} points are in {results}")
