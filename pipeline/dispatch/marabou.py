"""Marabou (maraboupy): an SMT-based verifier of piecewise linear networks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from secateur.pipeline.dispatch.process import Finished
from secateur.pipeline.dispatch.protocol import Claim, Task, Tool, gather, read_if_any, silent, word

_ENTRY = "import sys; from maraboupy.MarabouMain import main; sys.exit(main())"


def _command(task: Task) -> Sequence[str]:
    # Its time limit is in whole seconds, and 0 means none.
    return [
        *(str(task.home.python), "-c", _ENTRY, str(task.onnx), str(task.vnnlib)),
        *("--timeout", str(max(1, round(task.timeout))), "--verbosity", "0"),
        *("--blas-threads", str(task.threads), "--summary-file", str(task.result)),
        *task.arguments,
    ]


def _read(task: Task, finished: Finished) -> Claim:
    verdict = word(read_if_any(task.result))
    if not verdict:
        return silent(finished)
    found = re.findall(r"^\s*x(\d+) = (\S+)\s*$", finished.output(), re.MULTILINE)
    return Claim(verdict, gather(found) if verdict == "sat" else None)


TOOL = Tool(
    name="marabou",
    summary="SMT-based, complete for piecewise linear networks",
    licence="BSD-3-Clause",
    command=_command,
    read=_read,
    requirements=("maraboupy",),
    package="maraboupy",
    trusted=False,
    remark="2.0.0 says unsat of residual and some convolutional networks where a witness exists",
)
