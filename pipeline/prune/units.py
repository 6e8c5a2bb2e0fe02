"""A model's units: what may go, gathered into pools as a granularity says."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model
from secateur.pipeline.prune import layers, tiles
from secateur.pipeline.prune.granularity import Granularity
from secateur.pipeline.prune.patterns import Choice, names_of
from secateur.pipeline.prune.pool import Pool, Protect


@dataclass(frozen=True)
class Units:
    """All units that may go, in graph order; `protect` gives back those of the dropped without which an axis of some
    value would be empty: (dropped, scores), both by pool name -> dropped."""

    pools: list[Pool]
    protect: Protect | None = None


def gather(model: Model, granularity: Granularity, choice: Choice | None = None) -> Units:
    """The model's units.

    Raises:
        InputError: the model has no such units, or a pattern of `choice` matches nothing.
        UnsupportedError: quantised or sparse weights.
    """
    choice = choice or Choice()
    found = list({layer.weight: layer for layer in layers.find(model.light, model.name)}.values())
    if not found:
        raise InputError(
            "no prunable weight: expected Conv, ConvTranspose, Gemm or MatMul with an initializer of 2 or more "
            "dimensions",
            where=model.name,
            hint="`secateur convert` turns constants into initializers",
        )
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.light.graph.initializer}
    if granularity.kind == "layer":
        from secateur.pipeline.prune import structures

        return Units(structures.branches(model, found, dims, choice))
    protect: Protect | None = None
    if granularity.kind in ("channel", "neuron", "head"):
        from secateur.pipeline.prune import structures  # needs onnxruntime, which other granularities do not

        pools, protect, reason = structures.channel_pools(model, found, dims, granularity.kind)
    else:
        pools, reason = tiles.pools(model, found, dims, granularity)
    if not pools:
        raise InputError(f"no prunable {granularity.kind}: {reason}", where=model.name)
    names = [names_of(pool) for pool in pools]
    choice.check(names, model.name)
    chosen = [pool for pool, own in zip(pools, names, strict=True) if choice.takes(own)]
    if not chosen:
        raise InputError("the patterns leave no layer to prune", where=model.name)
    return Units(chosen, protect)
