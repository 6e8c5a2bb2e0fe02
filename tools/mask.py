"""`secateur mask`: look at masks, compare and combine them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from secateur.tools import common

if TYPE_CHECKING:
    from secateur.formats.mask import Mask


@click.group()
def command() -> None:
    """Look at masks, compare and combine them."""


@command.command(
    "stats",
    epilog="""\b
Examples:
  secateur mask stats m.safetensors
  secateur mask stats m.safetensors --json
  secateur mask stats retrained.onnx --mask m.safetensors
  secateur mask stats ticket.onnx --mask m.safetensors --init initial.onnx""",
)
@click.argument("mask", metavar="MASK|MODEL")
@click.option(
    "--init",
    "initial",
    metavar="MODEL0",
    help="Of a MODEL: also check that every weight that is not zero is that of MODEL0 (a rewound lottery ticket).",
)
@click.option(
    "--mask",
    "kept",
    metavar="MASK",
    help="Of a MODEL: also check that every weight that MASK removes is zero.",
)
@common.json_option
def mask_stats(mask: str, initial: str | None, kept: str | None, as_json: bool) -> None:
    """Show where a mask comes from and its sparsity, overall and a tensor; of a model, the mask of its zeros.

    The checks prove what training did: with --mask that the mask held, with --init that the survivors have the weights
    of MODEL0. Exit code 1 where one fails.
    """
    from secateur.formats import mask as masks
    from secateur.formats import onnx_model
    from secateur.pipeline.prune import masks as work

    source, changed, same = work.mask_or_model(mask), None, {}
    if isinstance(source, onnx_model.Model):
        if initial is None:
            found = work.of_model(source)
        else:
            first = onnx_model.read(initial)
            extracted = work.extract(first, source)
            found, changed = extracted.mask, extracted.changed
            same = work.others(first, source, found)
    elif initial is None and kept is None:
        found = source
    else:
        option = "--init" if kept is None else "--mask"
        raise click.UsageError(f"{option}: {mask} is a mask, which holds no weights: expected a model")
    if as_json:
        checked = {} if changed is None else {"changed": dict(changed), "others": same}
        common.emit_json(work.stats(found) | checked)
    else:
        _show(found)
    if kept is not None and isinstance(source, onnx_model.Model):
        common.say(work.held(masks.read(kept), source))
    if changed is not None:
        common.say(work.rewound(changed, mask))
        moved = [name for name, equal in same.items() if not equal]
        rest = f"{len(same)} other tensors (biases, scales, statistics)"
        common.say(
            f"{len(moved)} of {rest} have not: {', '.join(moved)}" if moved else f"all {rest} have them, too"
        )


def _show(found: Mask) -> None:
    common.say(f"{found.criterion}, granularity {found.granularity}, of the model {found.model_sha256[:12]}…")
    for name, tensor in sorted(found.tensors.items()):
        common.say(f"{found.sparsity_by_tensor[name]:7.2%} of {tensor.size:>10,}  {name}")
    common.say(f"{found.sparsity:7.2%} of {sum(t.size for t in found.tensors.values()):>10,}  in all")


@command.command(
    "diff",
    epilog="""\b
Examples:
  secateur mask diff a.safetensors b.safetensors
  secateur mask diff a.safetensors b.safetensors --json""",
)
@click.argument("first", metavar="MASK1")
@click.argument("second", metavar="MASK2")
@common.json_option
def mask_diff(first: str, second: str, as_json: bool) -> None:
    """Count where two masks agree, a tensor: kept by both, by one, by none, and the Jaccard index of what is kept.

    A tensor that one mask does not name is kept whole by it.
    """
    from functools import reduce
    from operator import add

    from secateur.formats import mask as masks
    from secateur.pipeline.prune.masks import Overlap, diff

    found = diff(masks.read(first), masks.read(second))
    whole = reduce(add, found.values(), Overlap(0, 0, 0, 0))
    if as_json:
        plain = {name: vars(overlap) | {"jaccard": overlap.jaccard} for name, overlap in found.items()}
        common.emit_json({"tensors": plain, **vars(whole), "jaccard": whole.jaccard})
        return
    common.say(f"{'both':>10} {'first only':>10} {'second only':>11} {'none':>10} {'Jaccard':>8}")
    for name, overlap in [*sorted(found.items()), ("in all", whole)]:
        common.say(
            f"{overlap.both:>10,} {overlap.first:>10,} {overlap.second:>11,} {overlap.neither:>10,} "
            f"{overlap.jaccard:>8.4f}  {name}"
        )


def _combine(how: str, sources: tuple[str, ...], force: bool, output: str) -> None:
    from secateur.formats import mask as masks
    from secateur.formats import streams
    from secateur.pipeline.prune.masks import combine

    streams.check_destination(output, binary=True)
    found = combine([masks.read(source) for source in sources], how, force=force)
    masks.write(found, output)
    common.say(f"{how} of {len(sources)} masks: {found.sparsity:.2%} of the masked parameters are zero")


_masks_argument = click.argument("masks", metavar="MASK MASK...", nargs=-1, required=True)
_force_option = click.option(
    "--force", is_flag=True, help="Combine masks of different models, where names and shapes fit."
)


@command.command(
    "intersect",
    epilog="""\b
Examples:
  secateur mask intersect a.safetensors b.safetensors -o both.safetensors""",
)
@_masks_argument
@_force_option
@common.output_option
def mask_intersect(masks: tuple[str, ...], force: bool, output: str) -> None:
    """Keep what all masks keep: the result is at least as sparse as each of them."""
    _combine("intersect", masks, force, output)


@command.command(
    "union",
    epilog="""\b
Examples:
  secateur mask union a.safetensors b.safetensors -o either.safetensors""",
)
@_masks_argument
@_force_option
@common.output_option
def mask_union(masks: tuple[str, ...], force: bool, output: str) -> None:
    """Keep what any of the masks keeps: the result is at most as sparse as each of them."""
    _combine("union", masks, force, output)
