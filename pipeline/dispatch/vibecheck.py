"""vibecheck: bound propagation with refinement by splits and programs, called as the VNN-LIB standard says."""

from __future__ import annotations

import re
from collections.abc import Sequence

from secateur.pipeline.dispatch.process import Finished
from secateur.pipeline.dispatch.protocol import Claim, Floats, Task, Tool, gather, pairs, silent, word


def _command(task: Task) -> Sequence[str]:
    return [
        *(str(task.home.python), "-m", "vibecheck", "verify", str(task.vnnlib)),
        *("--network", f"N={task.onnx}", "--timeout", str(max(1, round(task.timeout)))),
        *task.arguments,
    ]


def standard(task: Task, finished: Finished) -> Claim:
    """The claim on standard output as the VNN-LIB standard has it (section 5.3.1): the verdict, then assignments."""
    text = finished.output(1 << 26)
    verdict = word(text)
    if not verdict:
        return silent(finished)
    return Claim(verdict, assignment(text) if verdict == "sat" else None)


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


TOOL = Tool(
    name="vibecheck",
    summary="bound propagation refined by splits, VNN-LIB 1.0 and 2.0",
    licence="GPL-3.0",
    command=_command,
    read=standard,
    dialects=("1.0", "2.0"),
    requirements=("torch", "torchvision", "vibecheck-nn"),
    package="vibecheck-nn",
    trusted=False,
    remark="1.1.0 ignores alpha of Gemm and has said unsat where a witness exists",
)
