"""`secateur measure`: models measured alike, one record each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from secateur.tools import common

if TYPE_CHECKING:
    from collections.abc import Mapping


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",")) if value else ()


def _labels(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str | float | int]:
    """`NAME=VALUE`, the value as the number that it is, else as text."""
    labels: dict[str, str | float | int] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"expected NAME=VALUE, found '{text}'")
        labels[name] = value
        for number in (int, float):
            try:
                labels[name] = number(value)
                break
            except ValueError:
                continue
    return labels


def _list_columns(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from secateur.formats.measurements import COLUMNS
        from secateur.pipeline.measures import GROUPS

        for name, meaning in GROUPS.items():
            click.echo(f"--only {name:17} {meaning}")
        for name, column in COLUMNS.items():
            click.echo(f"{name:24} {column.meaning}")
        ctx.exit()


@click.command(
    epilog="""\b
Examples:
  secateur measure dense.onnx pruned.onnx --epsilon 0.05 --dense dense.onnx -o records.jsonl
  secateur measure net.onnx --data mnist.npz --epsilon 0.1 --images 200 --timeout 300 -o records.parquet
  secateur measure net.onnx --epsilon 0.05 --only accuracy,bounds,size --json
  secateur report records.jsonl -o report.html"""
)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "--list",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_list_columns,
    help="List what can be measured, and the columns of records.",
)
@common.data_option
@common.split_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images of the data.")
@click.option(
    "--epsilon", required=True, metavar="E", help="Radius on raw pixels in [0, 1], such as 0.02 or 2/255."
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="Certify so many images. (Accuracy is measured on all.)",
)
@click.option(
    "--start", type=click.IntRange(min=0), default=0, show_default=True, metavar="I", help="From this one on."
)
@click.option(
    "--draw", type=click.IntRange(min=0), metavar="SEED", help="Take them in an order drawn by this seed."
)
@click.option(
    "--only",
    callback=_numbers,
    metavar="NAME,…",
    help="Measure only these: accuracy, calibration, attacks, transfer, bounds (IBP, CROWN), alpha-crown, complete, "
    "size, speed.",
)
@click.option(
    "--dense", metavar="MODEL", help="Also try attacks made on this network; sparsity is counted from it."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Of complete verification, an image.",
)
@click.option(
    "--attacked", type=click.IntRange(min=1), metavar="N", help="Attack only the first so many images."
)
@click.option(
    "--pgd-steps", type=click.IntRange(min=1), default=20, show_default=True, help="Gradient steps of PGD."
)
@click.option(
    "--pgd-restarts", type=click.IntRange(min=1), default=2, show_default=True, help="How often PGD starts."
)
@click.option(
    "--mean", callback=_numbers, metavar="M[,M…]", help="Mean a channel, when models want normalised pixels."
)
@click.option("--std", callback=_numbers, metavar="S[,S…]", help="Standard deviation a channel, likewise.")
@click.option(
    "--label",
    "labels",
    callback=_labels,
    multiple=True,
    metavar="NAME=VALUE",
    help="A column of the records, such as method=imp, seed=0, objective=certified, sparsity=0.8; repeatable.",
)
@common.seed_option
@common.device_option
@common.threads_option
@common.json_option
@click.option(
    "-o", "--output", metavar="RECORDS", help="Where records go: .parquet, or JSON lines; kept and resumed."
)
def command(
    models: tuple[str, ...],
    data: str,
    split: str,
    limit: int | None,
    output: str | None,
    dense: str | None,
    only: tuple[str, ...],
    labels: dict[str, str | float | int],
    device: str,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure models on the same images in the same way; a record each, for `secateur report`.

    Standard, FGSM and PGD accuracy and its spread over classes, calibration; certified accuracy by IBP, CROWN, α-CROWN
    and complete verification (right and proved; what time leaves open is counted apart), with the seconds and
    sub-domains it took; unstable neurons and widths of bounds a layer; parameters, operations, milliseconds.
    Call it again after a stop: models whose record is there, measured alike, are not measured again.
    """
    from secateur.formats import dataset, measurements, onnx_model
    from secateur.pipeline import compute
    from secateur.pipeline.measures import GROUPS, Bench, Settings, Strength, choose, size
    from secateur.tools.progress import progress

    if output is None and not as_json:
        raise click.UsageError("say where to write: -o RECORDS, --json or both")
    compute.configure(device, threads)
    settings = Settings(
        groups=only or tuple(GROUPS),
        timeout=options["timeout"],
        attacked=options["attacked"],
        strength=Strength(options["pgd_steps"], options["pgd_restarts"]),
        seed=options["seed"],
        device=device,
    )
    records = [] if output is None else measurements.resume(output)
    images = choose(
        dataset.load(data, split, limit),
        options["epsilon"],
        count=options["images"],
        start=options["start"],
        seed=options["draw"],
        mean=options["mean"],
        std=options["std"],
    )
    bench = Bench(images, settings)
    origin = None if dense is None else onnx_model.read(dense)
    networks = [onnx_model.read(model) for model in models]
    known = {record.get("fingerprint"): record for record in records}
    todo = [network for network in networks if bench.fingerprint(network, origin) not in known]
    if len(todo) < len(networks):
        common.say(f"{len(networks) - len(todo)} of {len(networks)} models are measured already in {output}")
    with progress(len(todo) * bench.steps, "measure") as step:
        for network in todo:
            record = bench.measure(network, dense=origin, step=step)
            record = {**size.place(network, origin), **record, **labels}
            records.append(record)
            known[record["fingerprint"]] = record
            if output is not None:
                measurements.write(records, output)
    for network in networks:
        record = known[bench.fingerprint(network, origin)]
        common.say(_line(record))
        if as_json:
            click.echo(measurements.to_json(record))


def _line(record: Mapping[str, Any]) -> str:
    """What people want to know first."""
    names = {
        "accuracy": "accuracy",
        "pgd_accuracy": "PGD",
        "certified_ibp": "certified by IBP",
        "certified_crown": "CROWN",
        "certified_alpha_crown": "α-CROWN",
        "certified": "certified",
        "undecided": "undecided",
    }
    parts = [f"{label} {record[name]:.1%}" for name, label in names.items() if record.get(name) is not None]
    return f"{record['model']}: {', '.join(parts) or 'measured'}"
