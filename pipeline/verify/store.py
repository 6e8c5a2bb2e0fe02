"""Open domains of a search as one struct of arrays, which grows by doubling; the least bound is taken first.

With a limit on its memory the store never holds much more: once it is nearly full, the newest rows are taken first
(depth-first) and fewer at a time, so that what their children add shrinks with the room that is left, down to one
domain a time, with which a store grows by the depth of the tree at most.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

NEARLY_FULL = 0.75
"""From this share of its limit on, a store gives its newest rows first."""

DEPTH = 32
"""A nearly full store gives at most this part of the rows that it has room for at a time."""


class Store:
    """Rows of named arrays, all with the same leading dimension; "bound" (n,) is among them and orders them.

    `limit`: how many bytes the rows may take together (None: as many as there are).
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._arrays: dict[str, Tensor] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def most(self) -> int:
        """How many rows the limit has room for."""
        row = sum(prod(array.shape[1:]) * array.element_size() for array in self._arrays.values())
        return sys.maxsize if self.limit is None or not row else max(1, self.limit // row)

    @property
    def bytes(self) -> int:
        """The memory of the rows, those that are free included."""
        return sum(array.numel() * array.element_size() for array in self._arrays.values())

    def least(self) -> float:
        """The least bound of all rows; infinite when there are none."""
        return float(self._arrays["bound"][: self._count].min()) if self._count else float("inf")

    def put(self, **rows: Tensor) -> None:
        """Append rows (copied); every call gives the same names, types and trailing shapes."""
        if not self._arrays:
            self._arrays = {name: new.new_empty(0, *new.shape[1:]) for name, new in rows.items()}
        end = self._count + len(rows["bound"])
        if end > len(self._arrays["bound"]):
            size = max(end, min(max(1024, 2 * self._count), self.most))
            for name, array in self._arrays.items():
                grown = array.new_empty(size, *array.shape[1:])
                grown[: self._count] = array[: self._count]
                self._arrays[name] = grown
        for name, new in rows.items():
            self._arrays[name][self._count : end] = new
        self._count = end

    def take(self, most: int) -> dict[str, Tensor]:
        """Remove and return (at most) `most` rows, those with the least bounds; the newest when nearly full."""
        full = self._count > NEARLY_FULL * self.most
        room = max(1, (self.most - self._count) // (DEPTH if full else 2))
        amount = min(most, self._count, room)
        if full:
            self._count -= amount
            end = self._count + amount
            return {name: array[self._count : end].clone() for name, array in self._arrays.items()}
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

    def rows(self) -> dict[str, Tensor]:
        """All rows; they are the store's own, and change with it. Empty when there are none."""
        return {name: array[: self._count] for name, array in self._arrays.items()} if self._count else {}

    def drain(self) -> dict[str, Tensor]:
        """Remove and return all rows; the next ones may have other names and shapes."""
        rows = self.rows()
        self._arrays, self._count = {}, 0
        return rows

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]:
        """All rows, so many at a time; they stay."""
        for first in range(0, self._count, size):
            yield {name: array[first : first + size] for name, array in self.rows().items()}
