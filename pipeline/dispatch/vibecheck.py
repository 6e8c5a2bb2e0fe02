"""vibecheck: bound propagation with refinement by splits and programs, called as the VNN-LIB standard says."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.pipeline.dispatch.protocol import Task, Tool, standard


def _command(task: Task) -> Sequence[str]:
    return [
        *(str(task.home.python), "-m", "vibecheck", "verify", str(task.vnnlib)),
        *("--network", f"N={task.onnx}", "--timeout", str(max(1, round(task.timeout)))),
        *task.arguments,
    ]


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
