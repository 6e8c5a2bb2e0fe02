"""Weights without a network: state_dicts (by torch.save) and safetensors, with the architecture said beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from secateur.formats.errors import InputError
from secateur.pipeline.convert.sources.source import Content, Format, Options, Source, line

if TYPE_CHECKING:
    import torch

_CONTAINERS = ("state_dict", "model_state_dict", "model")
"""Under these names training scripts keep the state_dict beside the epoch and the optimiser's state."""

_PARALLEL = "module."  # what DataParallel puts before every name


def find(value: Any) -> dict[str, torch.Tensor] | None:
    """The tensors by name of a state_dict, or of a checkpoint that holds one; None for anything else."""
    import torch

    if not isinstance(value, Mapping):
        return None
    inner = next((value[name] for name in _CONTAINERS if isinstance(value.get(name), Mapping)), value)
    tensors = {str(name): tensor for name, tensor in inner.items() if isinstance(tensor, torch.Tensor)}
    if not tensors or len(tensors) != len(inner):
        return None
    if all(name.startswith(_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(_PARALLEL): tensor for name, tensor in tensors.items()}
    return tensors


def from_tensors(tensors: dict[str, torch.Tensor], content: Content, options: Options, kind: str) -> Source:
    """The architecture with these weights.

    Raises:
        InputError: no architecture or input shape is said, or the weights do not fit it.
        UnsupportedError: torch cannot export it.
    """
    from secateur.pipeline.convert.sources import torch_module

    if options.architecture is None:
        raise InputError(
            "weights alone have no architecture",
            where=content.name,
            hint="say --architecture NAME, package.module:callable or file.py:callable",
        )
    module = options.architecture(tensors, options.input_shape)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        _, *details = [text.strip() for text in str(error).splitlines() if text.strip()]
        message = f"the weights do not fit the architecture: {details[0] if details else line(error)}"
        raise InputError(message, where=content.name, hint="name the one that they come from") from None
    return torch_module.from_module(module, content, options, kind)


def read(content: Content, options: Options) -> Source:
    """A safetensors file; see `from_tensors`."""
    from safetensors.torch import load

    try:
        tensors = load(content.data)
    except Exception as error:
        raise InputError(
            f"damaged safetensors: {line(error)}", where=content.name, hint="save it again"
        ) from None
    return from_tensors(tensors, content, options, "safetensors")


def _is_safetensors(content: Content) -> bool:
    """Eight bytes of the header's length, then the header, which is JSON."""
    length = int.from_bytes(content.data[:8], "little")
    return content.data[8:9] == b"{" and 0 < length <= len(content.data) - 8


FORMAT = Format("safetensors with --architecture", _is_safetensors, read)
