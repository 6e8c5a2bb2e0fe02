"""Progress of many steps: a bar where people watch (a terminal), a sparse line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from secateur.tools.common import on_terminal, say

SECONDS_BETWEEN_LINES = 10.0


class Step(Protocol):
    def __call__(self, status: str, seconds: float | None = None) -> None: ...


@contextmanager
def progress(total: int, what: str) -> Iterator[Step]:
    """Within, call the yielded function after each of `total` steps, with a few words on how things stand, and how many
    seconds it took where it was done earlier, before this run."""
    if on_terminal():
        with _bar(total, what) as step:
            yield step
    else:
        yield _lines(total, what)


@contextmanager
def _bar(total: int, what: str) -> Iterator[Step]:
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

        def step(status: str, seconds: float | None = None) -> None:
            bar.update(task, advance=1, status=status)

        yield step


def _lines(total: int, what: str) -> Step:
    before = said = time.monotonic()
    done, spent = 0, 0.0

    def step(status: str, seconds: float | None = None) -> None:
        nonlocal before, said, done, spent
        now = time.monotonic()
        done, spent, before = done + 1, spent + (now - before if seconds is None else seconds), now
        if done == total or now - said >= SECONDS_BETWEEN_LINES:
            said = now
            left = spent / done * (total - done)
            say(f"{what}: {done}/{total}, about {left:.0f} s left; {status}")

    return step
