"""Granularities: how the weights of layers gather into the units that go together.

A granularity turns a model into *pools* of units. A pool makes scores of its units out of a criterion's saliencies,
and masks of initializers out of the units that are dropped:

* `weight`: each by itself;
* `N:M`: each by itself, but of M that follow each other along the input axis exactly N stay (of the r < M at the end
  of an axis, N or all r): Mishra et al. 2021 (2104.08378);
* `block:RxC`: blocks of the matrix [outputs, inputs × kernel], smaller ones at its lower and right edges;
* `kernel`: the 2-D kernels of convolutions, one for each pair of output and input channel;
* `grouped-kernel:G`: the filters of a convolution are clustered into G groups of the same size by which inputs they
  weigh most; a unit is all kernels of a group that read one input, and all groups lose the same number, so that the
  layer is a grouped convolution of what is left: Zhong et al. 2022 (Revisit Kernel Pruning with Lottery Regulated
  Grouped Convolutions, ICLR);
* `channel` (or `filter`): output channels, with all that goes with them (see `channels`); `neuron`: those of fully
  connected layers alone;
* `head`: attention heads;
* `layer`: residual branches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxgraph
from secateur.pipeline.prune import layers
from secateur.pipeline.prune.layers import Layer

if TYPE_CHECKING:
    from secateur.pipeline.prune.blocks import Branch
    from secateur.pipeline.prune.channels import Group

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Masks = dict[str, Bools]
Scores = NDArray[np.floating[Any]]
Saliency = Mapping[str, Scores]
Reduction = Callable[[Floats], Floats]
Protect = Callable[[Mapping[str, Bools], Mapping[str, Floats]], Mapping[str, Bools]]

KINDS = "weight, N:M, block:RxC, kernel, grouped-kernel:G, channel, filter, neuron, head or layer"


@dataclass(frozen=True)
class Granularity:
    """A granularity as named by the user: its kind and its numbers (N and M, R and C, or G)."""

    kind: str
    numbers: tuple[int, ...] = ()

    @staticmethod
    def parse(text: str) -> Granularity:
        """
        Raises:
            InputError: no granularity is written so.
        """
        if text in ("weight", "kernel", "channel", "neuron", "head", "layer"):
            return Granularity(text)
        if text == "filter":
            return Granularity("channel")
        for kind, pattern in (
            ("n:m", r"(\d+):(\d+)"),
            ("block", r"block:(\d+)x(\d+)"),
            ("grouped-kernel", r"grouped-kernel:(\d+)"),
        ):
            found = re.fullmatch(pattern, text)
            if found is None:
                continue
            numbers = tuple(map(int, found.groups()))
            if kind == "n:m" and not 0 < numbers[0] < numbers[1]:
                raise InputError(f"granularity {text}: of M weights N stay, so expected 0 < N < M")
            if min(numbers) < (2 if kind == "grouped-kernel" else 1):
                least = "2 groups" if kind == "grouped-kernel" else "sizes of 1"
                raise InputError(f"granularity {text}: expected at least {least}")
            return Granularity(kind, numbers)
        raise InputError(f"unknown granularity '{text}': expected {KINDS}")

    @property
    def fixes_sparsity(self) -> bool:
        """Whether it says by itself how much goes."""
        return self.kind == "n:m"

    @property
    def alike(self) -> bool:
        """Whether parts of a layer must lose as many units each, so that layers cannot be ranked together."""
        return self.kind in ("n:m", "grouped-kernel")

    @property
    def fine(self) -> bool:
        """Whether its units are single weights, which criteria score as they are."""
        return self.kind in ("weight", "n:m")

    @property
    def plural(self) -> str:
        """What messages call several of its units."""
        return {"n:m": "weights", "layer": "residual branches"}.get(self.kind, f"{self.kind}s")

    def fits(self, unit: str) -> bool:
        """Whether a criterion that scores `unit` ("weight", "channel" or "block") can score these."""
        if unit == "channel":
            return self.kind in ("channel", "neuron", "head", "layer")
        return unit == "weight" or self.kind == "layer"


@dataclass(frozen=True)
class Pool:
    """Units among which scores are compared: those of a layer, of a group of layers whose channels go together, …

    They lie in `rows`, each of which loses as many: one row, but for N:M and grouped kernels.
    """

    name: str
    layers: tuple[Layer, ...]
    """Those whose saliencies make the scores."""
    shapes: tuple[tuple[int, ...], ...]
    """Of their weights."""
    rows: int
    columns: int
    score: Callable[[Saliency, Reduction], Scores]
    """Saliencies -> scores [rows, columns], which may be the saliencies themselves."""
    masks: Callable[[Bools], Masks]
    """Dropped units [rows, columns] -> what stays of each initializer."""
    least: int = 1
    """Units of each row that stay whatever is asked."""
    beyond: int = 0
    """How many places lie beyond the end of an axis (N:M); their scores are −inf."""
    padding: int = 0
    """How many of those are among the units that go."""
    branches: tuple[str, ...] = ()
    """The names of its units, where they are residual branches."""

    @property
    def size(self) -> int:
        return self.rows * self.columns - self.beyond

    def scored(self, saliency: Saliency) -> bool:
        """Whether a criterion has scored it (some score only what they find a normalisation behind, say)."""
        return any(name in saliency for name in (*self.branches, *(layer.weight for layer in self.layers)))


@dataclass(frozen=True)
class Choice:
    """Glob patterns on names of layers, their weights or residual branches; all without `include`."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def takes(self, names: Iterable[str]) -> bool:
        names = list(names)
        return (not self.include or matches(self.include, names)) and not matches(self.exclude, names)

    def check(self, names: Sequence[Iterable[str]], where: str) -> None:
        """
        Raises:
            InputError: a pattern that matches nothing.
        """
        for pattern in (*self.include, *self.exclude):
            check_pattern(pattern, names, where)


