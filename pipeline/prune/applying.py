"""From a mask to a model with zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from secateur.formats import onnx_model, onnx_parts, onnx_sparse
from secateur.formats.errors import CheckFailed, InputError, UnsupportedError
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model
from secateur.formats.onnx_parts import Array
from secateur.pipeline import onnxrt
from secateur.pipeline.prune import reference

_FLOATS = (np.float16, np.float32, np.float64)


def apply(
    model: Model,
    mask: Mask,
    *,
    force: bool = False,
    sparse: bool = False,
    seed: int = 0,
    real_inputs: NDArray[np.float32] | None = None,
) -> Model:
    """A copy of `model` with zeros where `mask` says so; nothing else changes (but the provenance).

    `force` lets a mask of another model pass, as long as its names and shapes fit. Each tensor is compared with the
    original times the mask (exactly), and the whole in onnxruntime with the original whose graph multiplies by the
    mask, on random inputs by `seed` and on `real_inputs` [N, …]: see `reference`. `sparse` stores the tensors sparse
    that are smaller so: all outputs are exactly the same.

    Raises:
        InputError: the mask was made for another model, or names or shapes do not fit.
        UnsupportedError: onnxruntime does not run the model.
        CheckFailed: the result is not the masked model.
    """
    if mask.model_sha256 != model.sha256 and not force:
        raise InputError(
            f"the mask was made for the model {mask.model_sha256[:12]}…, this one is {model.sha256[:12]}…",
            where=model.name,
            hint="--force applies it where names and shapes fit",
        )
    arguments = {"criterion": mask.criterion, "granularity": mask.granularity, "forced": force}
    result = compared(model, mask, "apply", arguments | dict(mask.extra), seed, real_inputs)
    if not sparse:
        return result
    stored = onnx.ModelProto()
    stored.CopyFrom(result.proto)
    onnx_sparse.sparsify(stored)
    # feeding the weights of one side alone would round differently
    onnxrt.compare(result.proto, stored, seed=seed, tolerance=0.0, real_inputs=real_inputs, frugal=False)
    return onnx_model.from_proto(stored, model.name)


def compared(
    model: Model,
    mask: Mask,
    command: str,
    arguments: Mapping[str, object],
    seed: int,
    real_inputs: NDArray[np.float32] | None,
) -> Model:
    """The masked model as it is written, once it has been compared."""
    result = masked(model, mask)
    onnx_model.add_provenance(result.light, command, arguments, model.sha256)
    reference.judge(model, mask, result, seed=seed, real_inputs=real_inputs)
    return onnx_model.hashed(result)


def masked(model: Model, mask: Mask) -> Model:
    """A copy of the model with zeros where the mask says so, judged tensor by tensor. It bears the original's hash.

    Raises:
        InputError: names or shapes do not fit.
        UnsupportedError: the mask is of integers.
        CheckFailed: the result is not the masked model.
    """
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.light.graph.initializer}
    for name, keep in mask.tensors.items():
        if name not in dims:
            raise InputError(f"the mask names '{name}', which is no initializer", where=model.name)
        if dims[name] != keep.shape:
            raise InputError(
                f"the mask of '{name}' has shape {keep.shape}, the initializer {dims[name]}", where=model.name
            )
    everything = onnx_model.values(model)

    def zeroed(name: str) -> Array:
        array = everything[name]
        if array.dtype.type not in _FLOATS:
            raise UnsupportedError(f"'{name}' is {array.dtype}: expected floats", where=model.name)
        return np.where(mask.tensors[name], array, array.dtype.type(0))

    inside = (
        numpy_helper.from_array(zeroed(tensor.name), tensor.name)
        if tensor.name in mask.tensors and tensor.name not in model.weights
        else tensor
        for tensor in model.light.graph.initializer
    )
    apart = {
        name: partial(zeroed if name in mask.tensors else everything.__getitem__, name)
        for name in model.weights
    }
    result = replace(
        model, light=onnx_parts.with_initializers(model.light, inside), weights=onnx_parts.Lazy(apart)
    )
    _check(model, mask, result)
    return result


def _check(model: Model, mask: Mask, result: Model) -> None:
    """That the tensors are the originals, or the originals times the mask: by other means than `masked`."""
    before, after = onnx_model.values(model), onnx_model.values(result)
    for old, new in zip(model.light.graph.initializer, result.light.graph.initializer, strict=True):
        keep = mask.tensors.get(old.name)
        if keep is None:
            right = new == old
        else:
            right = np.array_equal(after[new.name], before[old.name] * keep)
        if not right:
            raise CheckFailed(f"initializer '{old.name}' is not the masked original", where=model.name)
