"""What a verification spends its time on, sampled: now and then torch's profiler listens for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch.profiler import ProfilerActivity, profile

from secateur.pipeline.verify.search.problem import RECHECK

WINDOW = 0.1
"""So many seconds, and to the end of a step, are listened to at a time."""

COST = 0.05
"""The part of the time that listening may take: adding up what was heard takes many times as long as hearing it."""

KINDS: dict[str, tuple[str, ...]] = {
    "GEMM": ("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "linear", "_sparse_mm", "_sparse_addmm", "dot"),
    "convolution": (
        "convolution",
        "conv",
        "mkldnn_convolution",
        "slow_conv",
        "thnn_conv",
        "convolution_backward",
    ),
    "copies": (
        "copy_",
        "cat",
        "clone",
        "contiguous",
        "index",
        "gather",
        "scatter",
        "where",
        "fill_",
        "zero_",
    ),
}
"""Kinds of operations by what their names begin with, after `aten::`; all others are elementwise."""


@dataclass
class Sampler:
    """Asked between steps, as what stops a search is: looks after the profiler, and passes the question on."""

    stop: Callable[[], bool]
    heard: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)
    _next: float = 0.0
    _listening: profile | None = None

    def __call__(self) -> bool:
        now = time.perf_counter()
        if self._listening is None and now >= self._next:
            self._listening = profile(activities=[ProfilerActivity.CPU])
            self._listening.__enter__()
            self._began = time.perf_counter()
        elif self._listening is not None and now - self._began >= WINDOW:
            self.close()
        return self.stop()

    def close(self) -> None:
        """Stop listening, and add up what was heard."""
        if self._listening is None:
            return
        self.heard += time.perf_counter() - self._began
        self._listening.__exit__(None, None, None)
        for event in self._listening.key_averages():
            if event.key == RECHECK:
                self._add(RECHECK, event.cpu_time_total)
            elif event.key.startswith("aten::"):
                self._add(kind(event.key.removeprefix("aten::")), event.self_cpu_time_total)
        self._listening = None
        now = time.perf_counter()
        self._next = now + (now - self._began) / COST

    def _add(self, what: str, microseconds: float) -> None:
        self.spent[what] = self.spent.get(what, 0.0) + 1e-6 * microseconds

    def shares(self) -> Mapping[str, float]:
        """Shares of the time listened to: of each kind of operation, of all else, and of the re-check in float64, which
        consists of such operations. Empty when nothing was heard."""
        if not self.heard:
            return {}
        parts = {name: self.spent.get(name, 0.0) / self.heard for name in (*KINDS, "elementwise")}
        parts["other"] = max(0.0, 1.0 - sum(parts.values()))
        return parts | {RECHECK: self.spent.get(RECHECK, 0.0) / self.heard}


def kind(name: str) -> str:
    """The kind of the operation of this name."""
    for what, beginnings in KINDS.items():
        if name.removeprefix("_").startswith(beginnings) or name in beginnings:
            return what
    return "elementwise"


def peak_bytes(device: str) -> int:
    """The most memory that this process has held; on a GPU, what torch has held there."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
