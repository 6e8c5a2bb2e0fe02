"""The module that weights belong to, by a name of ours, or by a place to import it from."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import torch

from secateur.formats.errors import InputError
from secateur.pipeline.train import architectures

Shape = tuple[int, ...]
Build = Callable[[Mapping[str, torch.Tensor], Shape | None], torch.nn.Module]
"""Out of the weights by name and the shape of one input (without batch)."""


def find(name: str) -> Build:
    """What `name` says: an architecture of `secateur train`, `package.module:callable` or `file.py:callable`.

    The callable is called without arguments and gives a module (or is one); importing it runs its code.

    Raises:
        InputError: nothing of that name, or it does not give a module.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon:
        if name not in architectures.ARCHITECTURES:
            raise InputError(
                f"no architecture '{name}': expected one of {', '.join(architectures.ARCHITECTURES)}",
                hint="or say package.module:callable or file.py:callable",
            )
        return lambda weights, shape: _ours(name, weights, shape)
    found = _import(place)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"'{place}' has no '{attribute}'", hint="say package.module:callable")
        found = getattr(found, part)
    return lambda weights, shape: _called(found, name)


def _ours(name: str, weights: Mapping[str, torch.Tensor], shape: Shape | None) -> torch.nn.Module:
    """Our architecture with as many classes as the weights have: one of the matrices' numbers of rows."""
    if shape is None:
        raise InputError(
            f"architecture '{name}' is built for an input's shape",
            hint="say --input-shape 1,28,28: without the batch",
        )
    wanted = {key: tensor.shape for key, tensor in weights.items()}.items()
    rows = sorted({tensor.shape[0] for tensor in weights.values() if tensor.ndim == 2}) or [1]
    modules = [architectures.build(name, shape, classes) for classes in rows]
    fitting = (m for m in modules if wanted <= {k: t.shape for k, t in m.state_dict().items()}.items())
    return next(fitting, modules[0])


def _import(place: str) -> ModuleType:
    path = Path(place)
    try:
        if path.suffix != ".py":
            return importlib.import_module(place)
        specification = importlib.util.spec_from_file_location(path.stem, path)
        assert specification is not None and specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module
    except Exception as error:
        raise InputError(f"cannot import '{place}': {type(error).__name__}: {error}") from None


def _called(found: object, name: str) -> torch.nn.Module:
    try:
        module = found if isinstance(found, torch.nn.Module) else found() if callable(found) else found
    except Exception as error:
        raise InputError(
            f"'{name}' fails: {type(error).__name__}: {error}", hint="name what takes no arguments"
        ) from None
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"'{name}' gives a {type(module).__name__}: expected a torch module")
    return module
