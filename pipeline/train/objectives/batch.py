"""What objectives are given: the network, images and labels, and bounds that are computed once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.pipeline.train.bounds.propagate import Intervals, ball, intervals
from secateur.pipeline.train.bounds.trace import Trace, trace
from secateur.pipeline.train.graph import TrainableGraph
from secateur.pipeline.train.ramp import Stage
from secateur.pipeline.train.settings import Settings


@dataclass
class Batch:
    """Images x [N, …] with labels y [N]; `generator` is where chance comes from."""

    graph: TrainableGraph
    x: Tensor
    y: Tensor
    settings: Settings
    stage: Stage
    generator: torch.Generator
    _trace: Trace | None = None
    _intervals: dict[float, Intervals] = field(default_factory=dict)

    def logits(self, images: Tensor) -> Tensor:
        """The outputs [N, classes] for `images`, in the graph's present mode; they are what bounds take the statistics
        of BatchNormalization from."""
        if not self.settings.bounded:
            return self.graph(images).flatten(1)
        self._trace = trace(self.graph, images)
        return self._trace.logits

    @property
    def trace(self) -> Trace:
        """The run behind the latest `logits`."""
        assert self._trace is not None
        return self._trace

    def intervals(self, epsilon: float) -> Intervals:
        """IBP bounds of all nodes over the balls of this radius about x."""
        if epsilon not in self._intervals:
            self._intervals[epsilon] = intervals(self.trace, *ball(self.x, epsilon))
        return self._intervals[epsilon]


@dataclass(frozen=True)
class Outcome:
    """The loss to minimise (a scalar), and which images [N] count as right: classified so, or certified."""

    loss: Tensor
    right: Tensor
