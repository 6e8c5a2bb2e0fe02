"""From scores to a mask, and from a mask to a model with zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from secateur.formats import onnx_model
from secateur.formats.errors import CheckFailed, InputError, UnsupportedError
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt
from secateur.pipeline.prune import criteria, layers
from secateur.pipeline.prune.criteria import NORMALISERS, REDUCTIONS, Context, Samples
from secateur.pipeline.prune.flow import Flow, Network, follow
from secateur.pipeline.prune.layers import Layer

GRANULARITIES = ("weight", "channel")
SCOPES = ("global", "layer")
Scores = NDArray[np.float64]
_FLOATS = (np.float16, np.float32, np.float64)


@dataclass(frozen=True)
class Pruned:
    """A pruned model, its mask, and how many units (weights or channels) went of those that were wanted."""

    proto: onnx.ModelProto
    mask: Mask
    units: int
    wanted: int
    pruned: int

    def summary(self) -> str:
        """One line for people."""
        short = self.wanted - self.pruned
        note = f" ({short} fewer than asked: every layer keeps a channel)" if short else ""
        return (
            f"pruned {self.pruned:,} of {self.units:,} {self.mask.granularity}s{note}; "
            f"{self.mask.sparsity:.2%} of the masked parameters are zero"
        )


def prune(
    model: Model,
    criterion: str,
    *,
    sparsity: float,
    granularity: str = "weight",
    scope: str = "global",
    seed: int = 0,
    data: Samples | None = None,
    epsilon: float | None = None,
    device: str = "cpu",
    options: Mapping[str, str] | None = None,
) -> Pruned:
    """Zero the share `sparsity` of units that `criterion` scores lowest.

    Units are single weights, or output channels with everything that keeps them from being exactly zero (their
    weight rows, biases and BatchNormalization's scale and shift). Of n units k = round(sparsity · n) go, exactly;
    ties go in the order of positions. Scope `global` ranks all layers' units together, `layer` each layer's
    own. A channel's weights are reduced to one score, and a layer's scores normalised, as the criterion's row
    says (most: the mean, divided by the layer's mean score, so that layers of different fan-in compare).
    Channels that are network outputs stay, and every layer keeps its best channel (so fewer than k may go:
    see `Pruned`).

    Raises:
        InputError: an unknown criterion, granularity, scope or option; a sparsity outside [0, 1]; nothing to
            prune; data or ε that the criterion needs are missing, or it scores other units.
        UnsupportedError: quantised or sparse weights.
    """
    row = criteria.find(criterion)
    if granularity not in GRANULARITIES:
        raise InputError(f"unknown granularity '{granularity}': expected one of {', '.join(GRANULARITIES)}")
    if scope not in SCOPES:
        raise InputError(f"unknown scope '{scope}': expected one of {', '.join(SCOPES)}")
    if not 0 <= sparsity <= 1:
        raise InputError(f"sparsity {sparsity:g}: expected a share between 0 and 1")
    if row.unit == "block" or (row.unit == "channel" and granularity == "weight"):
        raise InputError(f"criterion '{criterion}' scores {row.unit}s, not {granularity}s")
    found = {layer.weight: layer for layer in layers.find(model.proto, model.name)}
    if not found:
        raise InputError(
            "no prunable weight: expected Conv, ConvTranspose, Gemm or MatMul with an initializer of 2 or more "
            "dimensions",
            where=model.name,
            hint="`secateur convert` turns constants into initializers",
        )
    flows: list[Flow] = []
    if granularity == "channel":
        network = Network.of(model.proto)
        flows = [flow for layer in found.values() if (flow := _prunable(network, layer)) is not None]
        found = {flow.layer.weight: flow.layer for flow in flows}
        if not found:
            raise InputError("no prunable channel: every layer feeds the outputs", where=model.name)
    arrays = layers.values(model.proto)
    context = Context(model, tuple(found.values()), {}, seed, data, epsilon, device, sparsity, options or {})
    saliency = criteria.score(criterion, context)
    found = {name: layer for name, layer in found.items() if name in saliency}
    flows = [flow for flow in flows if flow.layer.weight in saliency]
    scores = [_units(saliency[name], layer, granularity, row) for name, layer in found.items()]
    wanted = _wanted(scores, sparsity, scope)
    if granularity == "channel":
        scores = [_protect(score) for score in scores]
    dropped = _select(scores, sparsity, scope)
    if granularity == "weight":
        tensors = {name: ~drop.reshape(arrays[name].shape) for name, drop in zip(found, dropped, strict=True)}
    else:
        tensors = _channel_masks(network, flows, dropped)
    extra = {"sparsity": f"{sparsity:g}", "scope": scope, "seed": str(seed)}
    mask = Mask(tensors, model.sha256, criterion, granularity, extra)
    units, pruned = sum(len(score) for score in scores), int(sum(drop.sum() for drop in dropped))
    proto = _masked(model, mask)
    arguments = {"criterion": criterion, "granularity": granularity, "scope": scope, "seed": seed}
    onnx_model.add_provenance(proto, "prune", arguments | {"sparsity": sparsity}, model.sha256)
    return Pruned(proto, mask, units, wanted, pruned)


def apply(model: Model, mask: Mask, *, force: bool = False) -> onnx.ModelProto:
    """A copy of `model` with zeros where `mask` says so; nothing else changes (but the provenance).

    `force` lets a mask of another model pass, as long as its names and shapes fit.

    Raises:
        InputError: the mask was made for another model, or names or shapes do not fit.
        CheckFailed: the result is not the masked model, or does not run.
    """
    if mask.model_sha256 != model.sha256 and not force:
        raise InputError(
            f"the mask was made for the model {mask.model_sha256[:12]}…, this one is {model.sha256[:12]}…",
            where=model.name,
            hint="--force applies it where names and shapes fit",
        )
    proto = _masked(model, mask)
    arguments = {"criterion": mask.criterion, "granularity": mask.granularity, "forced": force}
    onnx_model.add_provenance(proto, "apply", arguments | dict(mask.extra), model.sha256)
    return proto


def stats(mask: Mask) -> dict[str, object]:
    """Where a mask comes from and its sparsity, overall and a tensor, as plain data."""
    tensors = {
        name: {"elements": tensor.size, "sparsity": mask.sparsity_by_tensor[name]}
        for name, tensor in mask.tensors.items()
    }
    return {
        "criterion": mask.criterion,
        "granularity": mask.granularity,
        "model_sha256": mask.model_sha256,
        "extra": dict(mask.extra),
        "elements": sum(tensor.size for tensor in mask.tensors.values()),
        "sparsity": mask.sparsity,
        "tensors": tensors,
    }


def _masked(model: Model, mask: Mask) -> onnx.ModelProto:
    arrays = onnx_model.initializers(model.proto)
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    for name, keep in mask.tensors.items():
        array = arrays.get(name)
        if array is None:
            raise InputError(f"the mask names '{name}', which is no initializer", where=model.name)
        if array.shape != keep.shape:
            raise InputError(
                f"the mask of '{name}' has shape {keep.shape}, the initializer {array.shape}",
                where=model.name,
            )
        if array.dtype.type not in _FLOATS:
            raise UnsupportedError(f"'{name}' is {array.dtype}: expected floats", where=model.name)
        onnx_model.set_initializer(copy, name, np.where(keep, array, array.dtype.type(0)))
    _check_applied(model, mask, copy)
    return copy


def _check_applied(model: Model, mask: Mask, result: onnx.ModelProto) -> None:
    """Judge `apply` by other means: tensor by tensor from the bytes that would be written, and by running it."""
    before = {tensor.name: tensor for tensor in model.graph.initializer}
    written = onnx.ModelProto.FromString(onnx_model.to_bytes(result))
    for tensor in written.graph.initializer:
        name = tensor.name
        if name not in mask.tensors:
            unchanged = tensor == before[name]
        else:
            new, old = numpy_helper.to_array(tensor), numpy_helper.to_array(before[name])
            unchanged = np.array_equal(new, old * mask.tensors[name])
        if not unchanged:
            raise CheckFailed(f"initializer '{name}' is not the masked original", where=model.name)
    onnxrt.run(written, onnxrt.sample_inputs(onnxrt.count_inputs(written), seed=0, samples=2))


def _units(saliency: Scores, layer: Layer, granularity: str, row: criteria.Criterion) -> Scores:
    """One score a unit."""
    if granularity == "weight":
        return saliency.reshape(-1)
    if row.unit == "weight":
        rows = np.moveaxis(saliency, layer.channel_axis, 0)
        saliency = REDUCTIONS[row.reduction](rows.reshape(len(rows), -1))
    return NORMALISERS[row.normaliser](saliency)


def _protect(score: Scores) -> Scores:
    """Scores with the best (the last of equals, as ties go in order) out of reach."""
    best = len(score) - 1 - int(np.argmax(score[::-1]))
    protected = score.copy()
    protected[best] = np.inf
    return protected


def _wanted(scores: Sequence[Scores], sparsity: float, scope: str) -> int:
    if scope == "global":
        return round(sparsity * sum(len(score) for score in scores))
    return sum(round(sparsity * len(score)) for score in scores)


def _select(scores: Sequence[Scores], sparsity: float, scope: str) -> list[NDArray[np.bool_]]:
    """For each layer, which units go."""
    if scope == "layer":
        return [_lowest(score, round(sparsity * len(score))) for score in scores]
    together = _lowest(np.concatenate(scores), _wanted(scores, sparsity, scope))
    return list(np.split(together, np.cumsum([len(score) for score in scores])[:-1]))


def _lowest(score: Scores, k: int) -> NDArray[np.bool_]:
    """The k lowest scores, ties in order of position: what a stable sort gives, without sorting."""
    k = min(k, int(np.isfinite(score).sum()))
    if k == 0:
        return np.zeros(len(score), bool)
    threshold = np.partition(score, k - 1)[k - 1]
    drop: NDArray[np.bool_] = score < threshold
    ties = np.flatnonzero(score == threshold)
    drop[ties[: k - int(drop.sum())]] = True
    return drop


def _prunable(network: Network, layer: Layer) -> Flow | None:
    """Where the layer's channels go; None where they may be outputs (or lie on the left of a MatMul)."""
    if layer.weight_input != 1 or layers.feeds_output(network.graph, layer):
        return None
    path = follow(network, layer)
    return None if path.unmixed else path


def _channel_masks(
    network: Network, flows: Sequence[Flow], dropped: Sequence[NDArray[np.bool_]]
) -> dict[str, NDArray[np.bool_]]:
    """Masks of all parameters that must be zero for the dropped channels to be zero."""
    tensors: dict[str, NDArray[np.bool_]] = {}
    for path, drop in zip(flows, dropped, strict=True):
        for slot in path.slots:
            if not slot.kills or (slot.tensor != path.layer.weight and network.uses[slot.tensor] > 1):
                continue
            array = network.arrays[slot.tensor]
            keep = tensors.setdefault(slot.tensor, np.ones(array.shape, bool))
            along = [1] * array.ndim
            along[slot.axis] = -1
            keep &= ~drop[slot.channels].reshape(along)
    return tensors
