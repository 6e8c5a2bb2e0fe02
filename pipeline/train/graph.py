"""An ONNX graph as a differentiable torch function of its own initializers.

onnx2torch builds the function; this module binds every weight of it to the initializer that it came from, so that
optimisers, masks and checkpoints speak initializer names, and trained values return to the same places: graph,
names and metadata stay as they were.

What is trained: weights and biases of Conv, ConvTranspose and Gemm, scale and bias of BatchNormalization, constant
operands of MatMul, and constants added to the result of one of these (biases). Other constants, such as the mean
and the deviation of an input normalisation, stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import nn

from secateur.formats import onnx_model
from secateur.formats.errors import CheckFailed, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt, onnxtorch

_TOLERANCE = 1e-4
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class _Binding:
    """torch's tensor `target` is `scale` · initializer, transposed or not."""

    target: str
    initializer: str
    transposed: bool = False
    scale: float = 1.0

    def value(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.transposed:
            tensor = tensor.T
        return tensor if self.scale == 1.0 else tensor * self.scale


class TrainableGraph:
    """An ONNX model whose initializers can be trained.

    `nodes` are those that the torch function was made of, which may differ from the model's in opset and number.
    `parameters` (leaf tensors that require gradients) and `statistics` (running mean and variance of
    BatchNormalization, updated by forward passes in training mode) are keyed by initializer name.
    """

    def __init__(self, model: Model, device: str = "cpu") -> None:
        """
        Raises:
            UnsupportedError: an operator that cannot be trained, a fixed batch size, statistics shared between
                layers, nothing to train.
            CheckFailed: the torch function differs from the model in onnxruntime.
        """
        self._model = model
        self.device = torch.device(device)
        inputs = model.inputs
        if len(inputs) != 1:
            raise UnsupportedError(
                f"training needs a network with 1 input, found {len(inputs)}", where=model.name
            )
        self.input_shape = onnxrt.input_shape(model)[1:]
        self._dtype = torch.float64 if _is_double(inputs[0]) else torch.float32
        prepared = onnxtorch.prepared(model)
        self.nodes = tuple(prepared.graph.node)
        self._module = onnxtorch.module(prepared)
        self._host = _Host(self._module)
        arrays = onnx_model.initializers(model.proto)
        trained, statistics = _bindings(prepared, self._module)
        trained = [binding for binding in trained if binding.initializer in arrays]  # none that this wrote
        self._bindings = trained + statistics
        self.parameters = {
            name: torch.tensor(arrays[name], device=self.device, requires_grad=True)
            for name in dict.fromkeys(binding.initializer for binding in trained)
        }
        self.statistics = {
            binding.initializer: torch.tensor(arrays[binding.initializer], device=self.device)
            for binding in statistics
        }
        if not self.parameters:
            raise UnsupportedError(
                "there are no weights to train", where=model.name, hint=onnxtorch.CONVERT_HINT
            )
        self._check_bindings()
        self._module.to(self.device)
        self.eval()
        self._check(model)

    def train(self) -> None:
        """BatchNormalization uses and updates batch statistics from here on."""
        self._module.train()

    def eval(self) -> None:
        """BatchNormalization uses its running statistics from here on."""
        self._module.eval()

    @contextmanager
    def statistics_kept(self) -> Iterator[None]:
        """Within, forward passes move copies of the statistics."""
        moving = self.statistics
        self.statistics = {name: tensor.clone() for name, tensor in moving.items()}
        try:
            yield
        finally:
            self.statistics = moving

    @property
    def scales(self) -> list[str]:
        """The initializers that are scales γ of BatchNormalization and are trained, in order."""
        found = [node.input[1] for node in self.nodes if node.op_type == "BatchNormalization"]
        return [name for name in dict.fromkeys(found) if name in self.parameters]

    def double(self) -> None:
        """Compute in float64 from here on; `parameters` are new tensors."""
        self._module.double()
        self._dtype = torch.float64
        self.parameters = {
            name: tensor.detach().double().requires_grad_() for name, tensor in self.parameters.items()
        }
        self.statistics = {name: tensor.double() for name, tensor in self.statistics.items()}

    @property
    def name(self) -> str:
        """What messages call the model."""
        return self._model.name

    @property
    def training(self) -> bool:
        """Whether BatchNormalization uses batch statistics."""
        return self._module.training

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [N, ...] of inputs `x` [N, *input_shape]."""
        result: torch.Tensor = self.within(lambda module: module(x))
        return result

    def within(self, work: Callable[[nn.Module], Any]) -> Any:
        """What `work` makes of the torch module, a graph whose submodule `n{i}` is node i of `nodes`, while the trained
        tensors stand in their places in it."""
        tensors = self.parameters | self.statistics
        values = {
            f"module.{binding.target}": binding.value(tensors[binding.initializer])
            for binding in self._bindings
        }
        return torch.func.functional_call(self._host, values, (work,))

    def inputs(self, images: NDArray[np.float32]) -> torch.Tensor:
        """Images [N, ...] as the tensor [N, *input_shape] that the graph takes."""
        x = torch.as_tensor(images, dtype=self._dtype, device=self.device)
        return x.reshape(len(images), *self.input_shape)

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        """The present values of all trained initializers and statistics, copied to numpy."""
        tensors = self.parameters | self.statistics
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}

    def write_back(self, values: Mapping[str, NDArray[np.generic]]) -> Model:
        """The model with the initializers `values` (a `snapshot`) in their places, compared with the torch function.

        Raises:
            CheckFailed: the written model differs in onnxruntime from the trained function.
        """
        for name, array in values.items():
            target = self.parameters.get(name, self.statistics.get(name))
            assert target is not None
            with torch.no_grad():
                target.copy_(torch.as_tensor(array))
        proto = onnx.ModelProto()
        proto.CopyFrom(self._model.proto)
        for tensor in proto.graph.initializer:
            if tensor.name in values:
                tensor.CopyFrom(
                    numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name)
                )
        self.eval()
        written = onnx_model.from_proto(proto, self._model.name)
        self._check(written)
        return written

    def _check_bindings(self) -> None:
        """Every bound torch tensor equals, exactly, what its initializer gives it."""
        state = self._module.state_dict()
        tensors = self.parameters | self.statistics
        for binding in self._bindings:
            value = binding.value(tensors[binding.initializer].detach().cpu())
            if not torch.equal(state[binding.target], value):
                raise CheckFailed(
                    f"initializer '{binding.initializer}' does not arrive unchanged in the torch function",
                    where=self._model.name,
                )

    def _check(self, model: Model) -> None:
        """The torch function, on a batch, agrees with `model` in onnxruntime."""
        x = onnxrt.sample_inputs(int(np.prod(self.input_shape)), seed=0, samples=16)
        expected = onnxrt.run(model, x)
        try:
            with torch.no_grad():
                found = self(self.inputs(x)).cpu().numpy().reshape(len(x), -1)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UnsupportedError(
                f"cannot be run on a batch of inputs: {reason}", where=model.name, hint=onnxtorch.CONVERT_HINT
            ) from None
        worst = onnxrt.difference(expected, found)
        if not worst <= _TOLERANCE:
            raise CheckFailed(
                f"the torch function differs from the model in onnxruntime by {worst:.3g} (tolerance {_TOLERANCE:g})",
                where=model.name,
            )


class _Host(nn.Module):
    """Runs whatever is given on the module that it holds: so `functional_call` reaches more than one forward pass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, work: Callable[[nn.Module], Any]) -> Any:
        return work(self.module)


