"""Queries about several networks, as one network: the same values, the same verdicts."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from factories import cnn, mlp
from secateur.formats import onnx_model, vnnlib
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline import onnxrt, product
from secateur.pipeline.verify import verify


def named(proto: onnx.ModelProto, name: str) -> Model:
    return onnx_model.from_proto(proto, name)


def thinned(proto: onnx.ModelProto, share: float) -> onnx.ModelProto:
    """The model without the smallest weights."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        kept = np.where(np.abs(weight) < np.quantile(np.abs(weight), share), np.float32(0), weight)
        tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))
    return copy


def twins(
    delta: float, epsilon: float, *, inputs: int = 3, outputs: int = 2, tie: str = "isomorphic-to"
) -> Query:
    """Some output of the second network differs by `delta` or more from the first's."""
    lines = [
        "(vnnlib-version <2.0>)",
        f"(declare-network f (declare-input X float32 [1,{inputs}]) (declare-output Y float32 [1,{outputs}]))",
        f"(declare-network g ({tie} f) (declare-input U float32 [1,{inputs}])"
        f" (declare-output V float32 [1,{outputs}]))",
    ]
    for i in range(inputs):
        lines.append(
            f"(assert (and (== U[0,{i}] X[0,{i}]) (>= X[0,{i}] {-epsilon}) (<= X[0,{i}] {epsilon})))"
        )
    parts = [f"(>= (- {a}[0,{k}] {b}[0,{k}]) {delta})" for k in range(outputs) for a, b in ("YV", "VY")]
    return vnnlib.parse("\n".join([*lines, f"(assert (or {' '.join(parts)}))"]), "twins")


@given(st.integers(0, 1000), st.floats(0.05, 0.6), st.floats(0.01, 0.5))
@settings(max_examples=15, deadline=None)
def test_twin_verdicts_agree_with_sampled_differences(seed: int, share: float, delta: float) -> None:
    dense = mlp([3, 5, 2], seed=seed)
    f, g = named(dense, "f"), named(thinned(dense, share), "g")
    query = twins(round(delta, 3), 0.5)
    models = product.models_of(query, {"f": f, "g": g}, "twins")
    whole = product.compile(query, models)
    assert (whole.query.inputs, whole.query.outputs) == (3, 4)  # tied inputs are one
    result = verify(whole.model, whole.query, timeout=20)
    x = np.random.default_rng(seed).uniform(-0.5, 0.5, (2000, 3)).astype(np.float32)
    worst = float(np.abs(onnxrt.run(f, x) - onnxrt.run(g, x)).max())
    if result.verdict == "unsat":
        assert worst < round(delta, 3)
    else:
        assert result.verdict == "sat" and result.witness is not None
        assert product.check(query, models, whole.expand(result.witness.x))[0]


def test_the_same_network_at_the_same_input_is_computed_once() -> None:
    f = named(mlp([3, 6, 2], seed=4), "f")
    query = twins(1e-3, 0.5, tie="equal-to")
    models = product.models_of(query, {"f": f}, "twins")
    whole = product.compile(query, models)
    assert sum(node.op_type == "Gemm" for node in whole.model.graph.node) == 2
    assert verify(whole.model, whole.query, timeout=20).verdict == "unsat"  # it agrees with itself


