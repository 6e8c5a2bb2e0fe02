"""Pickles: torch's (a state_dict, or a whole module), and scikit-learn's by pickle or joblib.

A pickle runs code when it is loaded. Tensors alone torch can load without (`weights_only`); anything else is loaded
only when trusted.
"""

from __future__ import annotations

import io
from typing import Any

from secateur.formats.errors import InputError
from secateur.pipeline.convert.sources import scikit, weights
from secateur.pipeline.convert.sources.source import TRUST, Content, Format, Options, Source, line

_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled
_PICKLE, _ZLIB = b"\x80", b"\x78"  # joblib compresses with zlib


def read_torch(content: Content, options: Options) -> Source:
    """What torch.save wrote: tensors with `--architecture`, or a module when trusted.

    Raises:
        InputError: a pickle that is not trusted, or that holds neither; no input shape; no architecture.
        UnsupportedError: torch cannot export it.
    """
    import torch

    try:
        value = torch.load(io.BytesIO(content.data), map_location="cpu", weights_only=True)
    except Exception:
        _needs_trust(content, options)
        try:
            value = torch.load(io.BytesIO(content.data), map_location="cpu", weights_only=False)
        except Exception as error:
            raise _unreadable(content, error) from None
    return _source(value, content, options)


def read_plain(content: Content, options: Options) -> Source:
    """What pickle or joblib wrote; see `read_torch`."""
    _needs_trust(content, options)
    import joblib

    try:
        value = joblib.load(io.BytesIO(content.data))
    except Exception as error:
        raise _unreadable(content, error) from None
    return _source(value, content, options)


TORCH = Format(
    "torch.save: a state_dict with --architecture, or a module (only with --trust-pickle)",
    lambda content: "data.pkl" in content.entries or content.data.startswith(_LEGACY_TORCH),
    read_torch,
)
PLAIN = Format(
    "pickle or joblib: a torch module or a scikit-learn MLP (only with --trust-pickle)",
    lambda content: (
        content.data.startswith(_PICKLE)
        or (content.data.startswith(_ZLIB) and content.suffix in (".joblib", ".pkl", ".pickle"))
    ),
    read_plain,
)


def _needs_trust(content: Content, options: Options) -> None:
    if not options.trust_pickle:
        raise InputError("it is a pickle, which runs code when loaded", where=content.name, hint=TRUST)


def _unreadable(content: Content, error: Exception) -> InputError:
    return InputError(f"cannot be unpickled: {line(error)}", where=content.name, hint="save it again")


def _source(value: Any, content: Content, options: Options) -> Source:
    import torch

    from secateur.pipeline.convert.sources import torch_module

    if isinstance(value, torch.nn.Module):
        return torch_module.from_module(value, content, options, "pickle")
    if scikit.is_model(value):
        return scikit.from_model(value, content)
    tensors = weights.find(value)
    if tensors is None:
        raise InputError(
            f"expected a torch module, a state_dict or a scikit-learn MLP, found {type(value).__name__}",
            where=content.name,
        )
    return weights.from_tensors(tensors, content, options, "state_dict")
