"""`secateur evaluate`."""

from __future__ import annotations

import click

from secateur.tools.common import data_option, emit_json, json_option, model_argument, split_option


@click.command(
    epilog="""\b
Examples:
  secateur evaluate dense.onnx
  secateur evaluate dense.onnx --data mnist.npz --limit 1000 --json
  secateur prune magnitude -s 0.5 dense.onnx | secateur evaluate -"""
)
@model_argument
@data_option
@split_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images.")
@json_option
def command(model: str, data: str, split: str, limit: int | None, as_json: bool) -> None:
    """Measure accuracy, overall and per class, and the confusion matrix, in onnxruntime.

    A row of the confusion matrix is a true class, a column the class that the model gives.
    """
    from secateur.formats import dataset, onnx_model
    from secateur.pipeline.train.evaluate import evaluate

    result = evaluate(onnx_model.read(model), dataset.load(data, split, limit))
    if as_json:
        emit_json(result.to_dict())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Confusion (rows: true class)", title_justify="left")
    table.add_column("class")
    table.add_column("accuracy", justify="right")
    for label in range(len(result.confusion)):
        table.add_column(str(label), justify="right")
    for label, (row, share) in enumerate(zip(result.confusion, result.per_class, strict=True)):
        counts = [str(count) if count else "·" for count in row]
        table.add_row(str(label), "–" if share is None else f"{share:.1%}", *counts)
    console = Console(stderr=True)
    console.print(table)
    console.print(
        f"accuracy {result.accuracy:.2%}: {result.correct} of {result.images} images", highlight=False
    )
