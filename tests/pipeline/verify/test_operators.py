"""Every operator: the bound graph computes what onnxruntime computes, and its maps are adjoint and honest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from cases import CASES, case, operators
from factories import model as bare_model
from nets import INPUTS, Net
from secateur.formats import onnx_model
from secateur.formats.errors import SecateurError, UnsupportedError
from secateur.pipeline import onnxrt
from secateur.pipeline.verify.graph.lowering import lower
from secateur.pipeline.verify.graph.operations import (
    MANY_ROWS,
    Affine,
    Bilinear,
    Dense,
    Elementwise,
    Input,
    Normalised,
    Product,
    Relu,
)
from secateur.pipeline.verify.graph.operators import RULES


def test_every_rule_has_a_case() -> None:
    assert operators() >= set(RULES)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_forward_is_onnxruntime(name: str, seed: int) -> None:
    model = case(name, seed)
    graph = lower(model)
    x = np.random.default_rng(seed).uniform(-2, 2, (16, INPUTS)).astype(np.float32)
    ours = graph.forward(torch.from_numpy(x).double().view(-1, *graph.input.shape)).flatten(1).numpy()
    np.testing.assert_allclose(ours, onnxrt.run(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_maps_of_every_operation(name: str) -> None:
    """⟨a, Lx⟩ = ⟨Lᵀa, x⟩, forward(0) = b, offset(a) = ⟨a, b⟩, absolute = |L| and magnitude = |L| r + |b|."""
    graph = lower(case(name, 2))
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    for node in graph.nodes:
        operation = node.operation
        if not isinstance(operation, Affine):
            assert isinstance(operation, Input | Relu | Elementwise | Product | Bilinear | Normalised)
            continue
        shapes = [graph.nodes[source].shape for source in node.inputs]
        x = [random(3, *shape) for shape in shapes]
        zero = [torch.zeros(3, *shape, dtype=torch.float64) for shape in shapes]
        a = random(3, *node.shape)
        bias = operation.forward(*zero)
        assert bias.shape == a.shape
        linear = operation.forward(*x) - bias
        back = operation.transpose(a)
        assert [part.shape for part in back] == [part.shape for part in x]
        left = (a * linear).reshape(3, -1).sum(1)
        right = sum((one * other).reshape(3, -1).sum(1) for one, other in zip(back, x, strict=True))
        torch.testing.assert_close(left, right)
        offset = operation.offset(a)
        expected = (a * bias).reshape(3, -1).sum(1)
        torch.testing.assert_close(torch.zeros(3).double() if offset is None else offset, expected)
        # |L| from the columns of L: one input coordinate at a time.
        radii = [part.abs() for part in x]
        total = torch.zeros_like(a)
        for which, shape in enumerate(shapes):
            size = int(np.prod(shape))
            unit = [torch.zeros(size, *other, dtype=torch.float64) for other in shapes]
            unit[which] = torch.eye(size, dtype=torch.float64).view(size, *shape)
            columns = (operation.forward(*unit) - bias[:1]).abs().reshape(size, -1)
            total += (radii[which].reshape(3, -1) @ columns).view(3, *node.shape)
        torch.testing.assert_close(operation.absolute(*radii), total)
        torch.testing.assert_close(operation.magnitude(*radii), total + bias.abs())
        if operation.terms == 0:  # claimed to move numbers only, so that intervals need no rounding
            values = torch.cat([part.flatten() for part in x])
            assert torch.isin(operation.forward(*x), values).all()


@pytest.mark.parametrize(
    ("operator", "build"),
    [
        ("Cast", lambda n: n("Cast", n("Cast", "x", to=onnx.TensorProto.INT64), to=onnx.TensorProto.FLOAT)),
        ("Equal", lambda n: n("Where", n("Equal", "x", n.constant(0.0)), "x", n.constant(0.0))),
        ("Cast", lambda n: n("Where", n("Cast", "x", to=onnx.TensorProto.BOOL), "x", n.constant(0.0))),
        ("Div", lambda n: n("Div", "x", n.constant([1.0, 0, 1, 1, 1]))),
        ("Pow", lambda n: n("Pow", "x", "x")),
        ("Pow", lambda n: n("Pow", n.constant(-2.0), "x")),
        ("Pow", lambda n: n("Pow", "x", n.constant([1.0, 2, 3, 4, 5]))),
        ("Add", lambda n: n("Add", "x", n.constant(-np.inf))),
        ("RandomNormal", lambda n: n("Add", "x", n("RandomNormal", shape=[5]))),
        ("Conv", lambda n: n("Conv", n("Reshape", "x", n.ints(1, 1, 5, 1, 1)), n.weight(1, 1, 2, 1, 1))),
        ("PRelu", lambda n: n("PRelu", "x", "x")),
        ("Resize", lambda n: n("Resize", n("Reshape", "x", n.ints(1, 1, 1, 5)), "", n.constant([1.0, 1, 1, 0.5]),
                               mode="linear", antialias=1)),
        ("TopK", lambda n: n("TopK", "x", n.ints(2), outputs=2)),
        ("Dropout", lambda n: n("Dropout", "x", n.constant(0.5), n.constant(True, np.bool_))),
    ],
)  # fmt: skip
def test_what_cannot_be_bounded_is_refused(operator: str, build: object) -> None:
    net = Net(0)
    model = net.finish(build(net), 18)  # type: ignore[operator]
    with pytest.raises(UnsupportedError, match=f"operator {operator} of node"):
        lower(model)


def test_old_broadcasting_is_refused() -> None:
    """Before opset 7 `axis` said where a smaller operand stands; numpy's rule would add along another axis."""
    add = helper.make_node("Add", ["x", "c"], ["y"], axis=1, broadcast=1)
    graph = helper.make_graph(
        [add],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 3, 3])],
        [helper.make_tensor_value_info("y", 1, [1, 3, 3])],
        [onnx.numpy_helper.from_array(np.array([1, 2, 3], np.float32), "c")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=3)
    with pytest.raises(SecateurError, match="Add"):
        lower(onnx_model.from_proto(proto))


