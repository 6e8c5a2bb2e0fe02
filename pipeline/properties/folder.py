"""Folders of properties in the competition's layout, in either dialect or both.

    DIR/onnx/ DIR/vnnlib/ DIR/instances.csv                       one dialect
    DIR/1.0/… and DIR/2.0/… with the same three                   both

In 2.0 a property about two networks names both, and `instances.csv` pairs them with their files. In 1.0, which knows
one network, it is about their product (see `product`), which is written beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secateur.formats import instances, onnx_model, vnnlib
from secateur.formats.errors import InputError
from secateur.formats.instances import Instance
from secateur.formats.onnx_model import Model
from secateur.pipeline import product
from secateur.pipeline.properties.statements import Property

FORMATS = ("1.0", "2.0", "both")


def write(
    properties: Sequence[Property],
    directory: str,
    *,
    timeout: float = 60.0,
    version: str = "1.0",
    compress: bool = False,
) -> list[str]:
    """Write a folder that stands alone (`onnx/`, `vnnlib/`, `instances.csv`); one a dialect when `version` is "both".

    Existing files of the same names are replaced. Returns the paths of `instances.csv`; `timeout` is the seconds it
    grants each instance. `compress`: networks and properties are gzipped; the list names them without `.gz`.

    Raises:
        InputError: no property at all, or the folder cannot be written.
        UnsupportedError: networks that have no product (1.0).
    """
    if not properties:
        raise InputError("no property to write: no image was left", hint="take more images, or all of them")
    if version != "both":
        return [_write(properties, Path(directory), timeout, version, compress)]
    return [_write(properties, Path(directory, one), timeout, one, compress) for one in ("1.0", "2.0")]


def _write(properties: Sequence[Property], folder: Path, timeout: float, version: str, compress: bool) -> str:
    ending = ".gz" if compress else ""
    networks = _Networks(folder, ending)
    lines = []
    prepared = [_in_dialect(one, version) for one in properties]
    texts: dict[str, str] = {}
    for one, (text, _) in zip(properties, prepared, strict=True):
        if texts.setdefault(one.name, text) != text:
            raise InputError(f"two different properties are called '{one.name}'", where=str(folder))
    for part in ("onnx", "vnnlib"):
        try:
            (folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror or error}", where=str(folder)) from None
    for one, (_, models) in zip(properties, prepared, strict=True):
        files = [networks.file(model) for model in models]
        prop = f"vnnlib/{one.name}.vnnlib"
        if text := texts.pop(one.name, ""):  # of several networks the same property is one file
            vnnlib.write(text, str(folder / prop) + ending)
        names = [network.name for network in one.subject.networks]
        pairs = tuple(zip(names, files, strict=True)) if len(files) > 1 else ()
        lines.append(Instance(files[0], prop, timeout, pairs))
    listing = str(folder / "instances.csv")
    instances.write(lines, listing)
    return listing


def _in_dialect(one: Property, version: str) -> tuple[str, tuple[Model, ...]]:
    """The property's text in that dialect, and the models it is about there."""
    models = one.subject.models
    if version == "2.0":
        return one.text_2_0, models
    if len(models) == 1:
        return one.text, models
    whole = product.compile(one.query, models)
    stems = [stem(model) for model in models]
    named = onnx_model.Model(
        whole.model.proto, whole.model.sha256, f"{'__'.join(dict.fromkeys(stems))}_product.onnx"
    )
    return vnnlib.to_text(whole.query, one.comments), (named,)


def stem(model: Model) -> str:
    """What a model's file is called, without endings."""
    name = Path(model.name).name.removesuffix(".gz").removesuffix(".onnx")
    return "model" if model.name == "standard input" else name


class _Networks:
    """Writes each network once; different ones of the same name are numbered."""

    def __init__(self, folder: Path, ending: str) -> None:
        self._folder = folder
        self._ending = ending
        self._files: dict[str, str] = {}  # of a model's hash

    def file(self, model: Model) -> str:
        """Where in the folder the model is, after writing it when it is new."""
        known = self._files.get(model.sha256)
        if known is None:
            first = f"onnx/{stem(model)}"
            taken = set(self._files.values())
            numbers = (first if n == 1 else f"{first}_{n}" for n in range(1, len(taken) + 2))
            known = next(name for name in map("{}.onnx".format, numbers) if name not in taken)
            onnx_model.write(model, str(self._folder / known) + self._ending)
            self._files[model.sha256] = known
        return known
