"""NeuralSAT: DPLL(T) over ReLU activations with bounds from abstraction."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.pipeline.dispatch.protocol import Task, Tool, result_file

# Its package is called `src` and has no entry point: main.py runs with its own folder first on the path.
_ENTRY = (
    "import runpy, sys, importlib.util as u; p = u.find_spec('src').submodule_search_locations[0]; "
    "sys.path.insert(0, p); runpy.run_path(p + '/main.py', run_name='__main__')"
)


def _command(task: Task) -> Sequence[str]:
    return [
        *(str(task.home.python), "-c", _ENTRY, "--net", str(task.onnx), "--spec", str(task.vnnlib)),
        *("--device", "cpu", "--timeout", f"{task.timeout:g}"),
        *("--result_file", str(task.result), "--export_cex"),
        *task.arguments,
    ]


TOOL = Tool(
    name="neuralsat",
    summary="conflict-driven branch and bound on ReLU activations",
    licence="MIT",
    command=_command,
    read=result_file,
    requirements=("torch", "torchvision", "neuralsat"),
    package="neuralsat",
)