def test_the_same_network_twice_keeps_its_weights_once() -> None:
    f = named(mlp([3, 6, 2], seed=4), "f")
    text = [
        "(vnnlib-version <2.0>)",
        "(declare-network f (declare-input X real [3]) (declare-output Y real [2]))",
        "(declare-network g (equal-to f) (declare-input U real [3]) (declare-output V real [2]))",
        *(f"(assert (and (>= {v}[{i}] 0.0) (<= {v}[{i}] 1.0)))" for v in "XU" for i in range(3)),
        "(assert (>= (- Y[0] V[0]) 100.0))",
    ]
    query = vnnlib.parse("\n".join(text), "p")
    whole = product.compile(query, product.models_of(query, {"f": f}, "p"))
    assert sum(node.op_type == "Gemm" for node in whole.model.graph.node) == 4
    floats = [t for t in whole.model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert len(floats) == len(f.graph.initializer)
    assert verify(whole.model, whole.query, timeout=20).verdict == "unsat"


def test_untied_inputs_stay_apart() -> None:
    f = named(cnn(seed=1), "f")
    lines = [
        "(vnnlib-version <2.0>)",
        "(declare-network f (declare-input X float32 [1,1,8,8]) (declare-output Y float32 [1,3]))",
        "(declare-network g (equal-to f) (declare-input U float32 [1,1,8,8]) (declare-output V float32 [1,3]))",
    ]
    for name in "XU":
        lines += [
            f"(assert (and (>= {name}[0,0,{i},{j}] 0.0) (<= {name}[0,0,{i},{j}] 1.0)))"
            for i in range(8)
            for j in range(8)
        ]
    query = vnnlib.parse("\n".join([*lines, "(assert (> V[0,0] Y[0,0]))"]), "p")
    models = product.models_of(query, {"f": f}, "p")
    whole = product.compile(query, models)
    assert whole.query.inputs == 128
    result = verify(whole.model, whole.query, timeout=20)
    assert result.verdict == "sat" and result.witness is not None
    holds, y = product.check(query, models, whole.expand(result.witness.x))
    assert holds and y[3] > y[0]


def test_hidden_values_are_outputs() -> None:
    f = named(mlp([3, 6, 2], seed=4), "f")
    box = "".join(f"(assert (and (>= X[0,{i}] -1.0) (<= X[0,{i}] 1.0)))" for i in range(3))
    head = (
        "(vnnlib-version <2.0>)(declare-network f (declare-input X float32 [1,3])"
        '(declare-hidden H float32 [1,6] "{}") (declare-output Y float32 [1,2]))'
    )
    query = vnnlib.parse(head.format("relu0") + box + "(assert (<= H[0,5] -0.01))", "p")
    models = product.models_of(query, {"f": f}, "p")
    whole = product.compile(query, models)
    assert verify(whole.model, whole.query, timeout=20).verdict == "unsat"  # a ReLU's value
    query = vnnlib.parse(head.format("relu0") + box + "(assert (> H[0,5] 0.1))", "p")
    whole = product.compile(query, models)
    result = verify(whole.model, whole.query, timeout=20)
    assert result.verdict == "sat" and result.witness is not None
    assert product.check(query, models, result.witness.x)[0]
    with pytest.raises(UnsupportedError, match="hidden 'H' stands for 'nothing'"):
        product.compile(vnnlib.parse(head.format("nothing") + box + "(assert (< H[0,5] 0.0))", "p"), models)


def test_models_and_networks_must_match() -> None:
    query = twins(0.1, 0.5)
    f = named(mlp([3, 5, 2]), "f.onnx")
    with pytest.raises(InputError, match=r"no model for the network 'g': given f .*g=FILE.onnx"):
        product.models_of(query, {"f": f}, "p")
    with pytest.raises(InputError, match="no network 'h'"):
        product.models_of(query, {"f": f, "g": f, "h": f}, "p")
    with pytest.raises(InputError, match=r"'U' of the network 'g' has 3 elements, other.onnx 4"):
        product.models_of(query, {"f": f, "g": named(mlp([4, 5, 2]), "other.onnx")}, "p")


@st.composite
def ordered(draw: st.DrawFn) -> str:
    """A query about a network twice, whose inputs are equal, ordered or free; and a condition over everything."""
    lines = [
        "(vnnlib-version <2.0>)",
        "(declare-network f (declare-input X real [3]) (declare-output Y real [2]))",
        "(declare-network g (equal-to f) (declare-input U real [3]) (declare-output V real [2]))",
    ]
    for i in range(3):
        for v in "XU":
            low, high = sorted(draw(st.tuples(st.integers(-4, 4), st.integers(-4, 4))))
            lines.append(f"(assert (and (>= {v}[{i}] {low / 4}) (<= {v}[{i}] {high / 4})))")
        relation = draw(
            st.sampled_from([f"(== X[{i}] U[{i}])", f"(<= X[{i}] U[{i}])", f"(>= X[{i}] U[{i}])", ""])
        )
        lines += [f"(assert {relation})"] if relation else []
    more = st.sampled_from(
        [
            "(<= X[0] X[1])",
            "(>= U[2] X[1])",
            "(<= (+ U[0] X[1]) 0.5)",
            "(>= Y[0] V[1])",
            "(< (- V[0] U[1]) 0.25)",
        ]
    )
    for _ in range(draw(st.integers(0, 3))):
        parts = draw(st.lists(more, min_size=1, max_size=2))
        lines.append(f"(assert ({draw(st.sampled_from(['and', 'or']))} {' '.join(parts)}))")
    return "\n".join(lines)


@given(ordered(), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_the_product_asks_the_same_of_every_point(text: str, random: Random) -> None:
    """Exactly: where the original's inputs are those that the product's stand for, both hold or neither does. And what
    the product cannot stand for, the original does not allow."""
    query = vnnlib.parse(text, "p")
    f = named(mlp([3, 4, 2], seed=1), "f")
    whole = product.compile(query, product.models_of(query, {"f": f}, "p"))
    layout = whole.layout
    for _ in range(40):
        z = [Fraction(random.randint(-4, 4), 4) for _ in range(layout.count)]
        y = [Fraction(random.randint(-4, 4), 4) for _ in range(4)]
        x = [
            z[base] + (z[place] if place != base else 0)
            for place, base in zip(layout.places, layout.bases, strict=True)
        ]
        assert query.formula.holds(x, y) == whole.query.formula.holds(z, y)
        assert layout.expand(np.array(z, float), np.float64).tolist() == [float(v) for v in x]
    for _ in range(40):
        x = [Fraction(random.randint(-4, 4), 4) for _ in range(6)]
        own = [None] * layout.count
        for value, place, base in zip(x, layout.places, layout.bases, strict=True):
            own[place] = value if place == base else own[place]
        for value, place, base in zip(x, layout.places, layout.bases, strict=True):
            own[place] = value - own[base] if place != base else own[place]
        stood_for = [
            own[base] + (own[place] if place != base else 0)
            for place, base in zip(layout.places, layout.bases, strict=True)
        ]
        if stood_for != x:
            assert not query.formula.holds(x, [Fraction(0)] * 4)


def test_an_input_above_another_is_that_one_and_a_step() -> None:
    """Monotone networks are proved so: without the step, boxes would have to be as small as the tolerance."""
    f = mlp([2, 6, 1], seed=3)
    for tensor in f.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.abs(numpy_helper.to_array(tensor)), tensor.name))
    lines = [
        "(vnnlib-version <2.0>)",
        "(declare-network f (declare-input X float32 [1,2]) (declare-output Y float32 [1,1]))",
        "(declare-network g (equal-to f) (declare-input U float32 [1,2]) (declare-output V float32 [1,1]))",
        *(f"(assert (and (>= {v}[0,{i}] -1.0) (<= {v}[0,{i}] 1.0)))" for v in "XU" for i in range(2)),
        "(assert (<= X[0,0] U[0,0]))",
        "(assert (== X[0,1] U[0,1]))",
    ]
    for condition, expected in (
        ("(<= V[0,0] (- Y[0,0] 0.01))", "unsat"),
        ("(>= V[0,0] (+ Y[0,0] 0.01))", "sat"),
    ):
        query = vnnlib.parse("\n".join([*lines, f"(assert {condition})"]), "p")
        models = product.models_of(query, {"f": named(f, "f")}, "p")
        whole = product.compile(query, models)
        assert whole.query.inputs == 3
        result = verify(whole.model, whole.query, timeout=20)
        assert result.verdict == expected
        if result.witness is not None:
            assert product.check(query, models, whole.expand(result.witness.x))[0]


def test_the_products_property_is_a_plain_list_of_assertions() -> None:
    """An assertion a line, none that is always true: what verifiers with small readers know."""
    f = named(mlp([3, 6, 2], seed=4), "f")
    query = twins(0.25, 0.5)
    whole = product.compile(query, [f, named(mlp([3, 6, 2], seed=5), "g")])
    lines = [line for line in vnnlib.to_text(whole.query).splitlines() if line.startswith("(assert")]
    assert lines[:3] == ["(assert (>= X_0 -0.5))", "(assert (<= X_0 0.5))", "(assert (>= X_1 -0.5))"]
    assert len(lines) == 7 and lines[6] == (
        "(assert (or (<= (- Y_2 Y_0) -0.25) (<= (- Y_0 Y_2) -0.25) (<= (- Y_3 Y_1) -0.25) (<= (- Y_1 Y_3) -0.25)))"
    )
