"""Training on disk, epoch by epoch: what was killed goes on from the last one and comes to the same end.

In the folder: `epoch-00007.safetensors` with every tensor (weights and statistics now, those of the best epoch and of
the early one, the optimiser's state, the states of the random generators), and `state.json` with the rest, which names
that file and its hash. The tensors are written first, the JSON takes the place of the old one in one step, then the old
tensors go: whenever the machine stops, one whole state lies there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from secateur.formats import streams
from secateur.formats.errors import InputError

_STATE = "state.json"
_VERSION = 1
_ANEW = "name another folder, or remove this one to begin anew"

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Saved:
    """Tensors by group and name, and whatever else JSON holds."""

    tensors: dict[str, Tensors]
    values: dict[str, object]


class Checkpoint:
    """A folder that holds the state of one training."""

    def __init__(self, folder: str, made_for: Mapping[str, object]) -> None:
        """`made_for` tells this training from others, by names that messages use; JSON, compared as a whole.

        Raises:
            InputError: the folder cannot be made.
        """
        self.folder = Path(folder)
        self._made_for = json.loads(json.dumps(dict(made_for)))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot be made: {error.strerror or error}", where=folder) from None

    def load(self) -> Saved | None:
        """The latest state; None where there is none yet.

        Raises:
            InputError: the state of another training, or a damaged one.
        """
        path = self.folder / _STATE
        if not path.exists():
            return None
        try:
            state = json.loads(path.read_bytes())
            made_for, values, file = state["made_for"], state["values"], state["tensors"]
            known = state["version"] == _VERSION
        except (ValueError, KeyError, TypeError):
            raise self._damaged(path) from None
        if not known:
            raise InputError("is the state of another version", where=str(path), hint=_ANEW)
        other = [name for name, value in self._made_for.items() if made_for.get(name) != value]
        if other or made_for.keys() != self._made_for.keys():
            what = ", ".join(other or sorted(made_for.keys() ^ self._made_for.keys()))
            raise InputError(f"is the state of another training: other {what}", where=str(path), hint=_ANEW)
        data = (self.folder / file).read_bytes() if (self.folder / file).is_file() else b""
        if hashlib.sha256(data).hexdigest() != state["sha256"]:
            raise self._damaged(self.folder / file)
        try:
            flat = safetensors.torch.load(data)
        except safetensors.SafetensorError:
            raise self._damaged(self.folder / file) from None
        tensors: dict[str, Tensors] = {}
        for name, tensor in flat.items():
            group, _, rest = name.partition("/")
            tensors.setdefault(group, {})[rest] = tensor
        return Saved(tensors, values)

    def save(self, epoch: int, saved: Saved) -> None:
        """
        Raises:
            InputError: it cannot be written.
        """
        flat = {
            f"{group}/{name}": tensor.detach().cpu().contiguous()
            for group, tensors in sorted(saved.tensors.items())
            for name, tensor in sorted(tensors.items())
        }
        data = safetensors.torch.save(flat)
        file = self.folder / f"epoch-{epoch:05}.safetensors"
        state = {
            "version": _VERSION,
            "made_for": self._made_for,
            "tensors": file.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "values": saved.values,
        }
        streams.write_bytes(str(file), data)
        streams.write_bytes(str(self.folder / _STATE), json.dumps(state, indent=1).encode())
        for old in self.folder.glob("*epoch-*.safetensors*"):  # those of an interrupted write, too
            if old.name != file.name:
                old.unlink(missing_ok=True)

    @staticmethod
    def _damaged(path: Path) -> InputError:
        return InputError("is no state of a training, or a damaged one", where=str(path), hint=_ANEW)


def of_optimizer(optimizer: torch.optim.Optimizer) -> Tensors:
    """What the optimiser remembers, by `{parameter's place}/{what}`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{place}/{name}": value.clone()
        for place, entries in state.items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def to_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Let it remember what `of_optimizer` gave."""
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        place, _, what = name.partition("/")
        state.setdefault(int(place), {})[what] = tensor
    optimizer.load_state_dict({**whole, "state": state})
