"""The hot loop on a GPU, checked without one: every tensor stays on the device, and nothing waits for a number.

PyTorch's fake tensors carry a device and a shape but no numbers. An operation on tensors of two devices fails on them,
and so does everything that needs a number on the host: `.item()`, `bool(tensor)`, `nonzero`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from factories import box_property
from nets import convolutional, mlp, residual, residual_convolutional
from problems import problem_of
from secateur.pipeline.verify.bounding.crown import Box, backward
from secateur.pipeline.verify.bounding.optimise import optimise
from secateur.pipeline.verify.bounding.relaxation import Relaxations, Schedule
from secateur.pipeline.verify.bounding.root import bound_nodes, magnitudes
from secateur.pipeline.verify.bounding.smooth import relax
from secateur.pipeline.verify.graph.bound_graph import BoundGraph, Node
from secateur.pipeline.verify.graph.curves import Sigmoid
from secateur.pipeline.verify.graph.lowering import lower
from secateur.pipeline.verify.graph.operations import (
    Bilinear,
    Dense,
    Elementwise,
    Input,
    Normalised,
    Product,
    Reshape,
)
from secateur.pipeline.verify.search.joined import join
from secateur.pipeline.verify.search.problem import certified_linear

DOMAINS, ROWS = 3, 2


def gated() -> BoundGraph:
    """A product of a sigmoid layer and a dense one."""
    weight, bias = torch.randn(3, 5, 4, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    nodes = [
        Node("x", Input(), (), (4,)),
        Node("gate", Dense(weight[0], bias), (0,), (5,)),
        Node("sigmoid", Elementwise(Sigmoid()), (1,), (5,)),
        Node("value", Dense(weight[1], bias), (0,), (5,)),
        Node("product", Product(), (2, 3), (5,)),
        Node("y", Dense(weight[2].T[:2].contiguous(), None), (4,), (2,)),
    ]
    return BoundGraph(tuple(nodes))


def attending() -> BoundGraph:
    """Means of four numbers with weights that sum to 1: a product of matrices."""
    weight = torch.randn(2, 4, 4, dtype=torch.float64)
    nodes = [
        Node("x", Input(), (), (4,)),
        Node("scores", Dense(weight[0], None), (0,), (4,)),
        Node("parts", Elementwise(Sigmoid()), (1,), (4,)),
        Node("row", Reshape((4,), (1, 4)), (2,), (1, 4)),
        Node("weights", Normalised(), (3,), (1, 4)),
        Node("values", Dense(weight[1], None), (0,), (4,)),
        Node("matrix", Reshape((4,), (4, 1)), (5,), (4, 1)),
        Node("mean", Bilinear(), (4, 6), (1, 1)),
        Node("flat", Reshape((1, 1), (1,)), (7,), (1,)),
        Node("y", Dense(weight[0, :2, :1].contiguous(), None), (8,), (2,)),
    ]
    return BoundGraph(tuple(nodes))


NETWORKS: dict[str, Callable[[], BoundGraph]] = {
    "mlp": lambda: lower(mlp(0, 4, [6, 5], 2)),
    "residual": lambda: lower(residual(0, 4, 6, 2)),
    "convolutional": lambda: lower(convolutional(0)),
    "gated": gated,
    "attending": attending,
}


def on_gpu(mode: FakeTensorMode, value: Any) -> Any:
    """Dictionaries, tuples and dataclasses of tensors, with fake tensors on a GPU in their places."""
    if isinstance(value, Tensor):
        return mode.from_tensor(value).to("cuda")
    if isinstance(value, dict):
        return {key: on_gpu(mode, item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(on_gpu(mode, item) for item in value)
    if hasattr(value, "__dataclass_fields__"):
        return replace(
            value, **{f.name: on_gpu(mode, getattr(value, f.name)) for f in fields(value) if f.init}
        )
    return value


def prepared(name: str) -> tuple[BoundGraph, Box, Relaxations, Tensor, dict[int, Tensor]]:
    graph = NETWORKS[name]()
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(DOMAINS, *graph.input.shape, generator=generator, dtype=torch.float64)
    nodes = bound_nodes(graph, Box(centre - 0.5, centre + 0.5), "crown")
    cuts = {p: [torch.zeros_like(nodes.values[s][0]) for s in graph.nodes[p].inputs] for p in graph.nonlinear}
    relaxations = {
        p: relax(graph.nodes[p].operation, [nodes.values[s] for s in graph.nodes[p].inputs], cuts[p])
        for p in graph.nonlinear
    }
    rows = torch.randn(
        DOMAINS, ROWS, *graph.nodes[graph.output].shape, generator=generator, dtype=torch.float64
    )
    return graph, nodes.box, relaxations, rows, magnitudes(graph, nodes)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_ascent_stays_on_the_device_and_never_waits(name: str) -> None:
    graph, box, relaxations, rows, _ = prepared(name)
    weights = torch.full((DOMAINS, ROWS), 1 / ROWS, dtype=torch.float64)
    with FakeTensorMode() as mode:
        arguments = [on_gpu(mode, value) for value in (graph, relaxations, box)]
        with pytest.raises(DataDependentOutputException):  # a wait would not go unnoticed
            optimise(*arguments, graph.output, on_gpu(mode, rows), Schedule(3), stop_above=0.0)
        result = optimise(
            *arguments, graph.output, on_gpu(mode, rows), Schedule(3), weights=on_gpu(mode, weights)
        )
        assert result.bound.device.type == "cuda"
        assert {m.device.type for m in result.multipliers.values()} == {"cuda"}


class Waits(TorchDispatchMode):
    """Counts the numbers that the host asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_stopping_early_waits_once_an_iteration_whatever_the_batch() -> None:
    iterations = 4
    counts = []
    for repeat in (1, 20):
        graph, box, relaxations, rows, _ = prepared("mlp")
        index = torch.arange(DOMAINS).repeat(repeat)
        many = {
            p: replace(r, **{f.name: getattr(r, f.name)[index] for f in fields(r)})
            for p, r in relaxations.items()
        }
        with Waits() as waits:
            optimise(graph, many, box[index], graph.output, rows[index], Schedule(iterations), stop_above=1e9)
        counts.append(waits.count)
    assert counts == [iterations + 1] * 2


