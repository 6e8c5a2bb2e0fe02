"""Multiply-adds, counted by hand; beside torch's own count of exported networks see test_pruning_zoo."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper

from factories import cnn, mlp, model
from nets import Net, conv
from secateur.formats.errors import UnsupportedError
from secateur.formats.onnx_model import from_proto
from secateur.pipeline import flops
from secateur.pipeline.inspect import inspect


def image(build: Callable[[Net, str], str], *shape: int) -> onnx.ModelProto:
    """An operator applied to an image of `shape`, whose elements are the network's inputs."""
    net = Net(0, int(np.prod(shape)))
    return net.finish(build(net, net("Reshape", "x", net.ints(*shape)))).proto


CASES = {
    # one sample: outputs 6 × 3 × 3, each over 4/2 channels of a 2 × 2 kernel
    "grouped, strided Conv": (image(conv((2, 2), (4, 6), groups=2, strides=[2, 2]), 1, 4, 6, 6), 54 * 8),
    "padded Conv in one dimension": (image(conv((3,), (2, 5), pads=[1, 1]), 1, 2, 7), 35 * 6),
    # inputs 4 × 3 × 3, each spread over 3 channels of a 2 × 2 kernel
    "grouped ConvTranspose": (
        image(lambda net, v: net("ConvTranspose", v, net.weight(4, 3, 2, 2), group=2), 1, 4, 3, 3),
        36 * 12,
    ),
    "Gemm with both sides transposed": (
        image(lambda net, v: net("Gemm", v, net.weight(5, 3), transA=1, transB=1), 3, 2),
        2 * 5 * 3,
    ),
    # [2, 3, 4] by itself transposed: two products [3, 4] · [4, 3]
    "MatMul of activations": (
        image(lambda net, v: net("MatMul", v, net("Transpose", v, perm=[0, 2, 1])), 2, 3, 4),
        2 * 3 * 3 * 4,
    ),
    "MatMul with a vector": (image(lambda net, v: net("MatMul", v, net.weight(4)), 3, 4), 12),
    "layers in a row": (mlp([4, 8, 3]), 4 * 8 + 8 * 3),
    "a symbolic batch, and operators that are free": (cnn(channels=4), 16 * 4 * 9 + 4 * 8 * 36 + 3 * 32),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name: str) -> None:
    proto, expected = CASES[name]
    found = flops.count(proto)
    assert found.multiply_adds == expected == sum(node.multiply_adds for node in found.nodes)
    assert found.flops == 2 * expected
    assert found.uncounted == ()


def test_what_is_not_counted_is_named() -> None:
    nodes = [
        helper.make_node("GRU", ["x", "w", "r"], ["", "h"], "gru", hidden_size=4),
        helper.make_node("Einsum", ["h"], ["y"], "sum", equation="abc->ab"),
    ]
    constants = {"w": np.ones((1, 12, 3), np.float32), "r": np.ones((1, 12, 4), np.float32)}
    found = flops.count(model(nodes, constants, [2, 1, 3], [1, 1]))
    assert found.uncounted == ("Einsum", "GRU")
    assert "not counting Einsum, GRU" in found.lines()[0]


def test_inspect_shows_it_and_survives_what_does_not_run() -> None:
    found = inspect(from_proto(mlp([4, 8, 3])))
    assert found.to_dict()["cost"] == {
        "multiply_adds": 56,
        "nodes": (
            {"name": "gemm0", "operator": "Gemm", "multiply_adds": 32},
            {"name": "gemm1", "operator": "Gemm", "multiply_adds": 24},
        ),
        "uncounted": (),
    }
    assert "cost: 56 multiply-adds a sample (112 FLOPs)" in found.lines()
    unknown = model([helper.make_node("Relu", ["x"], ["y"])], {}, [1, 3], [1, 3])
    unknown.graph.node[0].domain = "nobody.knows"
    unknown.opset_import.append(helper.make_opsetid("nobody.knows", 1))
    assert inspect(from_proto(unknown)).cost is None
    with pytest.raises(UnsupportedError):
        flops.count(unknown)


def test_a_symbolic_batch_is_one_sample() -> None:
    assert flops.count(mlp([4, 8, 3])).multiply_adds == 56
    fixed = mlp([4, 8, 3])
    for value in [*fixed.graph.input, *fixed.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 5
    assert flops.count(fixed).multiply_adds == 5 * 56
