"""auto_LiRPA, imported so that its release 0.3 works with today's torch and numpy.

The package index has release 0.3, of 2022, and nothing newer. It asks for names that torch and numpy have dropped
since. They are supplied while the library is used and taken away afterwards; so is what importing and using it changes
for everybody: handlers of the root logger, warning filters, the opset of torch's exporter, the default number type
(float64 inside). What it prints is swallowed, since standard output carries verdicts. A newer release asks for none of
these names.
"""

from __future__ import annotations

import importlib
import inspect
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from secateur.formats.errors import InputError

INSTALL = "pip install --no-deps auto-LiRPA==0.3 appdirs tqdm"


@contextmanager
def library() -> Iterator[Any]:
    """The package `auto_LiRPA`, for use inside the block alone. Blocks of several threads must not overlap.

    Raises:
        InputError: it cannot be imported: not installed, or something that it needs is not.
    """
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(warnings.catch_warnings(record=True))
        stack.callback(setattr, logging.root, "handlers", logging.root.handlers[:])
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        # It makes identity matrices of the default type, whatever the network's type is.
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
        exporter = _exporter()
        stack.callback(setattr, exporter, "export_onnx_opset_version", exporter.export_onnx_opset_version)
        for place, name, value in _dropped(exporter):
            if not hasattr(place, name):
                setattr(place, name, value)
                stack.callback(delattr, place, name)
        if _ARRAYSETOPS not in sys.modules and importlib.util.find_spec(_ARRAYSETOPS) is None:
            sys.modules[_ARRAYSETOPS] = module = ModuleType(_ARRAYSETOPS)
            module.__dict__["isin"] = np.isin
            stack.callback(sys.modules.pop, _ARRAYSETOPS)
        try:
            package = importlib.import_module("auto_LiRPA")
        except ImportError as error:
            raise InputError(f"the verifier auto_lirpa needs auto_LiRPA: {error}", hint=INSTALL) from None
        members = package.BoundedModule._named_members
        if "remove_duplicate" not in inspect.signature(members).parameters:
            package.BoundedModule._named_members = _without_remove_duplicate(members)
            stack.callback(setattr, package.BoundedModule, "_named_members", members)
        yield package


_ARRAYSETOPS = "numpy.lib.arraysetops"


def _exporter() -> Any:
    """The settings of torch's TorchScript exporter, which have moved."""
    for name in ("torch.onnx._internal.torchscript_exporter._globals", "torch.onnx._globals"):
        try:
            return importlib.import_module(name).GLOBALS
        except ImportError:
            continue
    raise InputError(f"auto_LiRPA 0.3 cannot work with torch {torch.__version__}")


def _dropped(exporter: Any) -> list[tuple[Any, str, Any]]:
    """What torch no longer has: (where, name, what stands for it)."""
    # `from torch.onnx import symbolic_helper` is another module in new releases.
    symbolic = importlib.import_module("torch.onnx.symbolic_helper")
    return [
        (symbolic, "_set_opset_version", lambda v: setattr(exporter, "export_onnx_opset_version", v)),
        (torch._C.Node, "__getitem__", lambda node, name: getattr(node, node.kindOf(name))(name)),
        (torch, "_six", SimpleNamespace(string_classes=(str,))),
    ]


def _without_remove_duplicate(members: Callable[..., Any]) -> Callable[..., Any]:
    """`_named_members` for callers that pass an argument which came later; its default is what 0.3 does."""

    def named_members(self: Any, *arguments: Any, remove_duplicate: bool = True, **rest: Any) -> Any:
        return members(self, *arguments, **rest)

    return named_members
