"""What training starts from: a named architecture with fresh weights, an ONNX model as it is, or one whose survivors
are rewound to earlier weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from secateur.formats import onnx_model, streams
from secateur.formats.dataset import Dataset
from secateur.formats.errors import InputError
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model
from secateur.pipeline.train import architectures
from secateur.pipeline.train.export import export


def starting_model(
    source: str,
    data: Dataset,
    seed: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """The model that `source` names: an architecture built for the images and classes of `data` with weights drawn
    from `seed`, or the ONNX model at a path or on standard input (`-`).

    An architecture's graph begins with (x − mean) / std, one number a channel, where these are given.

    Raises:
        InputError: neither an architecture nor a readable model; means and deviations that do not fit the images.
    """
    named = source in architectures.ARCHITECTURES
    looks_like_a_file = source == streams.STREAM or "." in source or Path(source).exists()
    if not named and looks_like_a_file:
        return onnx_model.read(source)
    shape = data.images.shape[1:]
    arguments: dict[str, object] = {"architecture": source, "seed": seed}
    if mean is not None or std is not None:
        channels = shape[0] if len(shape) == 3 else 1
        mean, std = mean or [0.0] * channels, std or [1.0] * channels
        for name, numbers in (("mean", mean), ("std", std)):
            if len(numbers) != channels:
                raise InputError(
                    f"{len(numbers)} numbers for the {name}: the images have {channels} channels",
                    where=data.name,
                )
        if min(std) <= 0:
            raise InputError(f"a standard deviation of {min(std):g}: expected more than 0")
        arguments |= {"mean": list(mean), "std": list(std)}
    module = architectures.build(source, shape, data.classes, seed)
    model = export(module, shape, source, None if mean is None or std is None else (mean, std))
    onnx_model.add_provenance(model.proto, "build", arguments)
    return onnx_model.from_proto(model.proto, source)


def rewound(model: Model, initial: Model, mask: Mask | None = None) -> Model:
    """`model` with the numbers of `initial`: of every initializer that both have, weights, biases, scales and
    statistics alike. What `mask` removes is zero (Frankle & Carbin, "The lottery ticket hypothesis", ICLR 2019).

    Raises:
        InputError: initializers that are not the same ones, by name and shape; a mask that does not fit them.
    """
    proto = onnx.ModelProto.FromString(model.proto.SerializeToString())
    before, now = (onnx_model.initializers(one.proto) for one in (initial, model))
    keep = dict(mask.tensors) if mask else {}
    for name, array in now.items():
        if name not in before or before[name].shape != array.shape:
            found = list(before[name].shape) if name in before else "none of that name"
            raise InputError(
                f"'{name}' has shape {list(array.shape)}, in {initial.name} {found}",
                where=model.name,
                hint="rewind before shrinking or converting, to a model with the same initializers",
            )
    for name, kept in keep.items():
        if name not in now or now[name].shape != kept.shape:
            raise InputError(
                f"has no '{name}' of shape {list(kept.shape)}, which the mask covers", where=model.name
            )
    for tensor in proto.graph.initializer:
        array = before[tensor.name]
        if tensor.name in keep:
            array = np.where(keep[tensor.name], array, np.zeros_like(array))
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    onnx_model.add_provenance(proto, "rewind", {"initial_sha256": initial.sha256}, model.sha256)
    return onnx_model.from_proto(proto, model.name)
