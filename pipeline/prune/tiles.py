"""Pools of parts of one layer's weight: single weights, N:M patterns, blocks, kernels, grouped kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from secateur.formats import onnx_model
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxgraph
from secateur.pipeline.prune.clusters import alike
from secateur.pipeline.prune.granularity import Granularity
from secateur.pipeline.prune.layers import Layer
from secateur.pipeline.prune.pool import Bools, Floats, Masks, Pool, Reduction, Saliency, Scores


def pools(
    model: Model, found: Sequence[Layer], dims: Mapping[str, tuple[int, ...]], granularity: Granularity
) -> tuple[list[Pool], str]:
    """A pool a layer that has such parts, and what is expected where none has."""
    build: dict[str, Callable[[Layer, tuple[int, ...]], Pool | None]] = {
        "weight": lambda layer, shape: _blocks(layer, shape, (0,), (1, 1)),
        "n:m": lambda layer, shape: _n_of_m(layer, shape, *granularity.numbers),
        "block": lambda layer, shape: _blocks(layer, shape, (layer.channel_axis,), granularity.numbers),
        "kernel": lambda layer, shape: _kernels(layer, shape),
    }
    if granularity.kind == "grouped-kernel":
        arrays = onnx_model.values(model)
        (groups,) = granularity.numbers
        found_pools = [_grouped_kernels(layer, arrays[layer.weight], groups) for layer in found]
        reason = f"expected a Conv of group 1 with filters in a multiple of {groups} and 2 or more inputs"
    else:
        found_pools = [build[granularity.kind](layer, dims[layer.weight]) for layer in found]
        reason = "expected a Conv or ConvTranspose"
    return [pool for pool in found_pools if pool is not None], reason


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
        values = saliency[layer.weight]
        padded = np.full((lines, runs * m), -np.inf, values.dtype)
        padded[:, :inputs] = np.moveaxis(values, axis, -1).reshape(lines, inputs)
        return padded.reshape(-1, m)

    def masks(dropped: Bools) -> Masks:
        kept = ~dropped.reshape(lines, runs * m)[:, :inputs].reshape(moved)
        return {layer.weight: np.moveaxis(kept, -1, axis)}

    absent, padding = lines * beyond, lines * min(beyond, m - n)
    return Pool(layer.name, (layer,), (shape,), lines * runs, m, score, masks, 0, absent, padding)


def _grouped_kernels(layer: Layer, weight: NDArray[np.generic], groups: int) -> Pool | None:
    shape = outputs, inputs, *kernel = weight.shape
    plain = layer.node.op_type == "Conv" and onnxgraph.attribute(layer.node, "group", 1) == 1
    if not plain or outputs % groups or inputs < 2:
        return None
    members = alike(
        np.sqrt(np.square(weight.astype(np.float64)).reshape(outputs, inputs, -1).sum(axis=2)), groups
    )

    def score(saliency: Saliency, reduction: Reduction) -> Scores:
        kernels = saliency[layer.weight][members].reshape(groups, outputs // groups, inputs, -1)
        rows = kernels.swapaxes(1, 2).reshape(groups * inputs, -1).astype(np.float64)
        return reduction(rows).reshape(groups, inputs)

    def masks(dropped: Bools) -> Masks:
        kept = np.ones((outputs, inputs), bool)
        kept[members] = ~dropped[:, None]
        return {layer.weight: np.broadcast_to(kept.reshape(outputs, inputs, *[1] * len(kernel)), shape)}

    return Pool(layer.name, (layer,), (shape,), groups, inputs, score, masks)