def matches(patterns: Iterable[str], names: Iterable[str]) -> bool:
    names = list(names)
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def check_pattern(pattern: str, names: Sequence[Iterable[str]], where: str) -> None:
    """
    Raises:
        InputError: the pattern matches none of the names.
    """
    if not any(matches([pattern], group) for group in names):
        first = [next(iter(group)) for group in names]
        shown = ", ".join(first[:8]) + (", …" if len(first) > 8 else "")
        raise InputError(f"pattern '{pattern}' matches no layer (there are {shown})", where=where)


def names_of(pool: Pool) -> list[str]:
    """What patterns are matched with: the pool's name, its layers' and their weights'."""
    return list(dict.fromkeys([pool.name, *(n for layer in pool.layers for n in (layer.name, layer.weight))]))


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
    found = list({layer.weight: layer for layer in layers.find(model.proto, model.name)}.values())
    if not found:
        raise InputError(
            "no prunable weight: expected Conv, ConvTranspose, Gemm or MatMul with an initializer of 2 or more "
            "dimensions",
            where=model.name,
            hint="`secateur convert` turns constants into initializers",
        )
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    if granularity.kind == "layer":
        return Units(_branches(model, found, dims, choice))
    protect: Protect | None = None
    if granularity.kind in ("channel", "neuron", "head"):
        pools, protect, reason = _channels(model, found, dims, granularity.kind)
    else:
        pools, reason = _tiles(model, found, dims, granularity)
    if not pools:
        raise InputError(f"no prunable {granularity.kind}: {reason}", where=model.name)
    names = [names_of(pool) for pool in pools]
    choice.check(names, model.name)
    chosen = [pool for pool, own in zip(pools, names, strict=True) if choice.takes(own)]
    if not chosen:
        raise InputError("the patterns leave no layer to prune", where=model.name)
    return Units(chosen, protect)


# --- parts of one weight -------------------------------------------------------------------------------------


