"""A foreign program run to its end, or to its limit: nothing that it started is left behind.

A program can leave its process group, its session and its parent; it cannot easily forget its environment. Every run
gets an environment variable with a value of its own, and at the end whatever still carries it is ended too, besides
all descendants that were ever seen.
"""

from __future__ import annotations

import math
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from secateur.formats.errors import InputError

_MARK = "SECATEUR_RUN"
_LOOK = 0.05
"""Seconds between two looks at a running program."""
_WEIGH = 0.25
"""Seconds between two sums of its memory."""
_GRACE = 0.7
"""Seconds between TERM and KILL."""
_PATIENCE = 10.0
"""Seconds after which what no KILL has ended (it hangs in the kernel) is left alone."""


@dataclass(frozen=True)
class Finished:
    """How a program ended.

    `code` is its exit code (minus the signal's number), `stopped` says why it was ended ("time", "memory", "stop") and
    is empty when it ended by itself. Seconds of the clock and of the CPU (of it and the children seen), peak bytes of
    resident memory as sampled; its standard output and error are in the files `stdout` and `stderr`.
    """

    code: int
    stopped: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    stdout: Path
    stderr: Path

    def output(self, limit: int = 1 << 22) -> str:
        """The first `limit` bytes of standard output, as text."""
        return _text(self.stdout, limit)

    def complaint(self) -> str:
        """The last line of standard error (or else of standard output) that says anything; at most 200 characters."""
        for path in (self.stderr, self.stdout):
            lines = [line.strip() for line in _text(path, 1 << 22).split("\n") if line.strip()]
            if lines:
                return lines[-1][:200]
        return ""


def run(
    command: Sequence[str],
    folder: Path,
    *,
    seconds: float,
    memory: int | None = None,
    environment: Mapping[str, str] | None = None,
    stop: Callable[[], bool] = lambda: False,
    name: str = "",
) -> Finished:
    """Run `command` in `folder`, for at most `seconds` of the clock and `memory` bytes (resident, with its children).

    Past a limit, or once `stop` says so, it and all that it started get TERM, and KILL 0.7 s later. Its standard
    input is empty; its output goes to `NAMEstdout` and `NAMEstderr` in `folder`.

    Raises:
        InputError: the program cannot be started.
    """
    mark = secrets.token_hex(16)
    own = {**os.environ, **(environment or {}), _MARK: mark}
    out, err = folder / f"{name}stdout", folder / f"{name}stderr"
    started = time.perf_counter()
    with out.open("wb") as stdout, err.open("wb") as stderr:
        try:
            process = subprocess.Popen(
                list(command),
                cwd=folder,
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(
                f"cannot be started: {error.strerror or error}", where=command[0], hint="check the path"
            ) from None
        family = _Family(process, mark)
        stopped = ""
        try:
            while family.running() and not stopped:
                elapsed = time.perf_counter() - started
                held = family.weigh(elapsed)
                if stop():
                    stopped = "stop"
                elif elapsed >= seconds:
                    stopped = "time"
                elif memory is not None and held > memory:
                    stopped = "memory"
                else:
                    time.sleep(min(_LOOK, seconds - elapsed))
        finally:
            elapsed = time.perf_counter() - started
            family.end()
    return Finished(process.wait(), stopped, elapsed, family.cpu_seconds, family.peak, out, err)


class _Family:
    """A program, and every process that descends from it or carries its mark."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self.peak = 0
        self.cpu_seconds = 0.0
        self._process = process
        self._mark = mark
        self._seen: dict[int, psutil.Process] = {}
        self._weighed = -_WEIGH

    def running(self) -> bool:
        """Whether the program itself runs. Its end tells what CPU time it and the children it waited for took."""
        if self._process.returncode is None:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_seconds = usage.ru_utime + usage.ru_stime
        return self._process.returncode is None

    def weigh(self, now: float) -> int:
        """Bytes of resident memory that the program and its descendants hold; 0 within `_WEIGH` seconds of the last."""
        if now - self._weighed < _WEIGH:
            return 0
        self._weighed = now
        try:
            root = psutil.Process(self._process.pid)
            family = [root, *root.children(recursive=True)]
        except psutil.Error:
            return 0
        total = 0
        for member in family:
            self._seen[member.pid] = member
            with suppress(psutil.Error):
                total += member.memory_info().rss
        self.peak = max(self.peak, total)
        return total

    def end(self) -> None:
        """TERM to what is alive, KILL to what is alive a little later; returns when nothing is."""
        if self.running():
            self.weigh(math.inf)  # a last look at who belongs to it
        for member in self._alive():
            with suppress(psutil.Error):
                member.terminate()
        deadline = time.perf_counter() + _GRACE
        while (alive := self._alive()) and time.perf_counter() < deadline + _PATIENCE:
            if time.perf_counter() > deadline:
                for member in alive:
                    with suppress(psutil.Error):
                        member.kill()
            time.sleep(_LOOK)

    def _alive(self) -> list[psutil.Process]:
        """What of the family still runs (zombies do not)."""
        self.running()
        found = dict(self._seen)
        for member in psutil.process_iter():
            with suppress(psutil.Error):
                if member.pid not in found and member.environ().get(_MARK) == self._mark:
                    found[member.pid] = member
        return [member for member in found.values() if _runs(member)]


def _runs(member: psutil.Process) -> bool:
    try:
        return bool(member.is_running()) and member.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _text(path: Path, limit: int) -> str:
    with path.open("rb") as stream:
        return stream.read(limit).decode("utf-8", errors="replace")