@pytest.mark.parametrize("name", NETWORKS)
def test_rigorous_bounds_stay_on_the_device_and_never_wait(name: str) -> None:
    graph, box, relaxations, rows, magnitude = prepared(name)
    with FakeTensorMode() as mode:
        linear = backward(
            *(on_gpu(mode, value) for value in (graph, relaxations)),
            graph.output,
            on_gpu(mode, rows),
            magnitudes=on_gpu(mode, magnitude),
        )
        assert linear.minimum(on_gpu(mode, box)).device.type == "cuda"


@pytest.mark.parametrize("stacked", [True, False])
def test_domains_of_several_instances_stay_on_the_device_and_never_wait(stacked: bool) -> None:
    """Of residual convolutional networks folded for three boxes, each in one batch of two domains a clause; but for
    the wait that `Parts.of` has a batch."""
    model = residual_convolutional(24)
    texts = [
        box_property([-r] * 16, [r] * 16, 2, "(or (and (>= Y_0 2.0)) (and (<= Y_1 0.0)))")
        for r in (0.3, 0.4, 0.5)
    ]
    problem = join([problem_of(model, text) for text in texts], stacked=stacked)
    clause = torch.arange(len(problem.owner)).repeat_interleave(2)
    signs = torch.zeros(len(clause), problem.layout.total, dtype=torch.int8)
    signs[:, 0] = torch.tensor([1, -1]).repeat(len(problem.owner))
    rows = problem.specification(clause, torch.float32)
    own = problem.weights()[clause]
    exact = (
        problem.folded_of(clause),
        problem.relaxations(clause, signs, torch.float64),
        problem.layout.split(signs.double().abs().unsqueeze(1)),
        problem.specification(clause, torch.float64),
        own.double(),
    )
    arguments = (
        problem.fast_of(clause),
        problem.relaxations(clause, signs, torch.float32),
        problem.box_of(clause, torch.float32),
    )
    with FakeTensorMode() as mode:
        graph, relaxations, box = (on_gpu(mode, value) for value in arguments)
        result = optimise(
            graph,
            relaxations,
            box,
            graph.output,
            on_gpu(mode, rows.rows),
            Schedule(3),
            weights=on_gpu(mode, own),
        )
        assert result.bound.device.type == "cuda"
        linear = certified_linear(*(on_gpu(mode, value) for value in exact))
        assert linear.constant.device.type == "cuda"