def _tiles(
    model: Model, found: Sequence[Layer], dims: Mapping[str, tuple[int, ...]], granularity: Granularity
) -> tuple[list[Pool], str]:
    build: dict[str, Callable[[Layer, tuple[int, ...]], Pool | None]] = {
        "weight": lambda layer, shape: _blocks(layer, shape, (0,), (1, 1)),
        "n:m": lambda layer, shape: _n_of_m(layer, shape, *granularity.numbers),
        "block": lambda layer, shape: _blocks(layer, shape, (layer.channel_axis,), granularity.numbers),
        "kernel": lambda layer, shape: _kernels(layer, shape),
    }
    if granularity.kind == "grouped-kernel":
        arrays = {tensor.name: tensor for tensor in model.graph.initializer}
        (groups,) = granularity.numbers
        pools = [_grouped_kernels(layer, arrays[layer.weight], groups) for layer in found]
        reason = f"expected a Conv of group 1 with filters in a multiple of {groups} and 2 or more inputs"
    else:
        pools = [build[granularity.kind](layer, dims[layer.weight]) for layer in found]
        reason = "expected a Conv or ConvTranspose"
    return [pool for pool in pools if pool is not None], reason


def _blocks(layer: Layer, shape: tuple[int, ...], front: tuple[int, ...], size: Sequence[int]) -> Pool:
    """Blocks of `size` of the weight as a matrix: the axes `front` by all others, in order."""
    order = [*front, *(axis for axis in range(len(shape)) if axis not in front)]
    height = int(np.prod([shape[axis] for axis in front]))
    width = int(np.prod(shape)) // height
    tall, wide = size

    def score(saliency: Saliency, reduction: Reduction) -> Scores:
        matrix = saliency[layer.weight].transpose(order).reshape(height, width)
        return tiled(matrix, tall, wide, reduction).reshape(1, -1)

    def masks(dropped: Bools) -> Masks:
        grid = dropped.reshape(-(-height // tall), -(-width // wide))
        matrix = grid.repeat(tall, axis=0)[:height].repeat(wide, axis=1)[:, :width]
        moved = matrix.reshape([shape[axis] for axis in order])
        return {layer.weight: ~moved.transpose(np.argsort(order))}

    columns = -(-height // tall) * -(-width // wide)
    return Pool(layer.name, (layer,), (shape,), 1, columns, score, masks)


def tiled(matrix: Scores, tall: int, wide: int, reduction: Reduction) -> Scores:
    """The reduction of each block [tall, wide] of a matrix; blocks at its lower and right edges may be smaller."""
    height, width = matrix.shape
    if tall == wide == 1:
        return matrix
    inner = height - height % tall, width - width % wide
    parts = [
        [
            _even(matrix[rows, columns], min(tall, height), min(wide, width), reduction)
            for columns in (slice(inner[1]), slice(inner[1], None))
        ]
        for rows in (slice(inner[0]), slice(inner[0], None))
    ]
    return np.block(parts)


def _even(matrix: Scores, tall: int, wide: int, reduction: Reduction) -> Floats:
    height, width = matrix.shape
    if not matrix.size:
        return np.zeros((-(-height // tall), -(-width // wide)))
    tall, wide = min(tall, height), min(wide, width)
    blocks = matrix.reshape(height // tall, tall, width // wide, wide).swapaxes(1, 2)
    rows = blocks.reshape(-1, tall * wide).astype(np.float64)
    return reduction(rows).reshape(height // tall, width // wide)


def _kernels(layer: Layer, shape: tuple[int, ...]) -> Pool | None:
    if layer.node.op_type not in ("Conv", "ConvTranspose"):
        return None
    kernel = int(np.prod(shape[2:]))
    return _blocks(layer, shape, (0, 1), (1, kernel))


def input_axis(layer: Layer, rank: int) -> int:
    """The weight's axis that runs over inputs (of one group, for a grouped Conv)."""
    if layer.node.op_type in ("Conv", "ConvTranspose", "Gemm"):
        return 1 - layer.channel_axis
    return rank - 2 if layer.weight_input == 1 else rank - 1


def _n_of_m(layer: Layer, shape: tuple[int, ...], n: int, m: int) -> Pool:
    axis = input_axis(layer, len(shape))
    inputs = shape[axis]
    lines, runs = int(np.prod(shape)) // inputs, -(-inputs // m)
    moved = [*(size for place, size in enumerate(shape) if place != axis), inputs]
    beyond = runs * m - inputs

    def score(saliency: Saliency, reduction: Reduction) -> Scores:
        padded = np.full((lines, runs * m), -np.inf)
        padded[:, :inputs] = np.moveaxis(saliency[layer.weight], axis, -1).reshape(lines, inputs)
        return padded.reshape(-1, m)

    def masks(dropped: Bools) -> Masks:
        kept = ~dropped.reshape(lines, runs * m)[:, :inputs].reshape(moved)
        return {layer.weight: np.moveaxis(kept, -1, axis)}

    absent, padding = lines * beyond, lines * min(beyond, m - n)
    return Pool(layer.name, (layer,), (shape,), lines * runs, m, score, masks, n, absent, padding)


def _grouped_kernels(layer: Layer, weight: onnx.TensorProto, groups: int) -> Pool | None:
    outputs, inputs, *kernel = weight.dims
    plain = layer.node.op_type == "Conv" and onnxgraph.attribute(layer.node, "group", 1) == 1
    if not plain or outputs % groups or inputs < 2:
        return None
    array = onnx.numpy_helper.to_array(weight).astype(np.float64)
    members = alike(np.sqrt(np.square(array).reshape(outputs, inputs, -1).sum(axis=2)), groups)

    def score(saliency: Saliency, reduction: Reduction) -> Scores:
        kernels = saliency[layer.weight][members].reshape(groups, outputs // groups, inputs, -1)
        rows = kernels.swapaxes(1, 2).reshape(groups * inputs, -1).astype(np.float64)
        return reduction(rows).reshape(groups, inputs)

    def masks(dropped: Bools) -> Masks:
        kept = np.ones((outputs, inputs), bool)
        kept[members] = ~dropped[:, None]
        return {layer.weight: np.broadcast_to(kept.reshape(outputs, inputs, *[1] * len(kernel)), weight.dims)}

    return Pool(layer.name, (layer,), (tuple(weight.dims),), groups, inputs, score, masks)


def alike(features: Floats, groups: int, rounds: int = 20) -> NDArray[np.intp]:
    """Rows of `features` in clusters of the same size [groups, rows / groups]: k-means on rows of length 1, where
    each round assigns rows to places at the least total distance. The first centres are far from each other, found
    one after the other from the first row."""
    from scipy.optimize import linear_sum_assignment

    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    rows = np.divide(features, lengths, out=np.zeros_like(features), where=lengths > 0)
    each = len(rows) // groups
    chosen = [0]
    while len(chosen) < groups:
        nearest = np.min([np.square(rows - rows[i]).sum(axis=1) for i in chosen], axis=0)
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
    centres, members = rows[chosen], None
    for _ in range(rounds):
        distances = (
            np.square(rows).sum(axis=1)[:, None] + np.square(centres).sum(axis=1) - 2 * rows @ centres.T
        )
        places = linear_sum_assignment(distances.repeat(each, axis=1))[1] // each
        previous, members = members, np.argsort(places, kind="stable").reshape(groups, each)
        if previous is not None and np.array_equal(previous, members):
            break
        centres = rows[members].mean(axis=1)
    assert members is not None
    return members


# --- channels, heads, branches -------------------------------------------------------------------------------


def _channels(
    model: Model, found: Sequence[Layer], dims: Mapping[str, tuple[int, ...]], kind: str
) -> tuple[list[Pool], Protect, str]:
    from secateur.pipeline.prune import channels  # needs onnxruntime, which other granularities do not

    layer_of = {layer.weight: layer for layer in found}
    analysis = channels.analyse(model.proto, view="heads" if kind == "head" else "channels")
    groups = [group for group in analysis.groups if set(group.layers) <= set(layer_of)]
    reason = "; ".join(f"those of {name} stay: {why}" for name, why in analysis.pinned[:1])
    if kind == "neuron":
        dense = ("Gemm", "MatMul")
        groups = [g for g in groups if all(layer_of[name].node.op_type in dense for name in g.layers)]
        reason = "expected hidden fully connected layers"
    if kind == "head":
        groups = [group for group in groups if group.kind == "head"]
        reason = "expected attention: a MatMul of two activations with heads as a batch axis"
    return [_group(group, layer_of, dims) for group in groups], analysis.protect, reason


def _group(group: Group, layer_of: Mapping[str, Layer], dims: Mapping[str, tuple[int, ...]]) -> Pool:
    weights = [member for member in group.members if member.role == "weight"]

    def score(saliency: Saliency, reduction: Reduction) -> Scores:
        parts, places = [], []
        for member in weights:
            if member.tensor in saliency:
                values = saliency[member.tensor]
                rows = np.moveaxis(values, member.axis if values.ndim > 1 else 0, 0)
                of_member = by_unit(rows.reshape(len(rows), -1), member.units, group.size, reduction)
                places.append(np.flatnonzero(np.isfinite(of_member)))
                parts.append(of_member[places[-1], None])
        if len(parts) > 1:
            together = by_unit(np.concatenate(parts), np.concatenate(places), group.size, reduction)
        else:
            together = of_member
        return together[None]

    def masks(dropped: Bools) -> Masks:
        kept: Masks = {}
        gone = np.append(dropped[0], False)  # unit −1: not of this group
        for member in group.members:
            if member.role != "fixed":
                along = [-1 if axis == member.axis else 1 for axis in range(len(dims[member.tensor]))]
                keep = np.broadcast_to(~gone[member.units].reshape(along), dims[member.tensor])
                kept[member.tensor] = kept.get(member.tensor, True) & keep
        return kept

    read = tuple(layer_of[name] for name in group.layers)
    shapes = tuple(dims[name] for name in group.layers)
    return Pool(group.name, read, shapes, 1, group.size, score, masks, least=0)


def by_unit(rows: Scores, units: NDArray[np.intp], size: int, reduction: Reduction) -> Floats:
    """The reduction of all rows [places, elements] of each unit, +inf (never dropped) of a unit that has none."""
    scores = np.full(size, np.inf)
    order = np.argsort(units, kind="stable")[np.count_nonzero(units < 0) :]
    counts = np.bincount(units[order], minlength=size)
    starts = np.cumsum(counts) - counts
    for count in np.unique(counts[counts > 0]):
        which = np.flatnonzero(counts == count)
        places = order[starts[which][:, None] + np.arange(count)]
        scores[which] = reduction(rows[places].reshape(len(which), -1).astype(np.float64))
    return scores


def _branches(
    model: Model, found: Sequence[Layer], dims: Mapping[str, tuple[int, ...]], choice: Choice
) -> list[Pool]:
    """One pool of all residual branches; any of them may go, even all."""
    from secateur.pipeline.prune import blocks

    layer_of = {layer.weight: layer for layer in found}
    named = {
        branch: [branch.name, *(n for weight in branch.weights for n in (layer_of[weight].name, weight))]
        for branch in blocks.residual_branches(model.proto)
    }
    if not named:
        raise InputError("no prunable layer: expected residual branches", where=model.name)
    choice.check(list(named.values()), model.name)
    chosen = [branch for branch, names in named.items() if choice.takes(names)]
    if not chosen:
        raise InputError("the patterns leave no residual branch to prune", where=model.name)

    def score(saliency: Saliency, reduction: Reduction) -> Scores:
        return np.array([_branch_score(branch, saliency, reduction) for branch in chosen])[None]

    def masks(dropped: Bools) -> Masks:
        gone = {branch: bool(drop) for branch, drop in zip(chosen, dropped[0], strict=True)}
        return {
            name: np.broadcast_to(np.bool_(not drop), dims[name])
            for branch, drop in gone.items()
            for name in branch.zeros
        }

    weights = dict.fromkeys(weight for branch in chosen for weight in branch.weights)
    read, shapes = tuple(layer_of[name] for name in weights), tuple(dims[name] for name in weights)
    names = tuple(branch.name for branch in chosen)
    return [Pool("branches", read, shapes, 1, len(chosen), score, masks, least=0, branches=names)]


def _branch_score(branch: Branch, saliency: Saliency, reduction: Reduction) -> float:
    """A branch's own score, or the reduction of its weights' (or channels'); +inf (never dropped) without any."""
    if branch.name in saliency:
        return float(saliency[branch.name])
    parts = [saliency[name].reshape(1, -1) for name in branch.weights if name in saliency]
    if not parts:
        return np.inf
    return float(reduction(np.concatenate(parts, axis=1).astype(np.float64))[0])
