"""`secateur mask`: look at masks."""

from __future__ import annotations

import click

from secateur.tools import common


@click.group()
def command() -> None:
    """Look at masks."""


@command.command(
    "stats",
    epilog="""\b
Examples:
  secateur mask stats m.safetensors
  secateur mask stats m.safetensors --json""",
)
@click.argument("mask", metavar="MASK")
@common.json_option
def mask_stats(mask: str, as_json: bool) -> None:
    """Show where a mask comes from and its sparsity, overall and a tensor."""
    from secateur.formats import mask as masks
    from secateur.pipeline.prune import stats

    found = masks.read(mask)
    if as_json:
        common.emit_json(stats(found))
        return
    common.say(f"{found.criterion}, granularity {found.granularity}, of the model {found.model_sha256[:12]}…")
    for name, tensor in sorted(found.tensors.items()):
        common.say(f"{found.sparsity_by_tensor[name]:7.2%} of {tensor.size:>10,}  {name}")
    common.say(f"{found.sparsity:7.2%} of {sum(t.size for t in found.tensors.values()):>10,}  in all")
