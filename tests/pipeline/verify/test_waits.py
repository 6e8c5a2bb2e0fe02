"""How often a search waits for its device: a few times a batch, never once a domain.

On a GPU every number that the host asks for (`.item()`, `bool(tensor)`, `.tolist()`, `.cpu()`, `nonzero`, a mask as an
index) stops the host until the device has done all its work. This is checked without a GPU, on the dispatcher: each of
these ends in one of the few operations counted here, whatever the device. What is counted is divided by batches, and
compared between searches of small and of large batches: waits a domain would grow with the batch. (Copies between
devices are checked on fake tensors in `test_device`.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from factories import box_property
from nets import Net
from problems import problem_of
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline.verify import engine
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.bounding.root import bound_nodes
from secateur.pipeline.verify.bounding.specification import subproblems
from secateur.pipeline.verify.region import refine
from secateur.pipeline.verify.region.embed import embed
from secateur.pipeline.verify.region.fold import fold_and_bound
from secateur.pipeline.verify.region.refine import Allowance
from secateur.pipeline.verify.search import (
    cut_split,
    input_split,
    joined,
    joined_boxes,
    joined_cuts,
    relu_split,
    strategy,
)
from secateur.pipeline.verify.search.joined import Member, search
from secateur.pipeline.verify.search.problem import Clauses, Problem, Progress
from secateur.pipeline.verify.store import Store

aten = torch.ops.aten
SCHEDULE = Schedule(3)

MOST_WAITS = 80
"""A batch; the ascent's own, one an iteration, are among them."""


class Waits(TorchDispatchMode):
    """Counts the operations for whose result the host waits: numbers, and sizes that hang on numbers."""

    WAITING = (
        aten._local_scalar_dense.default,
        aten.nonzero.default,
        aten.masked_select.default,
        aten._unique2.default,
        aten.unique_consecutive.default,
        aten.bincount.default,
        aten.equal.default,
    )

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        for name in ("tolist", "cpu", "numpy"):  # on the CPU these do not meet the dispatcher
            patch.setattr(Tensor, name, self.counted(getattr(Tensor, name)))

    def counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return method(*args, **kwargs)

        return call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masked = func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default) and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        self.count += func in self.WAITING or masked
        return func(*args, **(kwargs or {}))


def dense(function: str, inputs: int) -> Model:
    net = Net(1, inputs)
    value = "x"
    for rows, columns in ((inputs, 24), (24, 24)):
        weight = net.constant(1.5 * net.random.normal(size=(rows, columns)) / np.sqrt(rows))
        value = net(function, net("MatMul", value, weight))
    return net.finish(net("MatMul", value, net.weight(24, 1)))


def hard(function: str, inputs: int, radius: float = 1.0) -> tuple[Model, str]:
    """A network, and a property just beyond what it reaches."""
    model = dense(function, inputs)
    x = np.random.default_rng(0).uniform(-radius, radius, (20_000, inputs))
    most = float(engine.Engine(model).replay.outputs(x).max()) + 0.02
    return model, box_property([-radius] * inputs, [radius] * inputs, 1, f"(>= Y_0 {most!r})")


class Batches:
    """Counts the batches taken from stores; time is over after `MOST`."""

    MOST = 12

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = self.domains = 0
        take = Store.take

        def counted(store: Store, most: int) -> dict[str, Tensor]:
            rows = take(store, most)
            self.count += 1
            self.domains += len(rows["bound"])
            return rows

        patch.setattr(Store, "take", counted)

    def over(self) -> bool:
        return self.count >= self.MOST


def never(x: Tensor, clause: int) -> bool:
    return False


def neurons(batch: int, batches: Batches) -> None:
    problem = problem_of(*hard("Relu", 6))
    relu_split.solve(
        problem,
        first=SCHEDULE,
        schedule=SCHEDULE,
        batch=batch,
        expired=batches.over,
        suspect=never,
        progress=Progress(),
    )


def instances(batch: int, batches: Batches) -> None:
    problems = [problem_of(*hard("Relu", 6, radius)) for radius in (1.0, 0.9, 0.8)]
    members = [Member(problem, Progress(), never) for problem in problems]
    search(members, first=SCHEDULE, schedule=SCHEDULE, batch=batch, most=10**6, expired=batches.over)


