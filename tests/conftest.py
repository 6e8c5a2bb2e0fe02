"""What all tests share: where the research data lies, the command line in process, the console script."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import settings

# No deadlines: first calls import torch, and machines are shared. CI draws the same examples every time.
settings.register_profile("secateur", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("secateur")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The shared research data (see SECATEUR_DATA); skips where it is absent."""
    folder = Path(os.environ.get("SECATEUR_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "benchmarks").is_dir():
        pytest.skip(f"no research data at {folder}: set SECATEUR_DATA to the folder that holds benchmarks/")
    return folder


@pytest.fixture(scope="session")
def secateur() -> str:
    """The console script of the environment that runs the tests, for real subprocesses."""
    script = Path(sys.executable).with_name("secateur")
    assert script.exists(), f"{script} is missing: pip install -e ."
    return str(script)


@pytest.fixture(scope="session")
def invoke() -> Callable[..., Result]:
    """`invoke("verify", model, prop, stdin=b"...")`: one command in this process; see click's `Result`.

    Errors go the way they go in the console script: one line on `result.stderr` and `result.exit_code`.
    """
    from secateur.tools.cli import cli

    def run(*arguments: object, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(
            cli, [str(argument) for argument in arguments], input=stdin, prog_name="secateur"
        )

    return run
