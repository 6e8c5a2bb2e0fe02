"""One network in one file, and what it must compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from secateur.pipeline.convert.sources import UNTOLD, Options
from secateur.pipeline.onnxrt import Array


@dataclass(frozen=True)
class Case:
    """`write` exports the network to a path, `function` [N, inputs] -> [N, outputs] is what its own package computes,
    `options` what `convert` must be told. `opset` is None where a format has none."""

    network: str
    source: str
    exporter: str
    opset: int | None
    suffix: str
    write: Callable[[Path], None]
    function: Callable[[Array], Array]
    options: Options = UNTOLD
    scale: Array | float = 1.0
    """By what inputs drawn from [0, 1] and N(0, 1) are multiplied."""
