"""Bounds to train with: those of the engine and of auto_LiRPA, in value and in gradient."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from trainable import graph_of, images, network

import factories
import nets
from secateur.formats import onnx_model
from secateur.formats.errors import UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt
from secateur.pipeline.train.bounds.propagate import ball, crown_rows, interval_rows, intervals
from secateur.pipeline.train.bounds.trace import trace
from secateur.pipeline.train.graph import TrainableGraph
from secateur.pipeline.train.objectives import crown_ibp
from secateur.pipeline.train.objectives.batch import Batch
from secateur.pipeline.train.objectives.margins import margin_rows, robust_cross_entropy
from secateur.pipeline.train.ramp import Stage
from secateur.pipeline.train.settings import Settings
from secateur.pipeline.verify.auto_lirpa.compat import library
from secateur.pipeline.verify.bounding.crown import Box, backward
from secateur.pipeline.verify.bounding.relaxation import Relaxations, ReluRelaxation
from secateur.pipeline.verify.bounding.root import bound_nodes
from secateur.pipeline.verify.graph.lowering import lower

EPSILON = 0.05
needs_auto_lirpa = pytest.mark.skipif(
    find_spec("auto_LiRPA") is None, reason="auto_LiRPA is not installed: `make install` does it"
)


def one(operator: str, shape: tuple[int, ...] = (2, 4, 4), *constants: object, **attributes: object) -> Model:
    """The operator between a convolution and a ReLU with a dense layer behind."""
    net = nets.Net(0, 32)
    value = net("Reshape", "x", net.ints(-1, *shape))
    value = nets.conv((3, 3), (2, 2), pads=[1, 1, 1, 1])(net, value)
    kinds = [np.int64 if np.asarray(each).dtype.kind == "i" else np.float32 for each in constants]
    names = [net.constant(each, kind) for each, kind in zip(constants, kinds, strict=True)]
    value = net(operator, value, *names, **attributes)
    return net.finish(net.dense(net("Relu", net("Flatten", value)), _width(net, value), 3))


def _width(net: nets.Net, value: str) -> int:
    node = next(node for node in net.nodes if value in node.output)
    graph = helper.make_graph(
        net.nodes,
        "part",
        [helper.make_tensor_value_info("x", 1, [1, net.inputs])],
        [helper.make_tensor_value_info(node.output[0], 1, None)],
        [numpy_helper.from_array(array, name) for name, array in net.constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return int(np.prod(onnxrt.value_shapes(proto)[value]))


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape)


def gemm() -> Model:
    """With a bias of two axes, a factor below zero."""
    net = nets.Net(0, 6)
    value = net("Gemm", "x", net.weight(6, 5), net.constant(normal(1, 5)), alpha=-2.0, beta=0.5)
    return net.finish(net.dense(net("Relu", value), 5, 3))


def concatenation() -> Model:
    net = nets.Net(0, 6)
    value = net("Concat", net("Relu", net.dense("x", 6, 4)), "x", axis=1)
    return net.finish(net.dense(net("Relu", value), 10, 3))


OPERATORS: dict[str, Callable[[], Model]] = {
    "residual": lambda: nets.residual(1, 4, 6, 3),
    "convolutional": lambda: nets.convolutional(2),
    "gemm": lambda: onnx_model.from_proto(factories.mlp([5, 9, 8, 3], seed=3)),
    "cnn": lambda: onnx_model.from_proto(factories.cnn(seed=4)),
    "mul": lambda: one("Mul", (2, 4, 4), np.array([[[-2.0]], [[0.5]]])),
    "div": lambda: one("Div", (2, 4, 4), np.array([[[-2.0]], [[0.5]]])),
    "neg": lambda: one("Neg"),
    "pad": lambda: one("Pad", (2, 4, 4), np.array([0, 0, 1, 0, 0, 1, 0, 0]), np.array(0.7)),
    "slice": lambda: one("Slice", (2, 4, 4), np.array([1]), np.array([3]), np.array([2])),
    "transposed convolution": lambda: one("ConvTranspose", (2, 4, 4), normal(2, 3, 2, 2), strides=[2, 2]),
    "uneven convolution": lambda: one("Conv", (2, 4, 4), normal(3, 2, 2, 2), pads=[0, 0, 1, 1]),
    "gemm with a row": lambda: gemm(),
    "concatenation": lambda: concatenation(),
    "average pool": lambda: one("AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
    "global pool": lambda: one("GlobalAveragePool"),
    "max pool": lambda: one("MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
    "leaky": lambda: one("LeakyRelu", alpha=0.1),
    "sigmoid": lambda: one("Sigmoid"),
    "transpose": lambda: one("Transpose", perm=[0, 2, 3, 1]),
    "mean": lambda: one("ReduceMean", axes=[2, 3], keepdims=0),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_bounds_hold_and_are_the_engine_s(name: str) -> None:
    model = OPERATORS[name]()
    graph = TrainableGraph(model)
    graph.double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, *graph.input_shape, generator=generator, dtype=torch.float64)
    run = trace(graph, x)
    assert torch.allclose(run.logits, graph(x).flatten(1))
    low, high = ball(x, EPSILON)
    known = intervals(run, low, high)
    rows = torch.randn(3, 5, run.logits.shape[1], generator=generator, dtype=torch.float64)
    below, above = interval_rows(run, known, rows)
    least = crown_rows(run, known, rows)
    for _ in range(100):
        point = low + (high - low) * torch.rand(x.shape, generator=generator, dtype=torch.float64).round()
        values = (rows @ graph(point).flatten(1).unsqueeze(2)).squeeze(2)
        assert (values >= below - 1e-9).all() and (values <= above + 1e-9).all()
        assert (values >= least - 1e-9).all()
    engine = lower(model).to(torch.float64)
    box = Box(*(side.reshape(3, *engine.input.shape) for side in (low, high)))
    theirs = bound_nodes(engine, box, "ibp").values[engine.output]
    least_found, most_found = known[run.output].lower.flatten(1), known[run.output].upper.flatten(1)
    least_its, most_its = (side.flatten(1) for side in theirs)
    if name == "max pool":  # the engine makes it of ReLUs, which is wider
        assert (least_found > least_its - 1e-6).all() and (most_found < most_its + 1e-6).all()
    else:
        assert torch.allclose(least_found, least_its, atol=1e-6)
        assert torch.allclose(most_found, most_its, atol=1e-6)
    if len(engine.relus) != len(run.relus) or name == "sigmoid":  # made of other ReLUs, or relaxed by it
        return
    relaxations: Relaxations = {}
    for ours, its in zip(run.relus, engine.relus, strict=True):
        argument = known[run.nodes[ours].inputs[0]]
        shape = engine.nodes[engine.preactivation(its)].shape
        sides = (side.detach().view(3, *shape) for side in (argument.lower, argument.upper))
        relaxations[its] = ReluRelaxation.of(*sides)
    shaped = rows.view(3, 5, *engine.nodes[engine.output].shape)
    theirs_least = backward(engine, relaxations, engine.output, shaped).minimum(box)
    assert torch.allclose(least, theirs_least, atol=1e-6)
    if name in ("residual", "gemm", "cnn"):
        assert least.mean() > below.mean()


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_by_finite_differences(name: str) -> None:
    """Along a random direction of all weights."""
    graph = TrainableGraph(OPERATORS[name]())
    graph.double()
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, *graph.input_shape, generator=generator, dtype=torch.float64)

    def value() -> Tensor:
        run = trace(graph, x)
        known = intervals(run, *ball(x, EPSILON))
        rows = (
            torch.linspace(-1, 1, 4 * run.logits.shape[1], dtype=torch.float64)
            .view(1, 4, -1)
            .expand(2, -1, -1)
        )
        return (crown_rows(run, known, rows).sin() + interval_rows(run, known, rows)[1].cos()).sum()

    weights = list(graph.parameters.values())
    with torch.no_grad():  # none of them 0, where bounds have kinks
        for weight in weights:
            weight.add_(torch.randn(weight.shape, generator=generator, dtype=torch.float64), alpha=0.1)
    gradients = torch.autograd.grad(value(), weights, allow_unused=True, materialize_grads=True)
    ways = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in weights]
    slope = sum(float((gradient * way).sum()) for gradient, way in zip(gradients, ways, strict=True))
    ends = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for weight, way in zip(weights, ways, strict=True):
                weight.add_(way, alpha=step)
            ends.append(float(value()))
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-6)


@needs_auto_lirpa
@pytest.mark.parametrize("training", [False, True], ids=["running", "batch"])
@pytest.mark.parametrize("seed", range(10))
def test_margins_and_gradients_are_those_of_auto_lirpa(seed: int, training: bool) -> None:
    """By IBP and CROWN-IBP, with BatchNormalization's running statistics and with the batch's."""
    module, (x, y) = network(seed), images(6, seed)
    graph = graph_of(module)
    low, high = ball(x, EPSILON)
    if training:
        graph.train()
    run = trace(graph, x)
    rows = margin_rows(y, run.logits)
    with library() as lirpa:
        bounded = _bounded(lirpa, module, x, training)
        inputs = lirpa.BoundedTensor(x, lirpa.PerturbationLpNorm(norm=np.inf, x_L=low, x_U=high))
        bounded(x)
        below, above = bounded.compute_bounds(x=(inputs,), C=rows, method="IBP")
        crown, _ = bounded.compute_bounds(x=(inputs,), C=rows, method="CROWN-IBP", bound_upper=False)
        torch.autograd.backward(_mixed(below, above, crown))
        theirs = {name: value.grad for name, value in module.named_parameters()}
    known = intervals(run, low, high)
    ours_below, ours_above = interval_rows(run, known, rows)
    ours_crown = crown_rows(run, known, rows)
    for ours, its in ((ours_below, below), (ours_above, above), (ours_crown, crown)):
        assert torch.allclose(ours, its, atol=1e-9)
    torch.autograd.backward(_mixed(ours_below, ours_above, ours_crown))
    assert theirs.keys() == graph.parameters.keys()
    for name, its in theirs.items():
        gradient = graph.parameters[name].grad
        assert its is not None and gradient is not None
        assert torch.allclose(gradient, its, rtol=1e-6, atol=1e-8), name


@needs_auto_lirpa
@pytest.mark.parametrize("seed", range(10))
def test_the_fused_loss_and_its_gradient_are_those_of_auto_lirpa(seed: int) -> None:
    """Of CROWN alone: auto_LiRPA 0.3 lets a gradient into the scale of the intervals' sum, which must not change it."""
    module, (x, y) = network(seed), images(6, seed)
    graph = graph_of(module)
    low, high = ball(x, EPSILON)
    with library() as lirpa:
        from auto_LiRPA.wrapper import CrossEntropyWrapper

        wrapper = CrossEntropyWrapper(module)
        bounded = _bounded(lirpa, wrapper, (x, y), False, loss_fusion=True)
        inputs = lirpa.BoundedTensor(x, lirpa.PerturbationLpNorm(norm=np.inf, x_L=low, x_U=high))
        bounded(x, y)
        _, total = bounded.compute_bounds(x=(inputs, y), method="CROWN-IBP", bound_lower=False)
        (scale,) = [node.max_input for node in bounded._modules.values() if type(node).__name__ == "BoundExp"]
        expected = (torch.log(total) + scale).mean()
        torch.autograd.backward(expected)
        theirs = {name: value.grad for name, value in module.named_parameters()}
    batch = Batch(
        graph,
        x,
        y,
        Settings(objective="crown-ibp", epsilon=EPSILON),
        Stage(EPSILON, 0.0, 1.0),
        torch.Generator(),
    )
    found = crown_ibp.loss(batch).loss
    torch.autograd.backward(found)
    assert torch.allclose(found, expected, atol=1e-6)
    for name, its in theirs.items():
        gradient = graph.parameters[name].grad
        assert its is not None and gradient is not None
        assert torch.allclose(gradient, its, rtol=1e-3, atol=1e-5), name


