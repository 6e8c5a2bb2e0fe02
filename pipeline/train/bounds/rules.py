"""What each operator does to intervals and to linear functions: one table, ONNX operator → rule.

A rule gets an onnx2torch module and its arguments as they were on a batch of N inputs, and gives an operation through
which batches of any size can be sent. In every value the first axis is the batch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn import grad as gradients
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


class Unknown(Exception):
    """There is no rule for this operator, or none for this way of using it (the message says which)."""


@dataclass(frozen=True)
class Affine:
    """f(x…) = A x + b: `forward` is f, `absolute` is |A| r for radii r ≥ 0.

    `transposed` maps coefficients of f's value [M, *out] and the shape of one input to Aᵀ of them; None leaves it to
    autograd. `scale` is γ, broadcastable to f's value, where f is a BatchNormalization. `linear`: b is 0.
    """

    forward: Callable[..., Tensor]
    absolute: Callable[..., Tensor]
    transposed: Callable[[Tensor, torch.Size], Tensor] | None = None
    scale: Tensor | None = None
    linear: bool = False


@dataclass(frozen=True)
class Monotone:
    """A function of one input that grows with each of its numbers: its bounds are its values at the bounds."""

    forward: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Relu(Monotone):
    """max(0, x)."""

    forward: Callable[[Tensor], Tensor] = functional.relu


Operation = Affine | Monotone


@dataclass(frozen=True)
class Call:
    """One call of a module: its arguments, of which those at `varying` depend on the network's input, and its value."""

    module: nn.Module
    arguments: tuple[object, ...]
    varying: tuple[int, ...]
    value: Tensor

    def constant(self, place: int) -> Tensor:
        found = self.arguments[place]
        assert isinstance(found, Tensor)
        return found

    def with_values(self, values: Sequence[Tensor]) -> list[object]:
        """The arguments, with these in place of those that vary."""
        arguments = list(self.arguments)
        for place, value in zip(self.varying, values, strict=True):
            arguments[place] = value
        return arguments

    def again(self, *values: Tensor) -> Tensor:
        """The module's value with these in place of the arguments that vary."""
        result: Tensor = self.module(*self.with_values(values))
        return result

    def only(self, place: int) -> None:
        """
        Raises:
            Unknown: other arguments than the one at `place` depend on the input.
        """
        if self.varying != (place,):
            raise Unknown("more than one argument depends on the input")


Rule = Callable[[Call], Operation]

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TO_INPUT = {1: gradients.conv1d_input, 2: gradients.conv2d_input, 3: gradients.conv3d_input}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def _convolution(call: Call) -> Operation:
    call.only(0)
    padding: nn.Module = nn.Identity()
    layer = call.module
    if isinstance(layer, nn.Sequential):  # onnx2torch pads with zeros where sides differ
        padding, layer = layer[0], layer[1]
    if not isinstance(layer, _ConvNd) or isinstance(layer.padding, str):
        raise Unknown("a convolution whose weights are not constant")
    rank, weight, bias = len(layer.kernel_size), layer.weight, layer.bias
    options: dict[str, Any] = {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
    }
    transposed = None
    run: Callable[..., Tensor]
    if isinstance(layer, _ConvTransposeNd):
        run = partial(_TRANSPOSED[rank], output_padding=layer.output_padding, **options)
    else:
        run = partial(_CONVOLUTIONS[rank], **options)
        if layer is call.module:
            to_input: Callable[..., Tensor] = partial(_TO_INPUT[rank], **options)
            transposed = lambda rows, shape: to_input(shape, weight, rows)  # noqa: E731
    return Affine(
        lambda x: run(padding(x), weight, bias), lambda r: run(padding(r), weight.abs()), transposed
    )


