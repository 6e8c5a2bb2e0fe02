"""Questions about networks, and what becomes of them: what the queue takes and gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from secateur.formats import onnx_model
from secateur.formats.errors import InputError, SecateurError
from secateur.formats.onnx_model import Model
from secateur.pipeline import dispatch
from secateur.pipeline.dispatch.foreign import Limits
from secateur.pipeline.dispatch.protocol import Tool
from secateur.pipeline.verify.results import Result
from secateur.pipeline.verify.search.work import never


@dataclass(frozen=True)
class Question:
    """A property file (or `-`) and the seconds that its answer may take.

    `refusal`: why it is not asked at all; `state`: a file that holds what is left of the search when time is over, and
    from which it goes on when the file is there, removed when the question is answered; `log`: where what a foreign
    verifier printed is written.
    """

    prop: str
    timeout: float
    refusal: SecateurError | None = None
    state: str | None = None
    log: str | None = None


@dataclass(frozen=True)
class How:
    """By which verifier questions are answered, and with what: `limits` are those of foreign verifiers, `memory`
    (bytes), `device` and `branching` (see `verify.engine.BRANCHING`) those of ours."""

    verifier: str = "crown"
    device: str = "cpu"
    seed: int = 0
    memory: int | None = None
    branching: str = "babsr"
    stop: Callable[[], bool] = never
    limits: Limits = field(default_factory=Limits)

    @property
    def tool(self) -> Tool | None:
        """The foreign verifier; None for one of ours.

        Raises:
            InputError: no such verifier.
        """
        return dispatch.tool(self.verifier)


@dataclass(frozen=True)
class Answer:
    """What was decided; `result.seconds` are all that was spent on it, reading included: of batches, its share."""

    result: Result
    model_sha256: str
    property_sha256: str


@dataclass(frozen=True)
class Failure:
    """What went wrong instead, and after how many seconds."""

    error: Exception
    seconds: float


Answers = Iterator[tuple[int, Answer | Failure]]
"""Positions of questions, and what became of them."""


def sources(model_source: str) -> dict[str, str]:
    """The files of `f=a.onnx,g=b.onnx` by network; one file without a name has the name ""."""
    parts = [part.partition("=") for part in model_source.split(",")]
    if not all(equals and name.isidentifier() and path for name, equals, path in parts):
        return {"": model_source}
    if len({name for name, _, _ in parts}) < len(parts):
        raise InputError(f"a network is named twice: '{model_source}'")
    return {name: path for name, _, path in parts}


def joined(files: Mapping[str, str]) -> str:
    """What `sources` takes apart."""
    return ",".join(f"{name}={path}" if name else path for name, path in files.items())


def fingerprint(hashes: Mapping[str, str]) -> str:
    """What the models are known by, given the hash of each: that of the only one, else the hash of names and hashes.

    Empty where one of them is (its file cannot be read).
    """
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    if not all(hashes.values()):
        return ""
    return hashlib.sha256("".join(f"{name}={hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()


def read_models(files: Mapping[str, str]) -> dict[str, Model]:
    """The models of files by network.

    Raises:
        InputError: as `onnx_model.read`.
    """
    return {name: onnx_model.read(path) for name, path in files.items()}
