"""What the tables of cases share."""

from __future__ import annotations

from collections.abc import Callable

from nets import Build, Net

IMAGE, LINE, ROW = (1, 2, 4, 3), (1, 2, 6), (1, 6)

Case = tuple[tuple[int, ...], Build] | tuple[tuple[int, ...], Build, int]
"""The shape of the value that the operator is applied to, what is applied, and the opset (17 if none is given)."""


def both(join: Callable[[Net, str, str], str]) -> Build:
    """Two consumers of one value, joined again."""
    return lambda net, v: join(net, v, net.dense(v, 6, 6))
