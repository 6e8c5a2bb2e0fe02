"""The folder of a run: who works in it, what recipe it is of, and where what lies.

recipe.toml                              the whole recipe, as it was read
records.jsonl                            one line a measured network, see `loop`
seed-0/initial.onnx                      the untrained network
seed-0/dense/                            model.onnx, training.json, record.json: trained without pruning
seed-0/dense+nrs/                        … with the regulariser that some methods train with
seed-0/imp+nrs/round-03/mask.safetensors what stays
seed-0/imp+nrs/round-03/ticket.onnx      what training began with: survivors rewound (or as they were)
seed-0/imp+nrs/round-03/model.onnx       the trained network of the round; training.json, record.json
seed-0/stages.json                       what is finished, with the hashes of what it was made from
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur.formats import streams
from secateur.formats.errors import InputError
from secateur.pipeline.tickets import recipe as recipes
from secateur.pipeline.tickets.recipe import Recipe

RECIPE, RECORDS, REPORT = "recipe.toml", "records.jsonl", "report.html"


def dense(regulariser: str) -> str:
    """The name under which the unpruned network trained with a regulariser lies."""
    return f"dense+{regulariser}" if regulariser else "dense"


def place(method: str, number: int) -> str:
    """The folder of a method's round below its seed's; round 0 is a dense network's."""
    return f"{method}/round-{number:02}" if number else method


@contextmanager
def opened(directory: str, recipe: Recipe) -> Iterator[Path]:
    """The folder, made when missing, held for this process alone, and of this recipe.

    Half-written files that a killed run left are removed.

    Raises:
        InputError: it cannot be written, another process works in it, or it is of another recipe (names what differs).
    """
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror or error}", where=directory) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError("another run is at work in this folder", where=directory) from None
        _settle(folder, recipe)
        for left in folder.rglob(".*.tmp"):
            left.unlink()
        yield folder


def recipe_of(directory: str) -> Recipe | None:
    """The recipe that the folder was begun with; None where there is none yet."""
    path = Path(directory) / RECIPE
    return recipes.made(recipes.read(str(path)), str(path)) if path.exists() else None


def _settle(folder: Path, recipe: Recipe) -> None:
    path = folder / RECIPE
    before = recipe_of(str(folder))
    changed = recipes.changes(before, recipe) if before is not None else []
    if changed:
        raise InputError(
            f"this folder was begun with another recipe: {', '.join(changed)} changed",
            where=str(path),
            hint="choose another folder",
        )
    streams.write_bytes(str(path), recipes.text(recipe).encode())
