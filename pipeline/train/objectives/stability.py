"""Regularisers of stability: they move ReLUs away from being unstable, l < 0 < u, within ε.

Bounds l and u of the ReLUs' arguments are by IBP. All are means over images; the two losses are means over all ReLUs
of the network, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from secateur.pipeline.train.bounds.propagate import Intervals
from secateur.pipeline.train.bounds.trace import Trace


def rs(trace: Trace, known: Intervals) -> Tensor:
    """RS loss: mean −tanh(1 + l·u) (Xiao et al., "Training for faster adversarial robustness verification via inducing
    ReLU stability", ICLR 2019, section 3.3)."""
    return _mean(trace, known, lambda low, high, _: -torch.tanh(1 + low * high))


def nrs(trace: Trace, known: Intervals) -> Tensor:
    """NRSLoss: mean −tanh(1 + l·u / γ²) (Li et al., "Can pruning improve certified robustness of neural networks?",
    2206.07311), γ the scale of the BatchNormalization in front of the ReLU, 1 where there is none.

    No gradient flows into γ² in the denominator, so that it is not made large to make the loss small. Where γ is 0 the
    ReLU's argument does not depend on the input, and l·u counts as it is.
    """
    return _mean(trace, known, lambda low, high, square: -torch.tanh(1 + low * high / square))


def instability(trace: Trace, known: Intervals) -> Tensor:
    """Σ −l·u over an image's unstable ReLUs (2206.07311), its mean over images."""
    total = known[0].centre.new_zeros(())
    for low, high, _ in _arguments(trace, known):
        total = total + torch.where((low < 0) & (high > 0), -low * high, torch.zeros_like(low)).sum()
    return total / len(known[0].centre)


def _mean(trace: Trace, known: Intervals, judge: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    total = known[0].centre.new_zeros(())
    count = 0
    for low, high, square in _arguments(trace, known):
        total = total + judge(low, high, square).sum()
        count += low.numel()
    return total / max(count, 1)


def _arguments(trace: Trace, known: Intervals) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """l, u and γ² of every layer of ReLUs."""
    for relu in trace.relus:
        (source,) = trace.nodes[relu].inputs
        low, high = known[source].lower, known[source].upper
        scale = trace.scale(relu)
        square = torch.ones_like(low[:1]) if scale is None else scale.detach().square()
        yield low, high, torch.where(square > 0, square, torch.ones_like(square))
