"""auto_LiRPA as an oracle of our bounds, and as the verifier auto_lirpa.

What is comparable. Interval bounds: all of them, up to rounding. CROWN: both take the adaptive lower slope (1 where
u > -l, else 0), so that linear bounds are equal *given the same intermediate bounds*. Those differ: we intersect CROWN
with intervals, they do not; tighter ones may choose other slopes, so that whole computations are equal only where
intermediate bounds are exact in both (one hidden layer). That ours hold is tested in test_bounds.py.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import Result
from torch import Tensor

import factories
from cases import case
from cases.affine import AFFINE
from nets import INPUTS, mlp, residual
from properties import instance
from secateur.formats import instances, onnx_model, vnnlib
from secateur.formats.errors import CheckFailed, InputError, SecateurError, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.pipeline.verify import bounds, verify
from secateur.pipeline.verify.auto_lirpa import Network
from secateur.pipeline.verify.auto_lirpa.compat import library
from secateur.pipeline.verify.bounding.crown import Box, backward
from secateur.pipeline.verify.bounding.relaxation import Relaxations, ReluRelaxation
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.graph.lowering import lower

pytestmark = pytest.mark.skipif(
    find_spec("auto_LiRPA") is None, reason="auto_LiRPA is not installed: `make install` does it"
)

ARCHITECTURES: dict[str, Callable[[int], Model]] = {
    "one layer": lambda seed: mlp(seed, INPUTS, (9,), 3),
    "three layers": lambda seed: mlp(seed, INPUTS, (8, 7, 6), 3),
    "residual": lambda seed: residual(seed, INPUTS, 7, 2),
    "gemm": lambda seed: onnx_model.from_proto(factories.mlp([4, 12, 12, 3], seed=seed, scale=2.0)),
    "convolutional": lambda seed: onnx_model.from_proto(factories.cnn(seed=seed)),
}


def ends(size: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(size, dtype=torch.float64, generator=generator)
    radius = torch.rand(size, dtype=torch.float64, generator=generator)
    return centre - radius, centre + radius


def ours(model: Model, lower: Tensor, upper: Tensor, method: str, outputs: int) -> tuple[Tensor, Tensor]:
    text = factories.box_property(lower.tolist(), upper.tolist(), outputs, "(>= Y_0 0.0)")
    (region,) = bounds(model, vnnlib.parse(text, "p"), method).regions
    return torch.tensor(region.lower, dtype=torch.float64), torch.tensor(region.upper, dtype=torch.float64)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-9) -> bool:
    return bool(((one - other).abs() <= tolerance * (1 + other.abs())).all())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_intervals_are_equal(name: str) -> None:
    for seed in range(3):
        model = ARCHITECTURES[name](seed)
        network = Network(model)
        low, high = ends(network.inputs, seed)
        theirs = network.bounds(low, high, method="IBP")
        mine = ours(model, low, high, "ibp", network.outputs)
        assert close(mine[0], theirs[0]) and close(mine[1], theirs[1])
        assert (mine[0] <= theirs[0]).all() and (mine[1] >= theirs[1]).all()  # ours are rounded outward


def test_intervals_of_every_operator_that_both_know() -> None:
    compared = 0
    for name in AFFINE:
        model = case(name, 1)
        try:
            network = Network(model)
            low, high = ends(network.inputs, 1)
            theirs = network.bounds(low, high, method="IBP")
        except SecateurError:  # onnx2torch and auto_LiRPA know fewer, and refuse
            continue
        mine = ours(model, low, high, "ibp", network.outputs)
        assert close(mine[0], theirs[0], 1e-7) and close(mine[1], theirs[1], 1e-7), name
        compared += 1
    assert compared >= 30


def linear(graph: BoundGraph, relaxations: Relaxations, box: Box, position: int) -> tuple[Tensor, Tensor]:
    """CROWN bounds (n,) of a node from relaxations of the ReLUs before it, and from nothing else."""
    node = graph.nodes[position]
    identity = torch.eye(node.size, dtype=torch.float64)
    rows = torch.cat([identity, -identity]).view(1, -1, *node.shape)
    below, above = backward(graph, relaxations, position, rows).minimum(box)[0].split(node.size)
    return below, -above


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_crown_is_equal_given_the_same_intermediate_bounds(name: str) -> None:
    for seed in range(3):
        model = ARCHITECTURES[name](seed)
        network = Network(model)
        low, high = ends(network.inputs, seed)
        theirs = network.bounds(low, high, method="CROWN")
        known = [(relu.inputs[0].lower, relu.inputs[0].upper) for relu in network._bounded.relus]
        graph = lower(model).to(torch.float64)
        assert len(known) == len(graph.relus)
        shape = (1, *graph.input.shape)
        box = Box(low.view(shape), high.view(shape))
        relaxations: Relaxations = {}

        for position, pair in zip(graph.relus, known, strict=True):
            source = graph.preactivation(position)
            least, most = (side.detach().flatten() for side in pair)
            below, above = linear(graph, relaxations, box, source)
            unstable = (least < 0) & (most > 0)  # the others keep their interval bounds
            assert close(below[unstable], least[unstable]) and close(above[unstable], most[unstable])
            sides = (side.detach().view(1, *graph.nodes[source].shape) for side in pair)
            relaxations[position] = ReluRelaxation.of(*sides)
        below, above = linear(graph, relaxations, box, graph.output)
        assert close(below, theirs[0]) and close(above, theirs[1])


def test_whole_crown_is_equal_with_one_hidden_layer() -> None:
    for seed in range(5):
        model = mlp(seed, INPUTS, (12,), 3)
        low, high = ends(INPUTS, seed)
        theirs, mine = Network(model).bounds(low, high), ours(model, low, high, "crown", 3)
        interval = ours(model, low, high, "ibp", 3)
        assert close(mine[0], torch.maximum(theirs[0], interval[0]))
        assert close(mine[1], torch.minimum(theirs[1], interval[1]))


@pytest.mark.data
@pytest.mark.parametrize("benchmark", ["mnist_fc", "eran_mnist", "oval21", "cifar10_resnet"])
def test_real_networks(benchmark: str, shared_data: Path) -> None:
    """On the first ReLU network of a benchmark, around the centre of the first region of its first property."""
    lines = instances.read(path := str(shared_data / "benchmarks" / benchmark / "instances.csv"))
    first = next(line for line in lines if "SIGMOID" not in line.onnx)
    model = onnx_model.read(instances.resolve(path, first.onnx))
    region = vnnlib.read(instances.resolve(path, first.vnnlib)).regions[0]
    centre = torch.from_numpy(region.lower + region.upper) / 2
    network = Network(model)
    for radius in (0.0, 0.001, 0.02):
        low, high = centre - radius, centre + radius
        theirs, mine = (
            network.bounds(low, high, method="IBP"),
            ours(model, low, high, "ibp", network.outputs),
        )
        assert close(mine[0], theirs[0], 1e-7) and close(mine[1], theirs[1], 1e-7)
    low, high = centre - 0.001, centre + 0.001
    theirs, mine = network.bounds(low, high), ours(model, low, high, "crown", network.outputs)
    # Intermediate bounds may differ, hence a slope or two; the enclosures are nearly of the same width.
    widths = [float((pair[1] - pair[0]).sum()) for pair in (mine, theirs)]
    assert widths[1] > 1e-4
    assert widths[0] == pytest.approx(widths[1], rel=0.05)


def test_the_verifier_never_refutes_what_holds() -> None:
    refuted = 0
    for seed in range(60):
        example = instance(seed)
        try:
            result = verify(example.model, vnnlib.parse(example.text, "p"), verifier="auto_lirpa")
        except UnsupportedError:
            continue
        assert result.verdict == "unknown" or (result.verdict == "unsat" and example.least > 0), seed
        assert (result.verdict == "unsat") == (result.bound is None or result.bound > 0)
        refuted += result.verdict == "unsat"
    assert refuted >= 5


def test_clauses_are_decided_by_their_own_rows() -> None:
    """y₀ ≤ y₁ cannot be refuted from bounds on y₀ and y₁ alone where both move together."""
    model = factories.model(
        [factories.helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        {"w": np.ones((2, 3), np.float32), "b": np.array([0.1, 0.0], np.float32)},
        [1, 3],
        [1, 2],
    )
    text = factories.box_property(
        [-1.0] * 3, [1.0] * 3, 2, "(or (<= Y_0 Y_1) (and (>= Y_0 2.0) (<= X_0 -1.5)))"
    )
    result = verify(onnx_model.from_proto(model), vnnlib.parse(text, "p"), verifier="auto_lirpa")
    assert result.verdict == "unsat"
    assert result.bound == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("name", ["Gemm matrix C", "Gemm transA", "Add broadcasts variables"])
def test_a_first_axis_that_is_no_batch_is_refused(name: str) -> None:
    """Release 0.3 gives intervals for some of these that sampled points leave."""
    with pytest.raises(UnsupportedError, match="first axis"):
        Network(case(name))


def test_opsets_that_onnx2torch_does_not_know_are_lowered() -> None:
    """Flatten of opset 21."""
    old, low, high = factories.cnn(), *ends(64, 0)
    new = onnx.version_converter.convert_version(old, 21)
    found, expected = (Network(onnx_model.from_proto(proto)).bounds(low, high) for proto in (new, old))
    assert all(close(one, other) for one, other in zip(found, expected, strict=True))


def test_bounds_that_a_sampled_point_leaves_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(mlp(0, 2, (3,), 1))
    right = network._bounded.compute_bounds
    monkeypatch.setattr(
        network._bounded, "compute_bounds", lambda **arguments: [side + 10 for side in right(**arguments)]
    )
    with pytest.raises(CheckFailed, match="a sampled input violates it"):
        network.bounds(torch.zeros(2), torch.ones(2))


def test_a_bound_within_the_margin_is_not_enough() -> None:
    model = mlp(0, 2, (3,), 1)
    high = float(Network(model).bounds(torch.zeros(2), torch.ones(2))[1])
    for slack, verdict in ((1e-8, "unknown"), (1e-4, "unsat")):
        text = factories.box_property([0.0] * 2, [1.0] * 2, 1, f"(>= Y_0 {high + slack!r})")
        assert verify(model, vnnlib.parse(text, "p"), verifier="auto_lirpa").verdict == verdict


def test_no_time_is_a_timeout() -> None:
    model = mlp(0, 2, (3,), 1)
    query = vnnlib.parse(factories.box_property([0.0] * 2, [1.0] * 2, 1, "(>= Y_0 1e9)"), "p")
    assert verify(model, query, verifier="auto_lirpa", timeout=1e-9).verdict == "timeout"


def test_a_property_of_another_network_is_refused() -> None:
    query = vnnlib.parse(factories.box_property([0.0] * 3, [1.0] * 3, 1, "(>= Y_0 0.0)"), "p")
    with pytest.raises(InputError, match="3 inputs"):
        verify(mlp(0, 2, (3,), 1), query, verifier="auto_lirpa")


def test_nothing_is_left_changed(capfd: pytest.CaptureFixture[str]) -> None:
    def state() -> tuple[object, ...]:
        exporter = sys.modules["torch.onnx._internal.torchscript_exporter._globals"].GLOBALS
        return (
            hasattr(torch, "_six"),
            hasattr(torch._C.Node, "__getitem__"),
            hasattr(sys.modules["torch.onnx.symbolic_helper"], "_set_opset_version"),
            "numpy.lib.arraysetops" in sys.modules,
            torch.get_default_dtype(),
            exporter.export_onnx_opset_version,
            logging.root.handlers[:],
            logging.root.manager.disable,
            warnings.filters[:],
            sys.stdout,
        )

    with library():
        pass
    before = state()
    assert not any(before[:4])
    network = Network(mlp(0, 2, (3,), 1))
    network.bounds(torch.zeros(2), torch.ones(2))
    with pytest.raises(UnsupportedError, match="auto_LiRPA cannot bound it"):
        Network(case("ConvTranspose")).bounds(torch.zeros(INPUTS), torch.ones(INPUTS))
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_without_the_library_the_line_says_how_to_get_it(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prop = tmp_path / "m.onnx", tmp_path / "p.vnnlib"
    onnx_model.write(mlp(0, 2, (3,), 1), str(model))
    prop.write_text(factories.box_property([0.0] * 2, [1.0] * 2, 1, "(>= Y_0 1e9)"))
    answer = invoke("verify", model, prop, "--verifier", "auto_lirpa")
    assert (answer.exit_code, answer.stdout) == (0, "unsat\n")
    monkeypatch.setitem(sys.modules, "auto_LiRPA", None)
    answer = invoke("verify", model, prop, "--verifier", "auto_lirpa")
    assert answer.exit_code == 2
    assert "pip install --no-deps auto-LiRPA==0.3" in answer.stderr and answer.stderr.count("\n") == 1
