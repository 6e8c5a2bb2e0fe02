"""Keras models (`.keras`, `.h5`), by Keras' own ONNX export on its torch backend. Inputs stay as Keras has them:
images are [height, width, channels].
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx

from secateur.formats.errors import InputError, UnsupportedError
from secateur.pipeline.convert.sources.source import Content, Format, Options, Shape, Source, line

_OPSET = 17
_HDF5 = b"\x89HDF"
_BACKEND = "KERAS_BACKEND"


def read(content: Content, options: Options) -> Source:
    """The model with its sizes as saved; those that it leaves open are taken from `input_shape`.

    Raises:
        InputError: Keras is missing or runs on another backend; a damaged file; weights alone; sizes left open.
        UnsupportedError: several inputs, or what Keras or torch cannot export.
    """
    import torch

    from secateur.pipeline.convert.sources import torch_module

    keras = _keras(content.name)
    with tempfile.TemporaryDirectory() as folder:
        suffix = ".h5" if content.data.startswith(_HDF5) else ".keras"
        path = Path(folder, "model" + suffix)
        path.write_bytes(content.data)
        try:
            model = keras.saving.load_model(path, compile=False, safe_mode=not options.trust_pickle)
        except Exception as error:
            raise InputError(f"Keras cannot load it: {line(error)}", where=content.name) from None
        shape = _shape(model, options, content.name)

        def call(x: torch.Tensor) -> Any:
            return model(x, training=False)

        torch_module.fits(call, shape, content.name)
        exported = Path(folder, "model.onnx")
        signature = [keras.InputSpec(shape=(None, *shape[1:]), dtype="float32", name="input")]
        try:
            model.export(
                exported, format="onnx", verbose=False, input_signature=signature, opset_version=_OPSET
            )
        except Exception as error:
            raise UnsupportedError(f"Keras cannot export it: {line(error)}", where=content.name) from None
        proto = torch_module.without_traces(onnx.load(exported))
    fixed = not torch_module.batches(call, shape)
    function = torch_module.function_of(call, shape, fixed=fixed)
    return Source(proto, content.sha256, "keras", function, _notes(shape))


def _is_keras(content: Content) -> bool:
    return {"config.json", "model.weights.h5"} <= content.entries or content.data.startswith(_HDF5)


FORMAT = Format("Keras model (.keras, .h5)", _is_keras, read)


def _keras(name: str) -> Any:
    """Keras on its torch backend, which is chosen when it is imported first."""
    if "keras" not in sys.modules:
        os.environ[_BACKEND] = "torch"
    try:
        import keras
    except ImportError:
        raise InputError(
            "Keras models need keras, which is not installed",
            where=name,
            hint="pip install 'secateur[keras]'",
        ) from None
    if keras.backend.backend() != "torch":
        message = f"Keras runs on {keras.backend.backend()} here, expected torch"
        raise InputError(message, where=name, hint=f"set {_BACKEND}=torch before importing it")
    return keras


def _shape(model: Any, options: Options, name: str) -> Shape:
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) > 1:
        raise UnsupportedError(f"expected one input, found {len(inputs)}", where=name)
    if options.input_shape is not None:
        return (1, *options.input_shape)
    sizes = tuple(inputs[0].shape[1:]) if inputs else (None,)
    if None in sizes:
        raise InputError(
            "the model leaves its input's shape open",
            where=name,
            hint="say --input-shape 28,28,1: as Keras has it",
        )
    return (1, *sizes)


def _notes(shape: Shape) -> tuple[str, ...]:
    rank = len(shape)
    return ("inputs stay as in Keras: [batch, height, width, channels]",) if rank == 4 else ()
