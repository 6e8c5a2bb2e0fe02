"""One instance decided by a foreign verifier: run within limits, its claim read, its witness replayed."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from secateur.formats import streams
from secateur.formats.query import Query
from secateur.pipeline.dispatch import homes
from secateur.pipeline.dispatch.judge import Judged, judge
from secateur.pipeline.dispatch.process import Finished, run
from secateur.pipeline.dispatch.protocol import Claim, Home, Task, Tool
from secateur.pipeline.verify.replay import Replay
from secateur.pipeline.verify.results import Result

PREPARATION = 600.0
"""Seconds that a tool may prepare an instance for (VNN-COMP 2026)."""
_LOG = 1 << 20
"""Bytes of each of a tool's two streams that a log keeps."""


@dataclass(frozen=True)
class Limits:
    """How tools are run: memory in bytes (with all children), CPU threads, arguments passed through, and the
    benchmark's name for tools that ask for it."""

    memory: int | None = None
    threads: int = 1
    arguments: tuple[str, ...] = ()
    category: str = "benchmark"


@dataclass
class Runner:
    """A tool at one network: what is needed once is looked up once."""

    tool: Tool
    replay: Replay
    limits: Limits = field(default_factory=Limits)
    _home: Home | None = None

    def decide(
        self,
        onnx: Path,
        vnnlib: Path,
        query: Query,
        *,
        timeout: float,
        log: Path | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Result:
        """Run the tool on plain files (no `.gz`) for at most `timeout` seconds of the clock, and judge what it says.

        A tool that is ended at its limit has timed out, whatever it said before (but for a witness that holds). One
        that fails to end well has no say either: an `unsat` with an exit code other than 0 is an error. What it printed
        goes to `log`, when given.

        Raises:
            InputError: the tool is not installed, or cannot be started.
        """
        started = time.perf_counter()
        if self._home is None:
            self._home = homes.find(self.tool) if self._needs_home else Home()
        phases: dict[str, float] = {}
        with tempfile.TemporaryDirectory(prefix="secateur-") as place:
            task = Task(
                onnx.absolute(),
                vnnlib.absolute(),
                timeout,
                Path(place),
                self._home,
                self.limits.threads,
                self.limits.category,
                self.limits.arguments,
            )
            claim = self._prepare(task, log, stop)
            phases["prepare"] = time.perf_counter() - started
            if claim is None:
                command = list(self.tool.command(task))
                finished = self._run(command, task, timeout, stop, "")
                phases["solve"] = finished.seconds
                claim = _settled(self.tool.read(task, finished), finished, self.limits)
                if log is not None:
                    _write_log(log, command, finished)
        before = time.perf_counter()
        judged = judge(claim, query, self.replay)
        phases["replay"] = time.perf_counter() - before
        return _result(judged, phases)

    @property
    def _needs_home(self) -> bool:
        return bool(self.tool.requirements or self.tool.source_file)

    def _prepare(self, task: Task, log: Path | None, stop: Callable[[], bool]) -> Claim | None:
        """What comes of a preparation that failed; None when there is none, or it went well."""
        if self.tool.prepare is None:
            return None
        command = list(self.tool.prepare(task))
        finished = self._run(command, task, PREPARATION, stop, "prepare-")
        if finished.code == 0 and not finished.stopped:
            return None
        if log is not None:
            _write_log(log, command, finished)
        reason = f"preparation ended with exit code {finished.code}: the tool skips the instance"
        return Claim("unknown", message=reason)

    def _run(
        self, command: list[str], task: Task, seconds: float, stop: Callable[[], bool], name: str
    ) -> Finished:
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(task.threads)
        )
        source = {"PYTHONPATH": str(task.home.path / "src")} if task.home.path is not None else {}
        return run(
            command,
            task.folder,
            seconds=seconds,
            memory=self.limits.memory,
            environment={**threads, **source, **self.tool.environment},
            stop=stop,
            name=name,
        )


def _settled(claim: Claim, finished: Finished, limits: Limits) -> Claim:
    """The claim in the light of how the tool ended."""
    if claim.verdict == "sat":
        return claim
    if finished.stopped == "memory":
        return Claim("error", message=f"ended: it held more than {limits.memory} bytes")
    if finished.stopped:
        return Claim("timeout")
    if claim.verdict == "unsat" and finished.code:
        return Claim("error", message=f"said unsat, but ended with exit code {finished.code}")
    return claim


def _result(judged: Judged, phases: dict[str, float]) -> Result:
    return Result(
        verdict=judged.verdict,
        witness=judged.witness,
        seconds=sum(phases.values()),
        phases=phases,
        domains=0,
        bound=None,
        layers=None,
        message=judged.message,
        replay=judged.replay,
    )


def _write_log(log: Path, command: list[str], finished: Finished) -> None:
    how = f"exit code {finished.code}" + (f", ended for {finished.stopped}" if finished.stopped else "")
    parts = [
        f"$ {shlex.join(command)}\n# {how}, {finished.seconds:.2f} s, {finished.peak_bytes} bytes\n".encode()
    ]
    for path in (finished.stdout, finished.stderr):
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _LOG))
            parts += [f"--- {path.name}\n".encode(), stream.read(_LOG)]
    streams.write_bytes(str(log), b"".join(parts))
