"""Open domains of a search as one struct of arrays, which grows by doubling; the least bound is taken first."""

from __future__ import annotations

import torch
from torch import Tensor


class Store:
    """Rows of named arrays, all with the same leading dimension; "bound" (n,) is among them and orders them."""

    def __init__(self) -> None:
        self._arrays: dict[str, Tensor] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def least(self) -> float:
        """The least bound of all rows; infinite when there are none."""
        return float(self._arrays["bound"][: self._count].min()) if self._count else float("inf")

    def put(self, **rows: Tensor) -> None:
        """Append rows (copied); every call gives the same names, types and trailing shapes."""
        end = self._count + len(rows["bound"])
        for name, new in rows.items():
            array = self._arrays.get(name)
            if array is None or end > len(array):
                grown = new.new_zeros(max(1024, end, 0 if array is None else 2 * len(array)), *new.shape[1:])
                if array is not None:
                    grown[: self._count] = array[: self._count]
                self._arrays[name] = array = grown
            array[self._count : end] = new
        self._count = end

    def take(self, most: int) -> dict[str, Tensor]:
        """Remove and return (at most) `most` rows, those with the least bounds."""
        amount = min(most, self._count)
        index = torch.topk(self._arrays["bound"][: self._count], amount, largest=False).indices
        taken = {name: array[index] for name, array in self._arrays.items()}
        # The last rows move into the holes, so that the rows in use stay together.
        rest = self._count - amount
        stays = torch.ones(self._count, dtype=torch.bool, device=index.device)
        stays[index] = False
        holes = index[index < rest]
        movers = torch.nonzero(stays[rest:]).flatten() + rest
        for array in self._arrays.values():
            array[holes] = array[movers]
        self._count = rest
        return taken
