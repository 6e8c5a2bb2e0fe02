"""Where and with how many threads torch computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from secateur.formats.errors import InputError


def configure(device: str, threads: int | None = None) -> None:
    """Check that `device` (cpu, cuda, cuda:N) is there, and limit the CPU threads to `threads` when given.

    Raises:
        InputError: no such device on this machine.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    kind, _, index = device.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise InputError(f"no device '{device}': found {found} CUDA devices", hint="use --device cpu")


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Within, torch computes with `count` CPU threads (None: as many as before)."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
