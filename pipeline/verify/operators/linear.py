"""Operators with weights: Gemm, MatMul, Conv, ConvTranspose, BatchNormalization in inference."""

from __future__ import annotations

import numpy as np
import torch

from secateur.pipeline.verify.call import Array, Call, Value, tensor
from secateur.pipeline.verify.operations import Convolution, Deconvolution, Dense, Permute, Reshape, Scale
from secateur.pipeline.verify.operators.shapes import zero_pad


def gemm(call: Call) -> list[Value]:
    """alpha·A'·B' + beta·C with A variable and B, C constant (or B variable and A constant)."""
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    addend = call.constant(2) if len(call.arguments) > 2 else None
    if isinstance(call.arguments[0], int):
        weight = call.constant(1)
        source, flipped, varying = call.variable(0), bool(call.integer("transA", 0)), False
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
    bias = None if addend is None else beta * tensor(addend)
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
    return [result]


def matmul(call: Call) -> list[Value]:
    """X·W or W·X with a constant matrix W."""
    left, right = call.arguments
    if isinstance(left, int) and isinstance(right, int):
        raise call.refuse("products of two variables are not supported")
    if isinstance(left, int):
        weight = call.constant(1)
        assert weight is not None
        if weight.ndim == 2:
            return [call.emit(Dense(tensor(weight).T.contiguous(), None), left)]
        if weight.ndim == 1:
            column = call.emit(Dense(tensor(weight)[None, :], None), left)
            shape = call.shape(0)
            return [call.emit(Reshape((*shape[:-1], 1), shape[:-1]), column)]
    else:
        weight = call.constant(0)
        assert weight is not None
        assert isinstance(right, int)
        rank = len(call.shape(1))
        if weight.ndim == 2 and rank == 1:
            return [call.emit(Dense(tensor(weight), None), right)]
        if weight.ndim == 2:
            swap = (*range(rank - 2), rank - 1, rank - 2)
            inner = call.emit(Permute(swap), right)
            return [call.emit(Permute(swap), call.emit(Dense(tensor(weight), None), inner))]
    raise call.refuse(f"a constant of rank {weight.ndim} is not supported, only matrices and vectors")


def conv(call: Call) -> list[Value]:
    weight = call.constant(1)
    assert weight is not None
    spatial = weight.ndim - 2
    if spatial not in (1, 2):
        raise call.refuse(f"{spatial}-dimensional convolutions are not supported")
    if call.shape(0)[0] != 1:
        raise call.refuse("expected a batch of one")
    stride = call.integers("strides") or [1] * spatial
    dilation = call.integers("dilations") or [1] * spatial
    size = call.shape(0)[2:]
    begin, end = paddings(call, size, weight.shape[2:], stride, dilation)
    source = call.variable(0)
    if begin != end:  # torch pads both sides alike: pad by hand
        source = zero_pad(call, source, [0, 0, *begin], [0, 0, *end])
        size = tuple(n + b + e for n, b, e in zip(size, begin, end, strict=True))
        begin = [0] * spatial
    operation = Convolution(
        tensor(weight),
        _bias(call),
        tuple(stride),
        tuple(begin),
        tuple(dilation),
        call.integer("group", 1),
        tuple(size),
    )
    return [call.emit(operation, source)]


def conv_transpose(call: Call) -> list[Value]:
    weight = call.constant(1)
    assert weight is not None
    spatial = weight.ndim - 2
    if spatial not in (1, 2):
        raise call.refuse(f"{spatial}-dimensional convolutions are not supported")
    if call.attributes.get("output_shape") is not None or call.text("auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    ):
        raise call.refuse("output_shape and auto_pad are not supported")
    pads = call.integers("pads") or [0] * 2 * spatial
    if pads[:spatial] != pads[spatial:]:
        raise call.refuse("different padding at both ends is not supported")
    operation = Deconvolution(
        tensor(weight),
        _bias(call),
        tuple(call.integers("strides") or [1] * spatial),
        tuple(pads[:spatial]),
        tuple(call.integers("dilations") or [1] * spatial),
        call.integer("group", 1),
        tuple(call.integers("output_padding") or [0] * spatial),
    )
    return [call.emit(operation, call.variable(0))]


def batch_normalization(call: Call) -> list[Value]:
    """Two affine steps, x - mean and then scale/√(var + ε) and bias, so that each is exact but for rounding."""
    if call.integer("training_mode", 0):
        raise call.refuse("training mode is not supported")
    arrays = [call.constant(position) for position in range(1, 5)]
    shape = (1, -1) + (1,) * (len(call.shape(0)) - 2)
    scale, bias, mean, variance = (tensor(a).reshape(shape) for a in arrays if a is not None)
    weight = scale / torch.sqrt(variance + call.number("epsilon", float(np.float32(1e-5))))
    centred = call.emit(Scale(None, -mean), call.variable(0))
    return [call.emit(Scale(weight, bias), centred)]


def paddings(
    call: Call, size: tuple[int, ...], kernel: tuple[int, ...], stride: list[int], dilation: list[int]
) -> tuple[list[int], list[int]]:
    """The padding at the beginning and at the end of each spatial axis, `auto_pad` resolved."""
    spatial = len(kernel)
    mode = call.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
            for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        return (small, large) if mode == "SAME_UPPER" else (large, small)
    pads = (call.integers("pads") if mode == "NOTSET" else None) or [0] * 2 * spatial
    return pads[:spatial], pads[spatial:]


def _bias(call: Call) -> torch.Tensor | None:
    bias: Array | None = call.constant(2)
    return None if bias is None or not np.any(bias) else tensor(bias)
