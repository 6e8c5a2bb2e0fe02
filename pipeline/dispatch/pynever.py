"""pyNeVer: symbolic bounds with refinement by splits (SSBP)."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.pipeline.dispatch.protocol import Task, Tool, result_file

# A result file whose name holds "txt" is written in VNN-COMP's format.
_ENTRY = (
    "import os, sys; from pynever.scripts.cli import ssbp_verify_single; n, p, out, t = sys.argv[1:5]; "
    "ssbp_verify_single(n, p, '.', out + '.txt', int(t), ''); os.replace(out + '.txt', out)"
)


def _command(task: Task) -> Sequence[str]:
    return [
        *(str(task.home.python), "-c", _ENTRY, str(task.onnx), str(task.vnnlib), str(task.result)),
        str(max(1, round(task.timeout))),
        *task.arguments,
    ]


TOOL = Tool(
    name="pynever",
    summary="symbolic bounds with splits, sequential networks",
    licence="GPL-3.0",
    command=_command,
    read=result_file,
    requirements=("torch", "torchvision", "pynever"),
    package="pynever",
)
