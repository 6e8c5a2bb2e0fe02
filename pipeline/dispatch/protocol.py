"""What the dispatcher asks of a foreign verifier: where it lives, how it is called, how to read what it says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.formats.query import Query
from secateur.pipeline.dispatch.process import Finished

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Home:
    """Where a verifier lives: the interpreter of its virtual environment, or the folder of its source, or both."""

    python: Path | None = None
    path: Path | None = None


@dataclass(frozen=True)
class Task:
    """One instance for a foreign verifier: plain files (no `.gz`), and a folder of its own to write in.

    `category` is the benchmark's name, for tools that ask for it; `arguments` are passed through to the tool.
    """

    onnx: Path
    vnnlib: Path
    timeout: float
    folder: Path
    home: Home
    threads: int = 1
    category: str = "benchmark"
    arguments: tuple[str, ...] = ()

    @property
    def result(self) -> Path:
        """Where tools that write a result file put it."""
        return self.folder / "result"


@dataclass(frozen=True)
class Claim:
    """What a verifier says: `sat`, `unsat`, `unknown`, `timeout` or `error`; the inputs of its witness, if any."""

    verdict: str
    x: Floats | None = None
    message: str = ""


@dataclass(frozen=True)
class Tool:
    """A foreign verifier.

    `requirements` are what pip installs for it, `package` the distribution whose version counts (both empty: it comes
    as source, and `source_file` must exist in its folder). `prepare` is a command that is run before, outside the
    timeout. `dialects` are the versions of VNN-LIB it reads; `restate` writes a property in the only form that it
    takes, for tools with a narrow reader. `trusted` is False where its `unsat` has been seen to be wrong: `remark` says
    where.
    """

    name: str
    summary: str
    licence: str
    command: Callable[[Task], Sequence[str]]
    read: Callable[[Task, Finished], Claim]
    requirements: tuple[str, ...] = ()
    package: str = ""
    source_file: str = ""
    prepare: Callable[[Task], Sequence[str]] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    dialects: tuple[str, ...] = ("1.0",)
    restate: Callable[[Query], str] | None = None
    trusted: bool = True
    remark: str = ""

    def reads(self, version: str) -> bool:
        """Whether it takes properties in that version of VNN-LIB."""
        return version in self.dialects


VERDICTS = {
    "sat": "sat",
    "unsat": "unsat",
    "unknown": "unknown",
    "timeout": "timeout",
    "timed-out": "timeout",
    "error": "error",
    "holds": "unsat",
    "violated": "sat",
}
"""The words of the tools and competitions, and what we call them."""


def word(text: str) -> str:
    """The verdict that `text` starts with; empty where there is none."""
    first = (text.split(None, 1) or [""])[0].lower().strip(":,.")
    return VERDICTS.get(first, "")


def read_if_any(path: Path, limit: int = 1 << 26) -> str:
    """The text of a file; empty where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return stream.read(limit).decode("utf-8", errors="replace")


def pairs(text: str) -> Floats | None:
    """The inputs in VNN-COMP's text, `((X_0 v) (X_1 v) … (Y_0 v) …)`; None where they are not all there."""
    return gather(re.findall(r"\(\s*X_(\d+)\s+([^\s()]+)\s*\)", text))


def assignment(text: str) -> Floats | None:
    """The input values of an assignment: pairs `(X_0 v)`, or the standard's `X float32 [1,2]` with a value a line.

    The standard's text names variables freely: the first one is taken for the input of the only network.
    """
    found = pairs(text)
    if found is not None:
        return found
    head = re.search(r"^\s*\w+\s+\w+\s+\[[\d,\s]*\]\s*$", text, re.MULTILINE)
    if head is None:
        return None
    values = []
    for line in text[head.end() :].split("\n")[1:]:
        try:
            values.append(float(line))
        except ValueError:
            break
    return gather([(str(i), str(value)) for i, value in enumerate(values)])


def gather(found: Sequence[tuple[str, str]]) -> Floats | None:
    """Values of (number, value) pairs in the order of the numbers; None where one is missing or no number."""
    try:
        values = {int(index): float(value) for index, value in found}
    except ValueError:
        return None
    if not values or max(values) != len(values) - 1:
        return None
    return np.array([values[i] for i in range(len(values))])


def result_file(task: Task, finished: Finished) -> Claim:
    """The claim in VNN-COMP's result file: the verdict in the first line, then the witness."""
    text = read_if_any(task.result)
    verdict = word(text)
    if not verdict:
        return silent(finished)
    return Claim(verdict, assignment(text) if verdict == "sat" else None)


def standard(task: Task, finished: Finished) -> Claim:
    """The claim on standard output as the VNN-LIB standard has it (section 5.3.1): the verdict, then assignments."""
    text = finished.output(1 << 26)
    verdict = word(text)
    if not verdict:
        return silent(finished)
    return Claim(verdict, assignment(text) if verdict == "sat" else None)


def silent(finished: Finished) -> Claim:
    """The claim of a tool that has said nothing: an error, with its last words."""
    words = finished.complaint()
    return Claim(
        "error",
        message=f"no verdict, exit code {finished.code}" + (f": {words}" if words else ""),
    )
