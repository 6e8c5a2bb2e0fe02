"""Products of matrices: Gemm and MatMul, of a variable and a constant or of two variables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from secateur.pipeline.verify.graph.call import Array, Call, Value, tensor
from secateur.pipeline.verify.graph.operations import Bilinear, Dense, Permute, Reshape, Scale
from secateur.pipeline.verify.graph.operators import parts


def gemm(call: Call) -> list[Value]:
    """alpha·A'·B' + beta·C; at least one of A and B varies."""
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    if len(call.arguments) > 2 and isinstance(call.arguments[2], int):
        product = _gemm(call, alpha, None)
        return [parts.plus(call, product, parts.scaled(call, call.variable(2), beta))]
    addend = call.constant(2)
    return [_gemm(call, alpha, None if addend is None else beta * tensor(addend))]


def _gemm(call: Call, alpha: float, bias: torch.Tensor | None) -> int:
    left, right = call.operand(0), call.operand(1)
    if isinstance(left, int) and isinstance(right, int):
        left = parts.permuted(call, left, (1, 0)) if call.integer("transA", 0) else left
        right = parts.permuted(call, right, (1, 0)) if call.integer("transB", 0) else right
        product = parts.scaled(call, _variables(call, left, right), alpha)
        return product if bias is None else parts.plus(call, product, bias.numpy())
    if isinstance(left, int):
        weight = call.constant(1)
        source, flipped, varying = left, bool(call.integer("transA", 0)), False
    else:
        weight = call.constant(0)
        source, flipped, varying = call.variable(1), bool(call.integer("transB", 0)), True
    assert weight is not None
    if flipped:
        source = call.emit(Permute((1, 0)), source)
    matrix = tensor(weight)
    if varying:  # A'·X = (X'·A)': a dense layer between two transpositions
        matrix = matrix.T if call.integer("transA", 0) else matrix
        source = call.emit(Permute((1, 0)), source)
    elif not call.integer("transB", 0):
        matrix = matrix.T
    plain = (
        bias is not None
        and not varying
        and bias.numel() in (1, len(matrix))
        and (bias.dim() < 2 or len(bias) == 1)
    )
    inside = bias.reshape(-1).expand(len(matrix)) if bias is not None and plain else None
    result = call.emit(
        Dense((alpha * matrix).contiguous(), None if inside is None else inside.contiguous()), source
    )
    if varying:
        result = call.emit(Permute((1, 0)), result)
    if bias is not None and not plain:
        result = call.emit(Scale(None, bias), result)
    return result


def matmul(call: Call) -> list[Value]:
    """X·W or W·X with a constant matrix or vector W; anything else as a product of variables."""
    left, right = call.operand(0), call.operand(1)
    if isinstance(left, int) and not isinstance(right, int):
        weight = _matrix(right, len(call.shape(0)))
        if weight.ndim == 2:
            return [call.emit(Dense(tensor(weight).T.contiguous(), None), left)]
        if weight.ndim == 1:
            column = call.emit(Dense(tensor(weight)[None, :], None), left)
            shape = call.shape(0)
            return [call.emit(Reshape((*shape[:-1], 1), shape[:-1]), column)]
    elif not isinstance(left, int) and isinstance(right, int):
        weight = _matrix(left, len(call.shape(1)))
        rank = len(call.shape(1))
        if weight.ndim == 2 and rank == 1:
            return [call.emit(Dense(tensor(weight), None), right)]
        if weight.ndim == 2:
            swap = (*range(rank - 2), rank - 1, rank - 2)
            inner = call.emit(Permute(swap), right)
            return [call.emit(Permute(swap), call.emit(Dense(tensor(weight), None), inner))]
    return [_variables(call, left, right)]


def _matrix(weight: Array, rank: int) -> Array:
    """Without leading axes of size 1 that the other factor, of this rank, has too."""
    while weight.ndim > 2 and weight.ndim <= rank and weight.shape[0] == 1:
        weight = weight[0]
        rank -= 1
    return weight


def _variables(call: Call, left: Value, right: Value) -> int:
    """left·right as numpy multiplies stacks of matrices, one of which may be constant, but no plain matrix."""
    rows, columns = call.shape_of(left), call.shape_of(right)
    one = _arranged(call, left, (1, *rows) if len(rows) == 1 else rows)
    other = _arranged(call, right, (*columns, 1) if len(columns) == 1 else columns)
    stack = np.broadcast_shapes(one.shape[:-2], other.shape[:-2])
    shape = [
        *stack,
        *([one.shape[-2]] if len(rows) > 1 else []),
        *([other.shape[-1]] if len(columns) > 1 else []),
    ]
    if isinstance(left, int) and isinstance(right, int):
        factors = [
            parts.selected(call, value, np.broadcast_to(numbers, (*stack, *numbers.shape[-2:])))
            for value, numbers in ((left, one), (right, other))
        ]
        return parts.reshaped(call, call.emit(Bilinear(), *factors), shape)
    target = (*stack, one.shape[-2], other.shape[-1], one.shape[-1])
    expanded = one[..., :, None, :], other.swapaxes(-1, -2)[..., None, :, :]
    spread = [
        parts.selected(call, value, np.broadcast_to(numbers, target)) if isinstance(value, int) else numbers
        for value, numbers in zip((left, right), expanded, strict=True)
    ]
    total = parts.summed(call, parts.times(call, *spread), [len(target) - 1], keep=False)
    return parts.reshaped(call, total, shape)


def _arranged(call: Call, value: Value, shape: Sequence[int]) -> Array:
    """A constant, or the positions of a variable's numbers, in this shape."""
    return (parts.numbered(call, value) if isinstance(value, int) else value).reshape(shape)
