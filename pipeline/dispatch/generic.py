"""Verifiers that bring their own call: a VNN-COMP tool's folder (`vnncomp:DIR`), and `command:TEMPLATE`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from secateur.formats.errors import InputError
from secateur.pipeline.dispatch.process import Finished
from secateur.pipeline.dispatch.protocol import (
    Claim,
    Task,
    Tool,
    pairs,
    read_if_any,
    result_file,
    silent,
    standard,
    word,
)

SCRIPTS = ("prepare_instance.sh", "run_instance.sh")
FIELDS = ("onnx", "vnnlib", "timeout", "result", "folder", "threads")


def vnncomp(folder: str) -> Tool:
    """The tool in `folder`, by the competition's scripts (there or in `vnncomp_scripts/`).

    Raises:
        InputError: a script is missing.
    """
    for place in (Path(folder), Path(folder, "vnncomp_scripts")):
        if all((place / script).is_file() for script in SCRIPTS):
            scripts = place.resolve()
            break
    else:
        raise InputError(
            f"no VNN-COMP tool: expected {' and '.join(SCRIPTS)} there or in vnncomp_scripts/", where=folder
        )

    def prepare(task: Task) -> Sequence[str]:
        return _script(scripts / SCRIPTS[0], task)

    def command(task: Task) -> Sequence[str]:
        limit = f"{task.timeout:g}"
        return [*_script(scripts / SCRIPTS[1], task), str(task.result), limit, *task.arguments]

    return Tool(
        name=f"vnncomp:{Path(folder).name}",
        summary="a VNN-COMP tool by its scripts",
        licence="its own",
        dialects=("1.0", "2.0"),
        command=command,
        read=result_file,
        prepare=prepare,
    )


def _script(script: Path, task: Task) -> list[str]:
    return ["bash", str(script), "v1", task.category, str(task.onnx), str(task.vnnlib)]


def own(verifier: str) -> Tool:
    """A verifier of ours in a process of its own, which can be ended at any time."""

    def command(task: Task) -> Sequence[str]:
        return [
            *(sys.executable, "-m", "secateur.tools", "verify", str(task.onnx), str(task.vnnlib)),
            *("--verifier", verifier, "--timeout", f"{task.timeout:g}", "--threads", str(task.threads)),
            *("--witness", str(task.folder / "witness"), *task.arguments),
        ]

    def read(task: Task, finished: Finished) -> Claim:
        verdict = word(finished.output())
        if not verdict:
            return silent(finished)
        return Claim(verdict, pairs(read_if_any(task.folder / "witness")) if verdict == "sat" else None)

    return Tool(
        name=f"process:{verifier}",
        summary=f"{verifier} in a process of its own",
        licence="BSD-3-Clause",
        dialects=("1.0", "2.0"),
        command=command,
        read=read,
    )


def template(text: str) -> Tool:
    """Any program: `text` is its command line, with {onnx} {vnnlib} {timeout} {result} {folder} {threads} filled in.

    Its answer is read as VNN-COMP's result file where {result} occurs, else from its standard output as the VNN-LIB
    standard has it: the verdict is the first word, the witness follows.

    Raises:
        InputError: nothing to run, an unknown field, or no place for the network and the property.
    """
    try:
        words = shlex.split(text)
        filled = [part.format(**dict.fromkeys(FIELDS, "")) for part in words]
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"not a command template ({error}): expected fields {{{'}, {'.join(FIELDS)}}}",
            where=f"command:{text}",
        ) from None
    if not filled or "{onnx}" not in text or "{vnnlib}" not in text:
        raise InputError("expected a command with {onnx} and {vnnlib}", where=f"command:{text}")
    if "/" in words[0]:  # it runs in a folder of its own, but was named from here
        words[0] = str(Path(words[0]).absolute())

    def command(task: Task) -> Sequence[str]:
        values = {
            "onnx": task.onnx,
            "vnnlib": task.vnnlib,
            "timeout": f"{task.timeout:g}",
            "result": task.result,
            "folder": task.folder,
            "threads": task.threads,
        }
        return [*(part.format(**values) for part in words), *task.arguments]

    def read(task: Task, finished: Finished) -> Claim:
        return result_file(task, finished) if read_if_any(task.result, 1) else standard(task, finished)

    return Tool(
        name=f"command:{Path(words[0]).name}",
        summary="a program by its command line",
        licence="its own",
        dialects=("1.0", "2.0"),
        command=command,
        read=read,
    )