def _bounded(lirpa: object, module: object, x: object, training: bool, **options: object) -> object:
    """It has gradients in training mode only; BatchNormalization's mode is its nodes' own."""
    bounded = lirpa.BoundedModule(module, x, {"conv_mode": "matrix", **options})  # type: ignore[attr-defined]
    bounded.train()
    for node in bounded._modules.values():
        if type(node).__name__ == "BoundBatchNormalization":
            node.training = training
    return bounded


def _mixed(below: Tensor, above: Tensor, crown: Tensor) -> Tensor:
    return robust_cross_entropy(crown) + 0.3 * robust_cross_entropy(below) + 0.1 * above.square().mean()


def test_an_operator_without_bounds_is_named() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "first"),
        helper.make_node("Sin", ["m"], ["s"], "wave"),
        helper.make_node("MatMul", ["s", "v"], ["y"], "last"),
    ]
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(3, 3)).astype(np.float32) for name in "wv"}
    graph = TrainableGraph(onnx_model.from_proto(factories.model(nodes, weights, ["N", 3], ["N", 3])))
    with pytest.raises(UnsupportedError, match=r"wave.*no bounds to train with"):
        trace(graph, torch.rand(2, 3))


def test_a_product_of_two_values_is_named() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "first"),
        helper.make_node("Mul", ["m", "x"], ["y"], "square"),
    ]
    weights = {"w": np.eye(3, dtype=np.float32)}
    graph = TrainableGraph(onnx_model.from_proto(factories.model(nodes, weights, ["N", 3], ["N", 3])))
    with pytest.raises(UnsupportedError, match=r"square.*more than one argument depends"):
        trace(graph, torch.rand(2, 3))


@pytest.mark.data
@pytest.mark.parametrize("name", ["acasxu", "oval21", "sri_resnet_b", "safenlp"])
def test_benchmark_networks_have_bounds(shared_data: Path, name: str) -> None:
    files = sorted((shared_data / "benchmarks" / name).rglob("*.onnx*"), key=lambda file: file.stat().st_size)
    graph = TrainableGraph(onnx_model.read(str(files[0])))
    graph.double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, *graph.input_shape, generator=generator, dtype=torch.float64)
    low, high = ball(x, 0.01)
    with torch.no_grad():
        run = trace(graph, x)
        known = intervals(run, low, high)
        rows = torch.eye(run.logits.shape[1], dtype=torch.float64)[:3].expand(2, -1, -1)
        below, above = interval_rows(run, known, rows)
        least = crown_rows(run, known, rows)
        for _ in range(10):
            point = low + (high - low) * torch.rand(x.shape, generator=generator, dtype=torch.float64).round()
            values = graph(point).flatten(1)[:, :3]
            slack = 1e-9 * values.abs().max()
            assert (values >= below - slack).all() and (values <= above + slack).all()
            assert (values >= least - slack).all()
