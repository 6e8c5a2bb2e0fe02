"""The memory that a search may hold, and what follows it: the store of open domains, and the sizes of batches.

A search holds the network (its numbers in float64 and float32), which nothing can be done about, open domains, and what
the batch at work takes. Of what the network leaves, domains and batches get a half each. The sizes of batches are made
for speed; together they take `USUAL` bytes at most, and where their half is less they shrink in proportion.

What batches leave of their half may be taken by networks folded for instances that wait for their turn.

Not counted: Python's and the libraries' own memory, the network folded for one box, the bounds of all nodes, and what
onnxruntime takes for a replay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

USUAL = 256 * 2**20
"""What batches of the usual sizes take at most: from 60 to 220 MB were measured on the shared benchmarks, the most for
the attack and for bounds of convolutional networks; 350 MB on attention."""


@dataclass(frozen=True)
class Budget:
    """So many bytes for a search (None: as many as there are), of which the network takes `network`."""

    memory: int | None = None
    network: int = 0

    @property
    def half(self) -> int | None:
        """What open domains may take, and what a batch may."""
        return None if self.memory is None else max(1, (self.memory - self.network) // 2)

    @property
    def spare(self) -> int | None:
        """What batches of the usual sizes leave of their half."""
        return None if self.half is None else max(0, self.half - USUAL)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within, `scaled` follows this budget."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


UNLIMITED = Budget()
_current: ContextVar[Budget] = ContextVar("budget", default=UNLIMITED)


def scaled(usual: int) -> int:
    """A size of a batch that is `usual` where memory allows it: less, but at least 1, where it does not."""
    half = _current.get().half
    return usual if half is None or half >= USUAL else max(1, usual * half // USUAL)


def for_domains() -> int | None:
    """How many bytes open domains may take (None: as many as there are)."""
    return _current.get().half