def _gemm(call: Call) -> Operation:
    call.only(0)
    layer = call.module
    if isinstance(layer, nn.Linear):
        weight, bias = layer.weight, layer.bias
        return Affine(
            lambda x: functional.linear(x, weight, bias),
            lambda r: functional.linear(r, weight.abs()),
            lambda rows, _: rows @ weight,
        )
    weight = call.constant(1)
    return Affine(call.again, lambda r: layer(r, weight.abs(), None).abs())  # α may be negative


def _product(call: Call) -> Operation:
    call.only(call.varying[0])
    other = call.constant(1 - call.varying[0]).abs()
    magnitudes = Call(call.module, (other, other), call.varying, call.value)
    return Affine(call.again, magnitudes.again)


def _quotient(call: Call) -> Operation:
    if call.varying == (1,):
        raise Unknown("a division by a value that depends on the input")
    return _product(call)


def _sum(call: Call) -> Operation:
    shape = call.value.shape[1:]

    def absolute(*radii: Tensor) -> Tensor:
        total = radii[0] + radii[1] if len(radii) == 2 else radii[0]
        return total.broadcast_to(len(total), *shape)

    return Affine(call.again, absolute)


def _normalisation(call: Call) -> Operation:
    """Of training mode: the mean and the variance of this batch, gradients flowing into them, as auto_LiRPA has it
    (Xu et al. 2020); of evaluation mode: the running ones."""
    call.only(0)
    layer = call.module
    assert isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None
    x = call.constant(0)
    if layer.training:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(x, axes, correction=0)
    else:
        mean, variance = layer.running_mean, layer.running_var
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    factor = layer.weight / torch.sqrt(variance + layer.eps)
    shift = (layer.bias - mean * factor).view(shape)
    factor = factor.view(shape)
    size = factor.abs()
    return Affine(
        lambda v: v * factor + shift,
        lambda r: r * size,
        lambda rows, _: rows * factor,
        layer.weight.view(shape),
    )


def _negation(call: Call) -> Operation:
    return Affine(lambda x: -x, lambda r: r, lambda rows, _: -rows, linear=True)


def _reshaping(call: Call) -> Operation:
    call.only(0)
    shape = call.value.shape[1:]
    return Affine(
        lambda x: x.reshape(len(x), *shape),
        lambda r: r.reshape(len(r), *shape),
        lambda rows, before: rows.reshape(before),
        linear=True,
    )


def _positive(call: Call) -> Operation:
    """Sums and means with weights ≥ 0, and what only moves numbers, beside constants or not."""
    return Affine(call.again, lambda *r: call.again(*r) - call.again(*(torch.zeros_like(one) for one in r)))


def _linear(call: Call) -> Operation:
    """The same without constants."""
    call.only(0)
    return Affine(call.again, call.again, linear=True)


def _dropout(call: Call) -> Operation:
    call.only(0)
    if call.module.training:
        raise Unknown("it drops values at random")
    return Affine(lambda x: x, lambda r: r, lambda rows, _: rows, linear=True)


def _monotone(call: Call) -> Operation:
    call.only(0)
    if isinstance(call.module, nn.LeakyReLU) and call.module.negative_slope < 0:
        raise Unknown("a negative slope")
    return Monotone(call.again)


RULES: dict[str, Rule] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "MatMul": _product,
    "Mul": _product,
    "Div": _quotient,
    "Add": _sum,
    "Sub": _sum,
    "BatchNormalization": _normalisation,
    "Neg": _negation,
    "Dropout": _dropout,
    "Relu": lambda call: Relu(),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity"), _reshaping),
    **dict.fromkeys(("Transpose", "Slice", "AveragePool", "GlobalAveragePool"), _linear),
    **dict.fromkeys(("ReduceMean", "ReduceSum"), _linear),
    **dict.fromkeys(("Concat", "Pad"), _positive),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool", "LeakyRelu", "Sigmoid", "Tanh", "Clip"), _monotone),
}


def operation(operator: str, call: Call) -> Operation:
    """
    Raises:
        Unknown: no rule for this.
    """
    if operator not in RULES:
        raise Unknown("the operator has no bounds in training")
    return RULES[operator](call)
