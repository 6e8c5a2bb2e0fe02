"""torch networks of the pruning zoo and of `secateur train`, in all formats that torch writes."""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.torch import save_file
from torch import nn

from conversion_zoo.case import Case
from pruning_zoo import models
from pruning_zoo.export import Variant, export_module
from secateur.pipeline import architecture
from secateur.pipeline.convert.sources import Options
from secateur.pipeline.onnxrt import Array
from secateur.pipeline.train import architectures

ZOO = ("mlp", "lenet", "vgg", "resnet", "mobilenet", "unet", "vit")
OURS = {"digits_cnn": (1, 8, 8), "mnist_lenet": (1, 28, 28)}
TORCHSCRIPT, DYNAMO = range(7, 21), range(18, 24)
"""The opsets that torch's ONNX exporters know."""

_OPSET = 18  # of the ONNX files that are stored in other ways


def build(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The network in evaluation mode with seeded weights, and its input's shape."""
    if name in OURS:
        return architectures.build(name, OURS[name], 10).eval(), OURS[name]
    return models.build(name)


def cases(name: str, opsets: Collection[int] = range(100)) -> Iterator[Case]:
    """The network by every exporter, at those of its opsets that are among `opsets`."""
    module, shape = build(name)
    told = Options(input_shape=shape, trust_pickle=True)

    def case(
        source: str,
        exporter: str,
        write: Callable[[Path], None],
        opset: int | None = None,
        suffix: str = ".onnx",
    ) -> Case:
        return Case(name, source, exporter, opset, suffix, write, partial(_outputs, module, shape), told)

    yield case(".pt2", "torch.export", partial(_exported, module, shape), suffix=".pt2")
    for exporter, known in (("dynamo", DYNAMO), ("torchscript", TORCHSCRIPT)):
        for opset in [opset for opset in known if opset in opsets]:
            variant = Variant(name, exporter, opset)
            yield case(
                "ONNX", f"torch.onnx {exporter}", partial(export_module, module, shape, variant), opset
            )
    for store in (_gzipped, _beside, _half, _double):
        how = (store.__doc__ or "").rstrip(".")
        yield case(f"ONNX {how}", "torch.onnx torchscript", partial(store, module, shape), _OPSET)
    yield case("TorchScript", "torch.jit.script", partial(_scripted, module), suffix=".pt")
    yield case("TorchScript", "torch.jit.trace", partial(_traced, module, shape), suffix=".pt")
    yield case("pickle", "torch.save", partial(torch.save, module), suffix=".pt")
    state = module.state_dict()
    with_name = Options(
        input_shape=shape,
        architecture=architecture.find(name) if name in OURS else lambda weights, shape: build(name)[0],
    )
    for source, exporter, write, suffix in (
        ("state_dict", "torch.save", partial(torch.save, state), ".pt"),
        ("state_dict", "safetensors", partial(save_file, state), ".safetensors"),
    ):
        function = partial(_outputs, module, shape)
        yield Case(name, source, exporter, None, suffix, write, function, with_name)


def _outputs(module: nn.Module, shape: tuple[int, ...], rows: Array) -> Array:
    x = torch.from_numpy(np.asarray(rows, np.float32)).reshape(-1, *shape)
    with torch.no_grad():
        return np.asarray(module(x).reshape(len(x), -1).numpy())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _exported(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    batch = ({0: torch.export.Dim("batch")},)
    with _quiet():
        program = torch.export.export(module, (torch.zeros(2, *shape),), dynamic_shapes=batch)
        torch.export.save(program, path)


def _scripted(module: nn.Module, path: Path) -> None:
    with _quiet():
        torch.jit.save(torch.jit.script(module), path)


def _traced(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    with _quiet():
        torch.jit.save(torch.jit.trace(module, torch.zeros(2, *shape)), path)


def _onnx(module: nn.Module, shape: tuple[int, ...], path: Path) -> onnx.ModelProto:
    export_module(module, shape, Variant("", "torchscript", _OPSET), path)
    return onnx.load(path)


def _gzipped(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """in .gz."""
    path.write_bytes(gzip.compress(_onnx(module, shape, path).SerializeToString()))


def _beside(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """with its data beside it."""
    proto = _onnx(module, shape, path)
    onnx.save(proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


def _half(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """in float16."""
    _in_type(module, shape, path, torch.float16)


def _double(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """in float64."""
    _in_type(module, shape, path, torch.float64)


def _in_type(module: nn.Module, shape: tuple[int, ...], path: Path, dtype: torch.dtype) -> None:
    with _quiet():
        torch.onnx.export(
            copy.deepcopy(module).to(dtype),
            (torch.zeros(2, *shape, dtype=dtype),),
            path,
            dynamo=False,
            opset_version=_OPSET,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
        )
