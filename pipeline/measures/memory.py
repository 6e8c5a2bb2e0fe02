"""The most memory that the process held since a moment."""

from __future__ import annotations

import gc
import re
from contextlib import suppress
from pathlib import Path

import torch

from secateur.pipeline.profile import peak_bytes

_SELF = Path("/proc/self")


def forget_peak(device: str) -> None:
    """Let the peak begin anew, where the system can: on Linux, and on a GPU. Elsewhere it is that of the process."""
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        (_SELF / "clear_refs").write_text("5")  # proc(5): resets the resident set's high-water mark


def peak(device: str) -> int:
    """Bytes: the process's largest resident set since then; on a GPU, the most that torch has held there."""
    if device == "cpu":
        with suppress(OSError):
            if found := re.search(r"VmHWM:\s*(\d+) kB", (_SELF / "status").read_text()):
                return 1024 * int(found[1])
    return peak_bytes(device)
