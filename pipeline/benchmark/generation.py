"""Generating a benchmark by its own scripts: in a copy that takes the folder's place when all went well."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur.formats.errors import CheckFailed, InputError
from secateur.pipeline.benchmark import layout

_LAST_LINES = 3


Say = Callable[[str], None]


def generate(
    directory: str, seed: int, *, networks: bool = False, twice: bool = False, say: Say = lambda line: None
) -> list[str]:
    """Run the folder's `generate_properties.py` with `seed`, after `generate_networks.py` when `networks`.

    They run in a copy of the folder, without its lists and properties, with one thread, so that a script that fails
    leaves everything as it was, and what no longer belongs there is gone. `twice` runs them in a second copy and
    compares. `say` is told what they write to standard error. Returns the lists (`instances.csv`) that are there
    afterwards.

    Raises:
        InputError: no such folder or script, a folder that cannot be written.
        CheckFailed: a script failed, it listed nothing, or it wrote other bytes the second time.
    """
    folder = layout.existing(directory)
    scripts = [*([layout.NETWORKS] if networks else []), layout.PROPERTIES]
    for script in scripts:
        if not (folder / script).is_file():
            raise InputError(f"no {script}", where=directory, hint="secateur benchmark new writes one")
    with _copy(folder) as first:
        _run(first, scripts, seed, directory, say)
        if twice:
            with _copy(folder) as second:
                _run(second, scripts, seed, directory, say)
                _same(first, second, directory)
        _take_place(first, folder)
    return [str(place / layout.LISTING) for place in layout.dialects(folder).values()]


@contextmanager
def _copy(folder: Path) -> Iterator[Path]:
    """A copy beside the folder without what is generated; gone afterwards, unless it was moved."""
    try:
        parent = folder.resolve().parent
        home = Path(tempfile.mkdtemp(dir=parent, prefix=f".{folder.resolve().name}."))
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", where=str(folder)) from None
    try:
        copy = home / folder.resolve().name  # scripts may look at the folder's name
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for place in (copy, *(copy / name for name in layout.DIALECTS)):
            shutil.rmtree(place / "vnnlib", ignore_errors=True)
            (place / layout.LISTING).unlink(missing_ok=True)
        yield copy
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _run(copy: Path, scripts: list[str], seed: int, directory: str, say: Say) -> None:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = os.environ | threads | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    for script in scripts:
        last: deque[str] = deque(maxlen=_LAST_LINES)
        with subprocess.Popen(
            [sys.executable, script, str(seed)],
            cwd=copy,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as running:
            assert running.stderr is not None
            for line in running.stderr:
                if line.strip():
                    last.append(line.strip())
                    say(f"{script}: {line.strip()}")
        if running.returncode:
            raise CheckFailed(
                f"{script} ended with exit code {running.returncode}: {' | '.join(last) or 'it said nothing'}",
                where=directory,
            )
    if not layout.dialects(copy):
        raise CheckFailed(f"{scripts[-1]} wrote no {layout.LISTING}", where=directory)


def _same(first: Path, second: Path, directory: str) -> None:
    one, other = _hashes(first), _hashes(second)
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    if differ:
        raise CheckFailed(
            f"generated twice with the same seed, {len(differ)} files differ, such as {differ[0]}",
            where=directory,
            hint="draw everything from the seed, and use one thread",
        )


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _take_place(copy: Path, folder: Path) -> None:
    """Put the copy where the folder is; the folder is put back when that fails."""
    place, before = folder.resolve(), copy.with_name(f"{copy.name}.before")
    os.rename(place, before)
    try:
        os.rename(copy, place)
    except OSError:
        os.rename(before, place)
        raise
