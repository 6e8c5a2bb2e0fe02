"""α,β-CROWN: bound propagation and branch and bound, the winner of the competitions."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.pipeline.dispatch.process import Finished
from secateur.pipeline.dispatch.protocol import Claim, Task, Tool, pairs, read_if_any, silent, word


def _command(task: Task) -> Sequence[str]:
    assert task.home.path is not None
    return [
        *(str(task.home.python or "python"), str(task.home.path / TOOL.source_file), "--device", "cpu"),
        *("--onnx_path", str(task.onnx), "--vnnlib_path", str(task.vnnlib)),
        *("--results_file", str(task.result), "--timeout", f"{task.timeout:g}"),
        *("--save_adv_example", "--cex_path", str(task.folder / "witness")),
        *task.arguments,
    ]


def _read(task: Task, finished: Finished) -> Claim:
    text = read_if_any(task.result)
    verdict = word(text)
    if not verdict:
        return silent(finished)
    x = pairs(text)
    if x is None:
        x = pairs(read_if_any(task.folder / "witness"))
    return Claim(verdict, x if verdict == "sat" else None)


TOOL = Tool(
    name="abcrown",
    summary="bound propagation, branch and bound, GPU; give it --config FILE by --verifier-args",
    licence="BSD-3-Clause",
    command=_command,
    read=_read,
    source_file="complete_verifier/abcrown.py",
)
