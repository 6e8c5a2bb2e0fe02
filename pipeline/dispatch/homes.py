"""Where foreign verifiers live: a virtual environment each, under the user's cache folder, or wherever the user says.

    <cache>/verifiers/<name>/home.json     where it is; written last: without it there is no installation
    <cache>/verifiers/<name>/environment/  the virtual environment, for what pip installs

The cache folder is `$SECATEUR_CACHE`, else `$XDG_CACHE_HOME/secateur`, else `~/.cache/secateur`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from secateur.formats import streams
from secateur.formats.errors import CheckFailed, InputError
from secateur.pipeline.dispatch.protocol import Home, Tool


def cache() -> Path:
    """The folder that holds the verifiers' folders."""
    chosen = os.environ.get("SECATEUR_CACHE")
    if chosen:
        return Path(chosen, "verifiers")
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "secateur" / "verifiers"


def find(tool: Tool) -> Home:
    """Where `tool` lives.

    Raises:
        InputError: it is not installed, or what was installed is gone.
    """
    home = look(tool)
    if home is None:
        need = "" if tool.requirements else " --path FOLDER"
        raise InputError(
            f"the verifier {tool.name} is not installed",
            hint=f"`secateur verifiers install {tool.name}{need}`",
        )
    for place in (home.python, home.path):
        if place is not None and not place.exists():
            raise InputError(
                f"the verifier {tool.name} is gone from there",
                where=str(place),
                hint=f"`secateur verifiers install {tool.name}` again",
            )
    return home


def look(tool: Tool) -> Home | None:
    """Where `tool` was installed; None where it was not."""
    record = cache() / tool.name / "home.json"
    if not record.is_file():
        return None
    try:
        entry = json.loads(record.read_bytes())
        places = {key: Path(entry[key]) for key in ("python", "path") if entry.get(key)}
        return Home(**places)
    except (OSError, ValueError, TypeError, AttributeError):
        raise InputError(
            "damaged", where=str(record), hint=f"`secateur verifiers install {tool.name}` again"
        ) from None


def install(tool: Tool, *, python: str | None = None, path: str | None = None) -> Home:
    """Install `tool` with pip into an environment of its own, or note where it is.

    `python` names the interpreter of an environment that has it, `path` the folder of its source (for a tool that comes
    as source; its dependencies are expected in `python`, or in the `python` on the search path).

    Raises:
        InputError: no such place; a source is needed; the tool has none.
        CheckFailed: pip failed (its last words are told).
    """
    if path is not None and not tool.source_file:
        raise InputError(f"{tool.name} comes from the package index: it has no source folder to point at")
    if path is None and tool.source_file:
        raise InputError(
            f"{tool.name} comes as source only",
            hint=f"`secateur verifiers install {tool.name} --path FOLDER`",
        )
    if path is not None and not Path(path, tool.source_file).is_file():
        raise InputError(f"not the source of {tool.name}: expected {tool.source_file} there", where=path)
    if python is not None and not Path(python).is_file():
        raise InputError("no such interpreter", where=python)
    folder = cache() / tool.name
    record = folder / "home.json"
    try:
        record.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", where=str(folder)) from None
    if python is None and tool.requirements:
        python = str(_environment(folder / "environment", tool))
    # Not resolved: an environment's interpreter is a link, and knows its environment by the link's place.
    home = Home(
        None if python is None else Path(python).absolute(), None if path is None else Path(path).resolve()
    )
    entry = {"python": str(home.python or ""), "path": str(home.path or "")}
    streams.write_bytes(str(record), json.dumps(entry, sort_keys=True).encode() + b"\n")
    return home


def _environment(folder: Path, tool: Tool) -> Path:
    """A fresh virtual environment with the tool; its interpreter."""
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "bin" / "python"
    # All requirements in one command: a second one could replace torch by another build.
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *tool.requirements],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            words = [line for line in (done.stderr + done.stdout).split("\n") if line.strip()]
            reason = next(
                (line for line in words if "ERROR" in line), words[-1] if words else "no reason given"
            )
            raise CheckFailed(f"{tool.name} could not be installed: {reason.strip()[:300]}")
    return python


def version(tool: Tool, home: Home) -> str:
    """The installed version of `tool`; empty where nothing says it.

    Raises:
        CheckFailed: its package is not in its environment.
    """
    if not tool.package or home.python is None:
        return ""
    code = f"from importlib.metadata import version; print(version({tool.package!r}))"
    done = subprocess.run([str(home.python), "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckFailed(
            f"{home.python} has no {tool.package}", hint=f"`secateur verifiers install {tool.name}` again"
        )
    return done.stdout.strip()
