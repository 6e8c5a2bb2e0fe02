"""Schedules: how sparse a network is after each of several steps on the way to the sparsity asked for."""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[float, float], float]
"""(sparsity at the end, share of the steps that are done, 0 to 1) -> sparsity by then; grows with both."""

SCHEDULES: dict[str, Schedule] = {
    "geometric": lambda sparsity, done: 1 - (1 - sparsity) ** done,
    "linear": lambda sparsity, done: sparsity * done,
    "cubic": lambda sparsity, done: sparsity * (1 - (1 - done) ** 3),
}
"""`geometric`: each step removes the same share of what is left (Frankle & Carbin 2019, 1803.03635: 0.8^k is n steps
to 1 − 0.8ⁿ); `linear`: the same number of units; `cubic`: many at first and few at last (Zhu & Gupta 2017,
1710.01878, equation 1, from 0)."""


def course(schedule: str, steps: int) -> list[Callable[[float], float]]:
    """For each step, what it makes of a sparsity asked for; the last gives it exactly."""
    curve = SCHEDULES[schedule]

    def until(step: int) -> Callable[[float], float]:
        return lambda sparsity: sparsity if step == steps else curve(sparsity, step / steps)

    return [until(step) for step in range(1, steps + 1)]
