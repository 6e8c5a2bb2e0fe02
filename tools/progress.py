"""Progress of many steps: a bar where people watch (a terminal), a sparse line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from secateur.tools.common import on_terminal, say

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[str], None]]:
    """Within, call the yielded function after each of `total` steps, with a few words on how things stand."""
    if on_terminal():
        with _bar(total, what) as step:
            yield step
    else:
        yield _lines(total, what)


@contextmanager
def _bar(total: int, what: str) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, status="")
        yield lambda status: bar.update(task, advance=1, status=status)


def _lines(total: int, what: str) -> Callable[[str], None]:
    start = last = time.monotonic()
    done = 0

    def step(status: str) -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if done == total or now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = (now - start) / done * (total - done)
            say(f"{what}: {done}/{total}, about {left:.0f} s left; {status}")

    return step
