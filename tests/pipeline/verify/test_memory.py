"""`--memory`: what a search holds stays within it, batches included; the verdicts stay the same."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from factories import box_property
from nets import Net
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline.verify import engine
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.memory import USUAL, Budget, for_domains, scaled
from secateur.pipeline.verify.search.work import Work


class Held(TorchDispatchMode):
    """The bytes of all tensors that were made within and are alive, at their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.users: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.layout == torch.strided:
                storage = value.untyped_storage()
                if not self.users[storage.data_ptr()]:
                    self.now += storage.nbytes()
                self.users[storage.data_ptr()] += 1
                weakref.finalize(value, self.freed, storage.data_ptr(), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def freed(self, pointer: int, size: int) -> None:
        self.users[pointer] -= 1
        if not self.users[pointer]:
            self.now -= size


def dense(function: str, inputs: int, width: int) -> Model:
    net = Net(3, inputs)
    value = "x"
    for rows, columns in ((inputs, width), (width, width)):
        weight = net.constant(1.5 * net.random.normal(size=(rows, columns)) / np.sqrt(rows))
        value = net(function, net("MatMul", value, weight))
    return net.finish(net("MatMul", value, net.weight(width, 1)))


def held(model: Model, memory: int | None, domains: int) -> int:
    """The peak of a search through so many domains of a property that hardly any input violates."""
    ready = Engine(model, memory=memory)
    size = ready.graph.input.size
    x = np.random.default_rng(0).uniform(-1, 1, (20_000, size))
    most = float(ready.replay.outputs(x).max()) + 0.01
    query = vnnlib.parse(box_property([-1.0] * size, [1.0] * size, 1, f"(>= Y_0 {most!r})"), "p")
    work = Work(query, 60.0)
    work.stop = lambda: work.left is not None and work.left.progress.domains >= domains
    with Held() as tensors:
        ready.begin([work], 0)
        ready.finish(work, 0)
    return tensors.peak


@pytest.mark.parametrize(
    ("function", "inputs", "width", "domains", "megabytes"),
    [("Relu", 10, 96, 500, 4.0), ("Relu", 6, 64, 200, 4.0), ("Tanh", 10, 64, 60, 1.5)],
    ids=["neurons", "inputs", "arguments"],
)
def test_what_a_search_holds_stays_within_it(
    function: str,
    inputs: int,
    width: int,
    domains: int,
    megabytes: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})  # what autograd keeps is not seen from here
    model = dense(function, inputs, width)
    most = Engine(model).budget.network + int(megabytes * 2**20)
    free, kept = (held(model, memory, domains) for memory in (None, most))
    assert kept <= most < free


def test_batches_follow_what_the_network_leaves() -> None:
    assert scaled(1000) == 1000 and for_domains() is None
    with Budget(2 * USUAL + 10, 10).kept():
        assert scaled(1000) == 1000 and for_domains() == USUAL
        with Budget(USUAL // 2 + 10, 10).kept():
            assert scaled(1000) == 250 and for_domains() == USUAL // 4
        assert scaled(1000) == 1000
    with Budget(5, 10).kept():
        assert scaled(1000) == 1 and for_domains() == 1
    assert scaled(1000) == 1000
