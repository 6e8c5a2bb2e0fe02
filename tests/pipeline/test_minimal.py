"""Planted failures are cut down to the nodes that show them; every part is a valid model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conversion_graphs import Net, operators
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from factories import cnn, mlp, model
from secateur.formats import onnx_model
from secateur.formats.errors import CheckFailed, InputError, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.pipeline import failures, minimal, onnxrt
from secateur.pipeline.convert.passes import relus
from secateur.pipeline.convert.passes import table as passes


def has(*kinds: str) -> minimal.Failure:
    """A failure of models that have all these operators."""
    return lambda proto: set(kinds) <= set(operators(proto))


def read(proto: onnx.ModelProto) -> Model:
    return onnx_model.from_proto(proto, "net")


@pytest.fixture
def branched() -> Model:
    """x → Gemm → Relu → two branches (Sigmoid, Tanh) → Add → Gemm."""
    net = Net(["N", 4])
    net.add("Gemm", ".", net.number(4, 4), net.number(4)).add("Relu")
    middle = net.value
    net.add("Sigmoid")
    left = net.value
    net.add("Tanh", middle).add("Add", left, ".")
    return read(net.add("Gemm", ".", net.number(4, 2), net.number(2)).model())


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("Sigmoid",), ["Sigmoid"]),
        (("Relu", "Tanh"), ["Relu", "Tanh"]),
        (("Sigmoid", "Tanh"), ["Sigmoid", "Tanh"]),
        (("Add",), ["Add"]),
    ],
)
def test_a_planted_failure_is_found(branched, kinds, expected):
    found = minimal.reduce(branched, has(*kinds))
    assert operators(found.proto) == expected
    assert found.finished and found.trials < 30
    onnx.checker.check_model(found.proto, full_check=True)
    onnxrt.run(found.proto, np.zeros((1, onnxrt.count_inputs(found.proto)), np.float32))
    again = minimal.reduce(branched, has(*kinds))
    assert again.proto.SerializeToString() == found.proto.SerializeToString()


def test_what_is_lacking_becomes_constants_where_one_input_is_wanted(branched):
    def fails(proto: onnx.ModelProto) -> bool:
        return has("Add")(proto) and len(proto.graph.input) == 1

    found = minimal.reduce(branched, fails)
    assert operators(found.proto) == ["Add"]
    assert len(found.proto.graph.initializer) == 1


def test_a_model_that_does_not_fail_is_refused(branched):
    with pytest.raises(CheckFailed, match="net: the model does not show the failure"):
        minimal.reduce(branched, has("Conv"))


def test_a_search_that_is_stopped_gives_what_it_has(branched):
    left: list[int] = []
    found = minimal.reduce(
        branched,
        has("Sigmoid"),
        stop=lambda: len(left) >= 2,
        progress=lambda trials, nodes: left.append(nodes),
    )
    assert not found.finished and found.trials == 2
    assert "Sigmoid" in operators(found.proto)


@settings(max_examples=15, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["Relu", "Tanh", "Sigmoid", "Abs", "Neg", "Exp"]), min_size=1, max_size=9),
    data=st.data(),
)
def test_no_node_of_a_minimal_part_can_go(kinds, data):
    net = Net([1, 3])
    for kind in kinds:
        net.add(kind)
    wanted = data.draw(st.sets(st.sampled_from(kinds), min_size=1, max_size=2))
    found = minimal.reduce(read(net.model()), has(*wanted))
    assert sorted(operators(found.proto)) == sorted(wanted)


def test_long_models_are_bisected():
    net = Net([1, 3])
    for number in range(64):
        net.add("Sigmoid" if number == 40 else "Relu")
    found = minimal.reduce(read(net.model()), has("Sigmoid"))
    assert operators(found.proto) == ["Sigmoid"] and found.trials <= 14


def test_a_command_that_fails_on_an_operator(branched, tmp_path: Path):
    script = tmp_path / "reader.py"
    script.write_text(
        "import sys\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "kinds = [kind for kind in ('Relu', 'Sigmoid', 'Tanh') if kind.encode() in data]\n"
        "print('kinds', *kinds)\n"
        "sys.exit(3 if 'Sigmoid' in kinds else 4 if 'Tanh' in kinds else 0)\n"
    )
    command = f"{sys.executable} {script} {{onnx}}"
    found = minimal.reduce(branched, failures.command(branched, command))
    assert operators(found.proto) == ["Sigmoid"]
    found = minimal.reduce(branched, failures.command(branched, command, matches="Relu.*Tanh"))
    assert operators(found.proto) == ["Relu", "Tanh"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("reader", "with {onnx} in it"),
        ("'", "not a command line"),
        ("no/such/program {onnx}", "cannot be started"),
    ],
)
def test_commands_that_cannot_run_are_refused(branched, command, message):
    with pytest.raises(InputError, match=message):
        failures.command(branched, command)


def test_a_pass_that_is_broken_is_cut_down_to_its_operator(monkeypatch):
    net = Net(["N", 4]).add("Relu").add("Abs")
    low, high = (net.constant(np.array(bound, np.float32)) for bound in (-0.5, 0.5))
    proto = net.add("Clip", ".", low, high).add("LeakyRelu").model()
    fails = failures.mismatch(read(proto), failures.passes(passes.named("relus")), tolerance=1e-4, seed=0)
    with pytest.raises(CheckFailed, match="does not show the failure"):
        minimal.reduce(read(proto), fails)
    monkeypatch.setattr(relus, "_between", lambda write, x, low, high: write.node("Relu", x, last=True))
    fails = failures.mismatch(read(proto), failures.passes(passes.named("relus")), tolerance=1e-4, seed=0)
    assert operators(minimal.reduce(read(proto), fails).proto) == ["Clip"]


@pytest.mark.parametrize("name", failures.OTHERS)
def test_the_engine_and_torch_agree_with_onnxruntime(name):
    for proto in (cnn(), mlp([3, 4, 2])):
        x = onnxrt.sample_inputs(onnxrt.count_inputs(proto), seed=1, samples=4)
        assert onnxrt.difference(onnxrt.run(proto, x), failures.OTHERS[name](proto)(x)) < 1e-5


def test_an_operator_that_the_engine_refuses_is_found():
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Hardmax", ["r"], ["h"]),
        helper.make_node("Neg", ["h"], ["y"]),
    ]
    network = read(model(nodes, {}, [1, 3], [1, 3]))
    with pytest.raises(UnsupportedError):
        failures.engine(network.proto)
    fails = failures.mismatch(network, failures.engine, tolerance=1e-4, seed=0)
    assert operators(minimal.reduce(network, fails).proto) == ["Hardmax"]