def test_a_constant_output_is_one_clear_error() -> None:
    constant = helper.make_node("Identity", ["c"], ["y"])
    proto = bare_model([constant], {"c": np.ones((1, 2), np.float32)}, [1, 3], [1, 2])
    with pytest.raises(SecateurError, match="does not depend on its input"):
        lower(onnx_model.from_proto(proto))


@pytest.mark.data
def test_every_shared_network_is_understood(shared_data: Path) -> None:
    """One network of every architecture in the shared benchmarks: lowered, it computes what onnxruntime computes."""
    met = set()
    for path in sorted((shared_data / "benchmarks").rglob("*.onnx*")):
        model = onnx_model.read(str(path))
        architecture = (path.parts[-3], *(node.op_type for node in model.graph.node))
        if architecture in met:
            continue
        met.add(architecture)
        graph = lower(model)
        x = np.random.default_rng(0).random((4, graph.input.size), np.float32)
        ours = graph.forward(torch.from_numpy(x).double().view(-1, *graph.input.shape)).flatten(1).numpy()
        assert onnxrt.difference(onnxrt.run(model, x), ours) < 1e-4, path
    assert len(met) > 20


@pytest.mark.parametrize("shape", [(9,), (1, 9), (2, 3, 9)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 1.0])
def test_dense_rows_without_their_zeros(shape: tuple[int, ...], share: float) -> None:
    """Each sub-problem has its own neurons that are zero in all rows, some of them all."""
    generator = torch.Generator().manual_seed(0)
    dense = Dense(torch.randn(9, 5, dtype=torch.float64, generator=generator), None)
    used = torch.rand(4, 1, *[1] * (len(shape) - 1), 9, generator=generator) < share
    used[0] = False
    a = torch.randn(4, MANY_ROWS, *shape, dtype=torch.float64, generator=generator) * used
    (rows,) = dense.transpose_rows(a)
    torch.testing.assert_close(rows, a @ dense.weight)
