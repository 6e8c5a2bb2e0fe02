"""Granularities: how the weights of layers gather into the units that go together.

* `weight`: each by itself;
* `N:M`: each by itself, but of M that follow each other along the input axis exactly N stay (of the r < M at the end
  of an axis, N or all r): Mishra et al. 2021 (2104.08378);
* `block:RxC`: blocks of the matrix [outputs, inputs × kernel], smaller ones at its lower and right edges;
* `kernel`: the 2-D kernels of convolutions, one for each pair of output and input channel;
* `grouped-kernel:G`: the filters of a convolution are clustered into G groups of the same size by which inputs they
  weigh most; a unit is all kernels of a group that read one input, and all groups lose the same number, so that the
  layer is a grouped convolution of what is left: Zhong et al. 2022 (Revisit Kernel Pruning with Lottery Regulated
  Grouped Convolutions, ICLR);
* `channel` (or `filter`): output channels, with all that goes with them (see `channels`); `neuron`: those of fully
  connected layers alone;
* `head`: attention heads;
* `layer`: residual branches.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from secateur.formats.errors import InputError

KINDS = "weight, N:M, block:RxC, kernel, grouped-kernel:G, channel, filter, neuron, head or layer"


@dataclass(frozen=True)
class Granularity:
    """A granularity as named by the user: its kind and its numbers (N and M, R and C, or G)."""

    kind: str
    numbers: tuple[int, ...] = ()

    @staticmethod
    def parse(text: str) -> Granularity:
        """
        Raises:
            InputError: no granularity is written so.
        """
        if text in ("weight", "kernel", "channel", "neuron", "head", "layer"):
            return Granularity(text)
        if text == "filter":
            return Granularity("channel")
        for kind, pattern in (
            ("n:m", r"(\d+):(\d+)"),
            ("block", r"block:(\d+)x(\d+)"),
            ("grouped-kernel", r"grouped-kernel:(\d+)"),
        ):
            found = re.fullmatch(pattern, text)
            if found is None:
                continue
            numbers = tuple(map(int, found.groups()))
            if kind == "n:m" and not 0 < numbers[0] < numbers[1]:
                raise InputError(f"granularity {text}: of M weights N stay, so expected 0 < N < M")
            if min(numbers) < (2 if kind == "grouped-kernel" else 1):
                least = "2 groups" if kind == "grouped-kernel" else "sizes of 1"
                raise InputError(f"granularity {text}: expected at least {least}")
            return Granularity(kind, numbers)
        raise InputError(f"unknown granularity '{text}': expected {KINDS}")

    @property
    def fixes_sparsity(self) -> bool:
        """Whether it says by itself how much goes."""
        return self.kind == "n:m"

    @property
    def alike(self) -> bool:
        """Whether parts of a layer must lose as many units each, so that layers cannot be ranked together."""
        return self.kind in ("n:m", "grouped-kernel")

    @property
    def fine(self) -> bool:
        """Whether its units are single weights, which criteria score as they are."""
        return self.kind in ("weight", "n:m")

    @property
    def plural(self) -> str:
        """What messages call several of its units."""
        return {"n:m": "weights", "layer": "residual branches"}.get(self.kind, f"{self.kind}s")

    def fits(self, unit: str) -> bool:
        """Whether a criterion that scores `unit` ("weight", "channel" or "block") can score these."""
        if unit == "channel":
            return self.kind in ("channel", "neuron", "head", "layer")
        return unit == "weight" or self.kind == "layer"
