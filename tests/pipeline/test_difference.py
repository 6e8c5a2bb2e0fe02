"""Where two networks disagree: planted differences are found, by gradients and without, and bounded from above."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from factories import box_property, mlp, model
from secateur.formats import onnx_model, vnnlib
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model, initializers
from secateur.pipeline import difference, onnxrt


def read(proto: onnx.ModelProto, name: str) -> Model:
    return onnx_model.from_proto(proto, name)


def prop(inputs: int, outputs: int, low: float = -1, high: float = 1) -> vnnlib.Query:
    text = box_property([low] * inputs, [high] * inputs, outputs, "(<= Y_0 0)")
    return vnnlib.parse(text, "p")


@pytest.fixture
def hidden() -> tuple[Model, Model]:
    """Networks that differ in one corner of the box alone: where x0 + x1 > 1.6, five times the excess, in output 1."""
    plain = mlp([2, 4, 3], seed=1)
    other = onnx.ModelProto()
    other.CopyFrom(plain)
    nodes = [
        helper.make_node("MatMul", ["x", "corner"], ["sum"]),
        helper.make_node("Add", ["sum", "edge"], ["over"]),
        helper.make_node("Relu", ["over"], ["spike"]),
        helper.make_node("MatMul", ["spike", "up"], ["addend"]),
        helper.make_node("Add", ["inner", "addend"], ["y"]),
    ]
    other.graph.node[-1].output[0] = "inner"
    other.graph.node.extend(nodes)
    constants = {
        "corner": np.ones((2, 1), np.float32),
        "edge": np.full(1, -1.6, np.float32),
        "up": np.array([[0, 5, 0]], np.float32),
    }
    other.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in constants.items()
    )
    return read(plain, "plain"), read(other, "other")


def test_a_corner_is_climbed_to_and_the_bound_holds(hidden):
    a, b = hidden
    query = prop(2, 3)
    drawn = difference.worst(a, b, query=query, effort=difference.Effort(16, 4, 0), seed=3)
    found = difference.worst(a, b, query=query, effort=difference.Effort(400, 8, 40), seed=3)
    assert found.climbed == "by gradients" and drawn.climbed == ""
    assert found.worst == pytest.approx(2.0, abs=1e-5)
    assert found.output == 1 and found.x.tolist() == [1, 1]
    assert found.flips is not None and 0 < found.flips < found.samples
    assert np.abs(onnxrt.run(a, found.x[None]) - onnxrt.run(b, found.x[None])).max() == pytest.approx(
        found.worst
    )
    bound = difference.bound(a, b, query)
    assert bound[1] >= found.worst and np.all(bound[[0, 2]] < 1e-5)


def test_the_same_seed_finds_the_same_and_points_stay_inside(hidden):
    query = prop(2, 3, 0.1, 0.3)
    first, second = (difference.worst(*hidden, query=query, seed=5) for _ in range(2))
    assert np.array_equal(first.x, second.x) and first.to_dict() == second.to_dict()
    assert np.all(first.x.astype(np.float64) >= 0.1) and np.all(first.x.astype(np.float64) <= 0.3)
    assert first.worst < 1e-6


def test_the_first_layer_apart_is_named():
    a, b = mlp([3, 4, 4, 2]), mlp([3, 4, 4, 2])
    onnx_model.set_initializer(b, "fc1.bias", initializers(b)["fc1.bias"] + np.float32(0.5))
    found = difference.worst(read(a, "a"), read(b, "b"))
    assert [layer.name for layer in found.layers] == ["fc0", "relu0", "fc1", "relu1", "y"]
    assert found.layers[2].difference == pytest.approx(0.5, abs=1e-5)
    lines = found.lines(1e-4)
    assert lines[-1].startswith("first apart: Gemm 'fc1' differs by 0.5")
    assert len(found.lines(1e-4, all_layers=True)) == len(lines) + 4


def test_operators_that_the_engine_does_not_know_are_climbed_at_random():
    nodes = [helper.make_node("Hardmax", ["x"], ["h"]), helper.make_node("Add", ["h", "x"], ["y"])]
    a = read(model(nodes, {}, [1, 3], [1, 3]), "a")
    scaled = [helper.make_node("Hardmax", ["x"], ["h"]), helper.make_node("Mul", ["h", "x"], ["y"])]
    found = difference.worst(a, read(model(scaled, {}, [1, 3], [1, 3]), "b"), query=prop(3, 3), seed=1)
    assert found.climbed.startswith("at random: ") and "Hardmax" in found.climbed
    assert found.worst > 0.9


def test_data_are_compared_as_they_are(hidden):
    data = np.array([[0, 0], [1, 0.8], [-1, 1]], np.float32)
    found = difference.worst(*hidden, data=data)
    assert found.x.tolist() == data[1].tolist() and found.worst == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(InputError, match="have 3 elements, the networks 2 inputs"):
        difference.worst(*hidden, data=np.zeros((4, 3)))


def test_networks_of_other_sizes_are_refused():
    with pytest.raises(InputError, match="a has 3 inputs, b 2"):
        difference.worst(read(mlp([3, 2]), "a"), read(mlp([2, 2]), "b"))
    with pytest.raises(InputError, match="a has 3 outputs, b 2"):
        difference.worst(read(mlp([2, 3]), "a"), read(mlp([2, 2]), "b"))
    with pytest.raises(InputError, match="the property has 3 inputs, the networks 2"):
        difference.worst(read(mlp([2, 3]), "a"), read(mlp([2, 3]), "b"), query=prop(3, 3))
