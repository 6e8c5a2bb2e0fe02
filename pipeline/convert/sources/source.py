"""What every source is read from and comes to, and how a format is declared."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from secateur.formats.errors import InputError

if TYPE_CHECKING:
    import torch

Array = NDArray[np.generic]
Shape = tuple[int, ...]
Function = Callable[[Array], Array]
"""[N, inputs] -> [N, outputs]."""

TRUST = "--trust-pickle loads it, if you trust where it comes from"
NO_SHAPE = "say --input-shape 1,28,28: without the batch"


@dataclass(frozen=True)
class Content:
    """A file's bytes (gunzipped), its name for messages, and the folder it lies in (None for a stream)."""

    data: bytes
    name: str
    folder: Path | None = None

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def entries(self) -> frozenset[str]:
        """The file names, without folders, in a zip archive; none in anything else.

        Raises:
            InputError: a damaged archive.
        """
        if not self.data.startswith(b"PK"):
            return frozenset()
        try:
            names = zipfile.ZipFile(io.BytesIO(self.data)).namelist()
        except zipfile.BadZipFile as error:
            raise InputError(f"damaged archive: {error}", where=self.name, hint="save it again") from None
        return frozenset(PurePath(entry).name for entry in names)

    @property
    def suffix(self) -> str:
        """The name's suffix in lower case, `.gz` taken off."""
        return Path(self.name.lower().removesuffix(".gz")).suffix


@dataclass(frozen=True)
class Options:
    """What a reader may need to be told.

    `input_shape` (without batch) is for sources that do not tell; `architecture` builds the module that a state_dict
    belongs to, out of the tensors by name and the input shape; `nnet_normalise` folds a .nnet's normalisation into its
    layers.
    """

    trust_pickle: bool = False
    input_shape: Shape | None = None
    architecture: Callable[[Mapping[str, torch.Tensor], Shape | None], torch.nn.Module] | None = None
    nnet_normalise: bool = False


UNTOLD = Options()


@dataclass(frozen=True)
class Source:
    """A model as it came: its ONNX form, its kind, the function [N, inputs] -> [N, outputs] that it must agree with
    (None for ONNX), what its user should know of it, and inputs [N, inputs] that it is made for, where it says so."""

    proto: onnx.ModelProto
    sha256: str
    kind: str
    function: Function | None = None
    notes: tuple[str, ...] = ()
    examples: Array | None = None


@dataclass(frozen=True)
class Format:
    """A row of the table: what the format is, how a file of it is known, and its reader."""

    summary: str
    matches: Callable[[Content], bool]
    read: Callable[[Content, Options], Source]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters log and print advice to developers; a command's output streams are not for that."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def line(error: Exception) -> str:
    """A foreign error in one line."""
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
