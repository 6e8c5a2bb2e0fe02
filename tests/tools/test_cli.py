"""The front door: help, version, typos, and how failures leave."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from factories import box_property, mlp
from secateur.tools.cli import COMMANDS, cli

HEAVY = {"torch", "onnx", "onnxruntime", "numpy", "rich", "scipy"}


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `code`."""
    code += "\nimport sys\nprint(*{name.split('.')[0] for name in sys.modules})"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(finished.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nosuchcommand"]])
def test_front_door_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"from secateur.tools.cli import cli\ntry: cli({arguments!r})\nexcept SystemExit: pass"
    loaded = loaded_after(code)
    assert "click" in loaded
    assert not loaded & HEAVY


def test_command_modules_import_nothing_heavy() -> None:
    """So that `secateur COMMAND --help` and completion are quick too."""
    modules = sorted({target.split(":")[0] for target in COMMANDS.values()})
    loaded = loaded_after(f"import {', '.join(modules)}")
    assert not loaded & HEAVY


@pytest.mark.parametrize("option", ["--list", "--help"])
def test_criteria_are_listed_without_what_they_run_on(option: str) -> None:
    code = f"from secateur.tools.cli import cli\ntry: cli(['prune', '{option}'])\nexcept SystemExit: pass"
    assert not loaded_after(code) & (HEAVY - {"numpy"})


def test_help_lists_every_command(invoke: Callable[..., Result]) -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.stdout


def test_typo_gets_a_suggestion(invoke: Callable[..., Result]) -> None:
    result = invoke("verfy")
    assert result.exit_code == 2
    assert result.stderr == (
        "secateur: error: there is no command 'verfy'; did you mean 'verify'? (see 'secateur --help')\n"
    )
    assert result.stdout == ""


def test_version(invoke: Callable[..., Result]) -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("secateur 0.")


def leaves(command: click.Command, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    if isinstance(command, click.Group):
        return [leaf for name, sub in command.commands.items() for leaf in leaves(sub, (*path, name))]
    return [path]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_runnable_examples(name: str, invoke: Callable[..., Result]) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for path in leaves(command, (name,)):
        result = invoke(*path, "--help")
        assert result.exit_code == 0
        examples = [line for line in result.stdout.splitlines() if f"secateur {' '.join(path)}" in line]
        assert len(examples) >= 2, f"{path}: expected the usage line and at least one example"


UNUSED = {
    "torchvision", "sklearn", "matplotlib", "onnx2torch", "onnxscript", "scipy", "highspy", "pandas", "pyarrow",
    "jinja2", "rich", "sympy",
}  # fmt: skip
"""What no property needs that bounds, attacks and batches decide: start-up is torch's import and little more."""


def test_verify_imports_torch_and_little_more(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(mlp([12, 20, 3], scale=2.0).SerializeToString())
    condition = "(or (<= Y_0 (- Y_1 2.0)) (<= Y_0 (- Y_2 2.0)))"
    (tmp_path / "p.vnnlib").write_text(box_property([-0.1] * 12, [0.1] * 12, 3, condition))
    files = [str(tmp_path / name) for name in ("net.onnx", "p.vnnlib")]
    code = f"from secateur.tools.cli import cli\ntry: cli(['verify', *{files!r}])\nexcept SystemExit: pass"
    loaded = loaded_after(code)
    assert {"torch", "numpy", "onnx", "click"} <= loaded
    assert not loaded & UNUSED
