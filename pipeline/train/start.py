"""What training starts from: a named architecture with fresh weights, or an ONNX model as it is."""

from __future__ import annotations

from pathlib import Path

from secateur.formats import onnx_model, streams
from secateur.formats.dataset import Dataset
from secateur.formats.onnx_model import Model
from secateur.pipeline.train import architectures
from secateur.pipeline.train.export import export


def starting_model(source: str, data: Dataset, seed: int = 0) -> Model:
    """The model that `source` names: an architecture built for the images and classes of `data` with weights drawn
    from `seed`, or the ONNX model at a path or on standard input (`-`).

    Raises:
        InputError: neither an architecture nor a readable model.
    """
    named = source in architectures.ARCHITECTURES
    looks_like_a_file = source == streams.STREAM or "." in source or Path(source).exists()
    if not named and looks_like_a_file:
        return onnx_model.read(source)
    shape = data.images.shape[1:]
    model = export(architectures.build(source, shape, data.classes, seed), shape, source)
    onnx_model.add_provenance(model.proto, "build", {"architecture": source, "seed": seed})
    return onnx_model.from_proto(model.proto, source)