def _is_double(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE)


def _bindings(model: Model, module: nn.Module) -> tuple[list[_Binding], list[_Binding]]:
    """What to train, and the BatchNormalization statistics."""
    assert isinstance(module, torch.fx.GraphModule)
    constants = {tensor.name for tensor in model.graph.initializer}
    producer = {name: node.op_type for node in model.graph.node for name in node.output}
    calls = {call.target: call for call in module.graph.nodes if call.op == "call_module"}
    trained: list[_Binding] = []
    statistics: list[_Binding] = []
    for index, node in enumerate(model.graph.node):
        name = f"n{index}"
        layer = module.get_submodule(name)
        if isinstance(layer, nn.Sequential):  # onnx2torch's padding in front of a convolution
            name, layer = f"{name}.1", layer[1]
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            trained += [_Binding(f"{name}.weight", node.input[1]), _Binding(f"{name}.bias", node.input[2])]
            statistics += [
                _Binding(f"{name}.running_mean", node.input[3]),
                _Binding(f"{name}.running_var", node.input[4]),
            ]
        elif isinstance(layer, nn.Linear):
            options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            transposed, alpha, beta = (
                not options.get("transB"),
                options.get("alpha", 1.0),
                options.get("beta", 1.0),
            )
            trained.append(_Binding(f"{name}.weight", node.input[1], transposed, alpha))
            if layer.bias is not None:
                trained.append(_Binding(f"{name}.bias", node.input[2], scale=beta))
        elif isinstance(layer, nn.modules.conv._ConvNd):
            trained.append(_Binding(f"{name}.weight", node.input[1]))
            if layer.bias is not None:
                trained.append(_Binding(f"{name}.bias", node.input[2]))
        elif node.op_type in ("MatMul", "Gemm") or (
            node.op_type == "Add" and any(producer.get(value) in _LINEAR for value in node.input)
        ):
            for argument, value in zip(calls[f"n{index}"].args, node.input, strict=False):
                if value in constants and isinstance(argument, torch.fx.Node):
                    trained.append(_Binding(str(argument.target), value))
    _refuse_shared(model, statistics)
    return trained, statistics


def _refuse_shared(model: Model, statistics: list[_Binding]) -> None:
    """Statistics that another tensor shares would be overwritten by it."""
    uses = [value for node in model.graph.node for value in node.input]
    for binding in statistics:
        if uses.count(binding.initializer) > 1:
            raise UnsupportedError(
                f"the BatchNormalization statistic '{binding.initializer}' is also used elsewhere in the graph",
                where=model.name,
                hint="export the model with one initializer a tensor",
            )