def stacked_instances(batch: int, batches: Batches) -> None:
    """As on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joined, "join", partial(joined.join, stacked=True))
        instances(batch, batches)


def boxes(batch: int, batches: Batches) -> None:
    model = dense("Relu", 6)
    ready = engine.Engine(model)
    members, nodes = [], []
    for radius in (1.0, 0.9, 0.8):
        problems = subproblems([vnnlib.parse(hard("Relu", 6, radius)[1], "p")])
        folded, own = fold_and_bound(ready.graph, ready.shaped(problems.boxes), None)
        problem = Problem(*strategy.specification(problems, folded), folded)
        members.append(Member(problem, Progress(), never))
        nodes.append(own)
    joined_boxes.search(members, ready.graph, nodes, batch=lambda _: batch, most=10**6, expired=batches.over)


def inputs(batch: int, batches: Batches) -> None:
    problem = problem_of(*hard("Relu", 6))
    input_split.solve(
        problem.folded, problem, batch=batch, expired=batches.over, suspect=never, progress=Progress()
    )


def arguments(batch: int, batches: Batches) -> None:
    model, text = hard("Tanh", 6)
    ready = engine.Engine(model)
    problems = subproblems([vnnlib.parse(text, "p")])
    folded, inner = embed(ready.graph, bound_nodes(ready.graph, ready.shaped(problems.boxes)))
    clauses = Clauses(*strategy.specification(problems, folded))
    cut_split.Search(folded, inner, clauses).run(
        first=SCHEDULE,
        schedule=SCHEDULE,
        batch=batch,
        expired=batches.over,
        suspect=never,
        progress=Progress(),
    )


def cuts(batch: int, batches: Batches) -> None:
    ready = engine.Engine(dense("Tanh", 6))
    members, nodes = [], []
    for radius in (1.0, 0.9, 0.8):
        problems = subproblems([vnnlib.parse(hard("Tanh", 6, radius)[1], "p")])
        nodes.append(bound_nodes(ready.graph, ready.shaped(problems.boxes)))
        folded, _ = embed(ready.graph, nodes[-1])
        problem = Problem(*strategy.specification(problems, folded), folded)
        members.append(Member(problem, Progress(), never))
    joined_cuts.search(
        members,
        ready.graph,
        nodes,
        first=SCHEDULE,
        schedule=SCHEDULE,
        batch=lambda _: batch,
        most=10**6,
        expired=batches.over,
    )


def refinement(batch: int, batches: Batches) -> None:
    model, _ = hard("Relu", 6)
    ready = engine.Engine(model)
    side = torch.ones(1, 6, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refine, "BATCH", batch)
        fold_and_bound(ready.graph, Box(-side, side), None, batches.over, allowance=Allowance(1e12, 1))


def a_batch(kind: Callable[[int, Batches], None], batch: int) -> tuple[float, float]:
    """Waits and domains a batch, where batches hold at most so many domains."""
    with pytest.MonkeyPatch.context() as patch:
        batches = Batches(patch)
        with Waits(patch) as waits:
            kind(batch, batches)
    return waits.count / batches.count, batches.domains / batches.count


@pytest.mark.parametrize(
    "kind", [neurons, instances, stacked_instances, boxes, inputs, arguments, cuts, refinement]
)
def test_waits_are_so_many_a_batch_whatever_its_size(kind: Callable[[int, Batches], None]) -> None:
    (waits, domains), (more_waits, more_domains) = (a_batch(kind, batch) for batch in (8, 256))
    assert more_domains > 4 * domains
    assert more_waits < waits + 10 < MOST_WAITS


def test_a_wait_a_domain_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    children = relu_split.children

    def looking(picked: dict[str, Tensor], least: int) -> dict[str, Tensor]:
        assert all(float(bound) <= 0 for bound in picked["bound"])
        return children(picked, least)

    monkeypatch.setattr(relu_split, "children", looking)
    (waits, domains), (more_waits, more_domains) = (a_batch(neurons, batch) for batch in (8, 256))
    assert more_waits - waits > 0.9 * (more_domains - domains)
