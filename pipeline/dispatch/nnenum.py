"""nnenum: reachable sets as star sets, split at ReLUs, for ReLU networks."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.pipeline.dispatch.protocol import Task, Tool, result_file


def _command(task: Task) -> Sequence[str]:
    return [
        *(str(task.home.python or "python"), "-m", "nnenum.nnenum", str(task.onnx), str(task.vnnlib)),
        *(f"{task.timeout:g}", str(task.result), str(task.threads)),
        *task.arguments,
    ]


TOOL = Tool(
    name="nnenum",
    summary="star sets, ReLU networks",
    licence="GPL-3.0",
    command=_command,
    read=result_file,
    source_file="src/nnenum/nnenum.py",
    environment={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
)
