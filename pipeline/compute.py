"""Where, with how many threads and how repeatably torch computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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


FREE_SHARE = 0.6
"""The part of the free memory that a verifier may use when it is not told."""


def memory(device: str) -> int:
    """So many bytes may be used on `device`: 60 % of what is free, of the machine's memory or of the GPU's.

    What a container may still take (control groups, version 2) counts as free where it is less.
    """
    if device != "cpu":
        free, _ = torch.cuda.mem_get_info(device)
        return int(FREE_SHARE * free)
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    return int(FREE_SHARE * max(free, 0))


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Within, torch computes with `count` CPU threads (None: as many as before)."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic(device: str, seed: int) -> Iterator[None]:
    """Seeds torch's own chance (dropout) and asks for deterministic kernels, and puts both back afterwards.

    Raises:
        InputError: no such device on this machine.
    """
    cuda = device.startswith("cuda")
    configure(device)
    if cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
