"""Stages of a study that are done once: their files are kept as long as what they were made from stays the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from secateur.formats import onnx_model, streams

_FILE = "stages.json"


class Stages:
    """The finished stages of a study in `directory`, remembered there in `stages.json`.

    A stage is kept when it was finished by this version from the same key (settings and hashes of inputs) and its
    files are still those that it wrote.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / _FILE
        try:
            self._done: dict[str, object] = dict(json.loads(self._path.read_text()))
        except (OSError, ValueError):
            self._done = {}

    @property
    def finished(self) -> frozenset[str]:
        """The names of those that were finished once, whatever has changed since."""
        return frozenset(self._done)

    def make(self, name: str, key: object, files: Sequence[str], work: Callable[[], None]) -> bool:
        """Do `work`, which writes `files` (relative to the directory), unless it is done; whether it was done."""
        text = json.dumps([onnx_model.tool_version(), key], sort_keys=True)
        signature = hashlib.sha256(text.encode()).hexdigest()
        if self._done.get(name) == {"key": signature, "files": self._hashes(files)}:
            return False
        work()
        self._done[name] = {"key": signature, "files": self._hashes(files)}
        data = json.dumps(self._done, sort_keys=True, indent=1) + "\n"
        streams.write_bytes(str(self._path), data.encode())
        return True

    def _hashes(self, files: Sequence[str]) -> dict[str, str]:
        paths = {name: self._directory / name for name in files}
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in paths.items()
            if path.is_file()
        }
