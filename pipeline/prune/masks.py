"""What masks say: statistics, comparison, combination, and masks of models that others have pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.formats import mask as mask_file
from secateur.formats import onnx_model, streams
from secateur.formats.errors import CheckFailed, InputError
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model
from secateur.pipeline.prune import layers
from secateur.pipeline.prune.layers import Layer

Bools = NDArray[np.bool_]
Arrays = Mapping[str, NDArray[np.generic]]


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


# --- two masks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """How many entries of a tensor both masks keep, only the first, only the second, and neither."""

    both: int
    first: int
    second: int
    neither: int

    @property
    def jaccard(self) -> float:
        """The Jaccard index of what is kept: 1 where both keep the same, 0 where they share nothing."""
        kept = self.both + self.first + self.second
        return self.both / kept if kept else 1.0

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.both + other.both,
            self.first + other.first,
            self.second + other.second,
            self.neither + other.neither,
        )


def diff(first: Mask, second: Mask) -> dict[str, Overlap]:
    """Where two masks agree, a tensor; a tensor that only one of them has is kept whole by the other.

    Raises:
        InputError: a tensor of different shapes.
    """
    found = {}
    for name, (a, b) in _pairs([first, second]).items():
        both, kept_a, kept_b = (int(np.count_nonzero(x)) for x in (a & b, a, b))
        found[name] = Overlap(both, kept_a - both, kept_b - both, a.size - kept_a - kept_b + both)
    return found


def combine(masks: Sequence[Mask], how: str, *, force: bool = False) -> Mask:
    """One mask of several: `intersect` keeps what all of them keep, `union` what any of them keeps.

    Raises:
        InputError: a tensor of different shapes; masks of different models, unless `force` (the first's is noted).
    """
    first = masks[0]
    for other in masks[1:]:
        if other.model_sha256 != first.model_sha256 and not force:
            raise InputError(
                f"the masks are of different models, {first.model_sha256[:12]}… and {other.model_sha256[:12]}…",
                hint="--force combines them where names and shapes fit",
            )
    keep = np.logical_and if how == "intersect" else np.logical_or
    tensors = {name: np.asarray(keep.reduce(arrays)) for name, arrays in _pairs(masks).items()}
    criteria, granularities = ({getattr(mask, key) for mask in masks} for key in ("criterion", "granularity"))
    return Mask(
        tensors,
        first.model_sha256,
        " + ".join(dict.fromkeys(mask.criterion for mask in masks)) if len(criteria) > 1 else first.criterion,
        first.granularity if len(granularities) == 1 else "mixed",
        {"combined": f"{how} of {len(masks)}"},
    )


def _pairs(masks: Sequence[Mask]) -> dict[str, list[Bools]]:
    """For each tensor what every mask keeps of it: all, where a mask does not name it."""
    found = {}
    for name in dict.fromkeys(name for mask in masks for name in mask.tensors):
        shapes = {mask.tensors[name].shape for mask in masks if name in mask.tensors}
        if len(shapes) > 1:
            raise InputError(f"the masks of '{name}' have shapes {' and '.join(map(str, sorted(shapes)))}")
        whole = np.broadcast_to(np.bool_(True), shapes.pop())
        found[name] = [mask.tensors.get(name, whole) for mask in masks]
    return found


# --- masks of models -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extracted:
    """A mask found in a pruned model, and how many survivors of each tensor have another value than in the dense."""

    mask: Mask
    changed: Mapping[str, int]
    by_name: bool

    def summary(self) -> str:
        """One line for people."""
        kept = sum(int(np.count_nonzero(keep)) for keep in self.mask.tensors.values())
        changed = sum(self.changed.values())
        same = (
            "all with the dense model's values"
            if not changed
            else f"{changed:,} of them changed (retrained?)"
        )
        how = "by name" if self.by_name else "by place in the graph"
        return (
            f"{len(self.mask.tensors)} tensors matched {how}: {self.mask.sparsity:.2%} of their entries are zero; "
            f"{kept:,} survivors, {same}"
        )


def mask_or_model(source: str) -> Mask | Model:
    """What is at `source` (a path, or `-`), told by its bytes.

    Raises:
        InputError: neither.
    """
    data, name = streams.read_bytes(source), streams.display_name(source)
    if mask_file.is_mask(data):
        return mask_file.from_bytes(data, name)
    try:
        return onnx_model.from_bytes(data, name, streams.folder(source))
    except InputError as error:
        if error.message.startswith("not an ONNX model"):
            raise InputError("not a mask and not an ONNX model", where=name) from None
        raise


def of_model(model: Model) -> Mask:
    """The zeros of the weights of a model's layers as a mask (of that model).

    Raises:
        UnsupportedError: quantised or sparse weights.
    """
    arrays = onnx_model.initializers(model.proto)
    names = {layer.weight for layer in layers.find(model.proto, model.name)}
    tensors = {name: arrays[name] != 0 for name in arrays if name in names}
    return Mask(tensors, model.sha256, "zeros", "weight")


def extract(dense: Model, pruned: Model) -> Extracted:
    """The mask of a model that somebody else pruned: what is zero in `pruned` goes, by the names of `dense`.

    Weights are found by name where all names of layers' weights are the same, else by place: the n-th layer of one
    graph is the n-th of the other. Of other initializers (biases, scales), those are masked that have zeros where
    the dense model has none.

    Raises:
        InputError: the layers do not fit; says which and why.
        UnsupportedError: quantised or sparse weights.
    """
    weights, theirs = (_weights(model) for model in (dense, pruned))
    by_name = weights.keys() == theirs.keys()
    arrays, found = (onnx_model.initializers(model.proto) for model in (dense, pruned))
    if by_name:
        pairs = {name: found[name] for name in weights}
        others = [name for name in arrays if name not in weights and name in found]
        pairs |= {name: found[name] for name in others if found[name].shape == arrays[name].shape}
    else:
        pairs = _by_place(dense, pruned, list(weights.values()), list(theirs.values()), found)
    tensors, changed = {}, {}
    for name, after in pairs.items():
        before = arrays[name]
        if before.shape != after.shape:
            raise InputError(
                f"'{name}' has shape {after.shape}, in {dense.name} {before.shape}: removed rows cannot be told",
                where=pruned.name,
                hint="extract the mask before shrinking",
            )
        if not np.issubdtype(after.dtype, np.floating):
            continue
        keep = after != 0 if name in weights else (after != 0) | (before == 0)
        if name in weights or not keep.all():
            tensors[name] = keep
            changed[name] = int(np.count_nonzero(keep & (after != before)))
    extra = {"pruned_sha256": pruned.sha256}
    return Extracted(Mask(tensors, dense.sha256, "extracted", "weight", extra), changed, by_name)


def _weights(model: Model) -> dict[str, Layer]:
    return {layer.weight: layer for layer in layers.find(model.proto, model.name)}


def _by_place(
    dense: Model, pruned: Model, ours: Sequence[Layer], theirs: Sequence[Layer], found: Arrays
) -> dict[str, NDArray[np.generic]]:
    """Their weights by our names, turned round where one graph multiplies by the transposed matrix."""
    if len(ours) != len(theirs):
        raise InputError(
            f"{len(theirs)} layers with other names than the {len(ours)} of {dense.name}: they cannot be matched",
            where=pruned.name,
        )
    dims = {tensor.name: tuple(tensor.dims) for tensor in dense.graph.initializer}
    pairs = {}
    for index, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        array = found[other.weight]
        shape = dims[own.weight]
        if array.ndim == 2 == len(shape) and own.channel_axis != other.channel_axis:
            array = array.T
        if array.shape != shape:
            raise InputError(
                f"layer {index}, {other.name}, has a weight '{other.weight}' of shape {found[other.weight].shape}; "
                f"layer {index} of {dense.name}, {own.name}, has '{own.weight}' of shape {shape}",
                where=pruned.name,
            )
        pairs[own.weight] = array
    return pairs


def rewound(changed: Mapping[str, int], name: str) -> str:
    """One line that says that all survivors have their initial weights, as those of a lottery ticket that was rewound
    have (Frankle & Carbin 2019, 1803.03635); `changed` is `Extracted.changed`.

    Raises:
        CheckFailed: some have not.
    """
    other = {tensor: count for tensor, count in changed.items() if count}
    if other:
        worst = max(other, key=lambda tensor: other[tensor])
        raise CheckFailed(
            f"{sum(other.values()):,} weights that are not zero have not their initial values, most of them "
            f"({other[worst]:,}) in '{worst}'",
            where=name,
        )
    return "all weights that are not zero have their initial values"


def others(initial: Model, model: Model, of: Mask) -> dict[str, bool]:
    """Of the initializers of floating point that both have and `of` does not cover (biases, scales, statistics):
    whether they are the same."""
    before, after = (onnx_model.initializers(one.proto) for one in (initial, model))
    return {
        name: np.array_equal(before[name], array)
        for name, array in after.items()
        if name in before and name not in of.tensors and np.issubdtype(array.dtype, np.floating)
    }


def held(mask: Mask, model: Model) -> str:
    """One line that says that all weights that `mask` removes are zero in `model`.

    Raises:
        InputError: the mask covers tensors that the model does not have so.
        CheckFailed: some are not zero.
    """
    arrays = onnx_model.initializers(model.proto)
    removed, alive = 0, {}
    for name, keep in mask.tensors.items():
        if name not in arrays or arrays[name].shape != keep.shape:
            found = f"has shape {list(arrays[name].shape)}" if name in arrays else "is not there"
            raise InputError(
                f"'{name}', which the mask has with shape {list(keep.shape)}, {found}", where=model.name
            )
        removed += int(np.count_nonzero(~keep))
        alive[name] = int(np.count_nonzero(arrays[name][~keep]))
    worst = max(alive, key=lambda name: alive[name], default="")
    if worst and alive[worst]:
        raise CheckFailed(
            f"{sum(alive.values()):,} weights that the mask removes are not zero, most of them ({alive[worst]:,}) in "
            f"'{worst}'",
            where=model.name,
        )
    return f"all {removed:,} weights that the mask removes are zero"
