"""Foreign programs: limits hold, and nothing that they started is left."""

from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from secateur.formats.errors import InputError
from secateur.pipeline.dispatch.process import run

STUBBORN = """
    import os, signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for detached in (False, True):
        if os.fork() == 0:
            if detached:
                os.setsid()
                if os.fork():
                    os._exit(0)
            open(f"pid{os.getpid()}", "w").close()
            time.sleep(60)
            os._exit(0)
    time.sleep(60)
"""
"""Ignores TERM; a child in its own group, and a grandchild in a session of its own whose parent has gone."""


def python(text: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text)]


def test_output_exit_code_and_environment(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['GREETING']); print('hm', file=sys.stderr); sys.exit(7)"
    done = run(python(code), tmp_path, seconds=30, environment={"GREETING": "good day"})
    assert (done.code, done.stopped, done.output()) == (7, "", "good day\n")
    assert done.complaint() == "hm"
    assert 0 < done.seconds < 30


def test_a_program_that_ignores_term_goes_with_all_its_children(tmp_path: Path) -> None:
    started = time.perf_counter()
    done = run(python(STUBBORN), tmp_path, seconds=1.5)
    assert time.perf_counter() - started < 1.5 + 2
    assert done.stopped == "time"
    children = [int(path.name[3:]) for path in tmp_path.glob("pid*")]
    assert len(children) == 2
    assert not any(alive(pid) for pid in children)


def test_children_that_outlive_a_program_that_ends_by_itself_go_too(tmp_path: Path) -> None:
    code = """
        import os, time
        if os.fork() == 0:
            open(f"pid{os.getpid()}", "w").close()
            time.sleep(60)
        time.sleep(0.5)
    """
    done = run(python(code), tmp_path, seconds=30)
    assert (done.code, done.stopped) == (0, "")
    [child] = [int(path.name[3:]) for path in tmp_path.glob("pid*")]
    assert not alive(child)


def test_memory_is_limited_over_all_processes(tmp_path: Path) -> None:
    code = """
        import os, time
        os.fork()
        held = bytearray(60_000_000)
        time.sleep(60)
    """
    done = run(python(code), tmp_path, seconds=30, memory=100_000_000)
    assert done.stopped == "memory"
    assert done.peak_bytes > 100_000_000


def test_it_stops_when_told(tmp_path: Path) -> None:
    asked = time.perf_counter()
    done = run(
        python("import time; time.sleep(60)"),
        tmp_path,
        seconds=30,
        stop=lambda: time.perf_counter() > asked + 0.3,
    )
    assert done.stopped == "stop"


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such-program: cannot be started"):
        run([str(tmp_path / "no-such-program")], tmp_path, seconds=1)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
