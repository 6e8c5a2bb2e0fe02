"""Where things lie in a benchmark folder."""

from __future__ import annotations

from pathlib import Path

from secateur.formats.errors import InputError

DIALECTS = ("1.0", "2.0")
PARTS = ("onnx", "vnnlib")
LISTING = "instances.csv"
README = "README.md"
PROPERTIES = "generate_properties.py"
NETWORKS = "generate_networks.py"
TO_DO = "TODO"
"""What stands in a README where something is to be filled in."""


def existing(directory: str) -> Path:
    """The folder.

    Raises:
        InputError: there is none.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise InputError("no such folder: expected a benchmark", where=directory)
    return folder


def dialects(folder: Path) -> dict[str, Path]:
    """The folders that hold an `instances.csv` by dialect; "" is that of a folder with a single one."""
    places = {"": folder} | {name: folder / name for name in DIALECTS}
    return {name: place for name, place in places.items() if (place / LISTING).is_file()}
