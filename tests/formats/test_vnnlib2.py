"""VNN-LIB 2.0: what is read, exactly, and what is refused, with its line."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.formats import vnnlib, vnnlib2
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.query import NO_BOUNDS, And, Atom, Formula, Network, Or, Query, Variable

ONE = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,2]) (declare-output Y float32 [1,2]))
"""
TWO = """(vnnlib-version <2.0>)
(declare-network f (declare-input X real [2]) (declare-hidden H real [3] "relu_1") (declare-output Y real [2]))
(declare-network g (isomorphic-to f) (declare-input U real [2]) (declare-output V real [2]))
"""
BOX = "".join(f"(assert (and (>= X[0,{i}] -1.0) (<= X[0,{i}] 1.0)))\n" for i in range(2))


def read(text: str) -> Query:
    return vnnlib.parse(text, "p.vnnlib")


def test_a_property_and_its_1_0_twin_mean_the_same() -> None:
    new = read(ONE + BOX + "(assert (or (<= Y[0,0] Y[0,1]) (and (>= Y[0,0] 2.5) (< (+ X[0,1] Y[0,1]) 1.0))))")
    old = read(
        "".join(f"(declare-const {v}_{i} Real)\n" for v in "XY" for i in range(2))
        + "".join(f"(assert (>= X_{i} -1.0))\n(assert (<= X_{i} 1.0))\n" for i in range(2))
        + "(assert (or (<= Y_0 Y_1) (and (>= Y_0 2.5) (< (+ X_1 Y_1) 1.0))))"
    )
    [a], [b] = new.regions, old.regions
    np.testing.assert_array_equal(a.lower, b.lower)
    np.testing.assert_array_equal(a.upper, b.upper)
    for one, other in zip(a.clauses, b.clauses, strict=True):
        for side in ("inputs", "outputs", "constant", "strict"):
            np.testing.assert_array_equal(getattr(one, side), getattr(other, side))
    x, y = [0.5, 0.25], [3.0, 0.5]
    assert new.holds(x, y) and old.holds(x, y)
    assert not new.holds(x, [2.0, 0.5]) and not old.holds(x, [2.0, 0.5])


def test_several_networks_hidden_values_and_their_order() -> None:
    box = "".join(f"(assert (and (>= X[{i}] 0.0) (<= X[{i}] 1.0) (== X[{i}] U[{i}])))\n" for i in range(2))
    query = read(TWO + box + "(assert (and (> V[1] (+ Y[0] 0.1)) (<= H[2] 0.0)))")
    f, g = query.networks
    assert (f.inputs, f.outputs, g.inputs, g.outputs) == (
        2,
        5,
        2,
        2,
    )  # hidden values are outputs, after the others
    assert f.hidden == (Variable("H", (3,), "real", "relu_1"),)
    assert (g.isomorphic_to, g.equal_to) == ("f", "")
    # x of f, then of g; y of f with its hidden values, then of g
    assert query.holds([0.5, 1.0, 0.5, 1.0], [0.0, 9.0, 9.0, 9.0, -1.0, 0.0, 0.2])
    assert not query.holds([0.5, 1.0, 0.5, 0.9], [0.0, 9.0, 9.0, 9.0, -1.0, 0.0, 0.2])  # U is not X
    assert not query.holds([0.5, 1.0, 0.5, 1.0], [0.0, 9.0, 9.0, 9.0, 0.1, 0.0, 0.2])  # H[2] > 0
    assert not query.holds([0.5, 1.0, 0.5, 1.0], [0.2, 9.0, 9.0, 9.0, -1.0, 0.0, 0.2])


def test_inputs_tied_to_bounded_ones_are_bounded() -> None:
    box = "".join(
        f"(assert (and (>= X[{i}] 0.0) (<= X[{i}] {i + 1}.0) (== U[{i}] X[{i}])))\n" for i in range(2)
    )
    [region] = read(TWO + box + "(assert (> V[1] 0.0))").regions
    np.testing.assert_array_equal(region.lower, [0, 0, 0, 0])
    np.testing.assert_array_equal(region.upper, [1, 2, 1, 2])
    slack = region.relations.inputs @ np.array([0.5, 1.0, 0.5, 1.5]) + region.relations.constant
    assert (slack > 0).any()  # the equality is kept as a relation
    assert (region.relations.inputs @ np.array([0.5, 1.0, 0.5, 1.0]) + region.relations.constant <= 0).all()


@pytest.mark.parametrize("relation", ["==", "!=", "<", ">", "<=", ">="])
def test_comparisons(relation: str) -> None:
    query = read(ONE + BOX + f"(assert ({relation} (- Y[0,0] 1.0) (* 2.0 Y[0,1])))")
    for y in ([1.0, 0.0], [1.5, 0.0], [0.5, 0.0]):
        left, right = y[0] - 1.0, 2.0 * y[1]
        true = {
            "==": left == right,
            "!=": left != right,
            "<": left < right,
            ">": left > right,
            "<=": left <= right,
            ">=": left >= right,
        }[relation]
        assert query.holds([0.0, 0.0], y) == true


def test_numbers_that_the_official_parser_refuses_are_read_exactly() -> None:
    query = read(
        ONE + BOX.replace("-1.0", "-1").replace("1.0)", "+.1e1)") + "(assert (<= Y[0,0] 9.765625e-4))"
    )
    assert query.holds([1.0, -1.0], [2**-10, 0.0])
    assert not query.holds([1.0, -1.0], [np.nextafter(2**-10, 1), 0.0])


def test_minor_versions_and_comments() -> None:
    query = read(
        "; first\n" + ONE.replace("2.0", "2.1") + BOX + "; 1e5 in a comment\n(assert (<= Y[0,0] 1.0))"
    )
    assert query.comments == ("first", "1e5 in a comment")


@pytest.mark.parametrize(
    ("assertion", "message"),
    [
        ("(assert (<= X[0,3] 1.0))", r"^p.vnnlib:5: Index out of bounds.*'X\[0,3\]'"),
        ("(assert (<= Q[0] 1.0))", r"^p.vnnlib:5: Undeclared variable: 'Q'"),
        ("(assert (<= X[0] 1.0))", r"^p.vnnlib:5: Not enough indices"),
        ("(assert (<= X[0,0] 1.0)", r"^p.vnnlib:5: syntax error at the end"),
        ("(assert (and))", r"^p.vnnlib:5: syntax error near '\)'"),
        ("(assert (<= X[0,0] 1e999))", r"^p.vnnlib:5: number '1e999'"),
    ],
)
def test_malformed_text_is_refused_with_its_line(assertion: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(ONE + BOX + assertion)


def test_what_is_not_linear_or_of_another_version_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match=r"^p.vnnlib:5: a product of variables"):
        read(ONE + BOX + "(assert (<= (* X[0,0] Y[0,1]) 1.0))")
    with pytest.raises(UnsupportedError, match=r"^p.vnnlib:1: VNN-LIB 3.0"):
        read(ONE.replace("2.0", "3.0") + BOX)


@pytest.mark.parametrize("kind", ["int32", "int8", "Int", "float31"])
def test_variables_of_other_types_than_floats_are_unsupported(kind: str) -> None:
    """An input between 0 and 1 that need be an integer is no number of ours: it would make a wrong witness."""
    text = ONE.replace("X float32", f"X {kind}") + BOX.replace("1.0", "1") + "(assert (<= Y[0,0] 1.0))"
    with pytest.raises(
        UnsupportedError, match=r"^p.vnnlib: 'X' is of type .*: expected real or a floating-point"
    ):
        read(text)


def test_an_unbounded_input_is_refused() -> None:
    with pytest.raises(InputError, match="X_1 has no upper bound"):
        read(ONE + BOX.replace("(<= X[0,1] 1.0)", "(>= X[0,1] -2.0)") + "(assert (<= Y[0,0] 1.0))")


@given(
    st.tuples(
        st.sampled_from(["", "-", "+"]),
        st.integers(0, 10**12),
        st.text("0123456789", max_size=9),
        st.integers(-40, 40),
    )
)
def test_decimals_keep_the_value(parts: tuple[str, int, str, int]) -> None:
    sign, before, after, exponent = parts
    for number in (f"{sign}{before}", f"{sign}{before}.{after}", f"{sign}{before}.{after}e{exponent}"):
        plain = vnnlib2.decimal(number)
        assert Fraction(plain) == Fraction(number)
        assert "e" not in plain and plain.count(".") == 1
    assert vnnlib2.decimal(f"{sign}{before}", whole=True).lstrip("-").isdigit()


def test_1_0_says_what_it_cannot_say() -> None:
    box = "".join(f"(assert (and (>= X[{i}] 0.0) (<= X[{i}] 1.0) (== X[{i}] U[{i}])))\n" for i in range(2))
    query = read(TWO + box + "(assert (> V[1] (+ Y[0] 0.1)))")
    with pytest.raises(UnsupportedError, match=r"1.0 cannot say this: it is about 2 networks"):
        vnnlib.to_text(query)
    again = read(vnnlib.to_text(query, version="2.0"))
    assert (again.networks, again.formula) == (query.networks, query.formula)
    assert "(== X[0] U[0])" in vnnlib.to_text(query, version="2.0")
    hidden = '(declare-network f (declare-input X real []) (declare-hidden H real [1] "h") (declare-output Y real []))'
    text = f"(vnnlib-version <2.0>)\n{hidden}\n(assert (and (>= X 0.0) (<= X 1.0) (<= Y H[0])))"
    with pytest.raises(UnsupportedError, match="it is about the hidden value 'H'"):
        vnnlib.to_text(read(text))
    assert read(vnnlib.to_text(read(text), version="2.0")).formula == read(text).formula
    two = text.replace('(declare-hidden H real [1] "h")', "(declare-output H real [1])")
    with pytest.raises(UnsupportedError, match="the network 'f' has 2 outputs"):
        vnnlib.to_text(read(two))


numbers = st.fractions(-3, 3, max_denominator=12).filter(bool)


@st.composite
def queries(draw: st.DrawFn) -> Query:
    """One to three networks, each with one or two inputs and outputs and perhaps a hidden value, of drawn shapes, all
    of one type; every input bounded or tied to a bounded one; conditions over all of them."""
    networks: list[Network] = []
    dtype = draw(st.sampled_from(["real", "float32", "float64"]))  # one condition may not mix them
    for number in range(draw(st.integers(1, 3))):

        def variables(letter: str, most: int, number: int = number) -> tuple[Variable, ...]:
            shapes = st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=most)
            return tuple(
                Variable(f"{letter}{number}_{i}", tuple(shape), dtype) for i, shape in enumerate(draw(shapes))
            )

        hidden = tuple(replace(v, onnx_name=f"node/{v.name}") for v in variables("H", 1))
        hidden = hidden if draw(st.booleans()) else ()
        networks.append(Network(f"n{number}", variables("X", 2), variables("Y", 2), hidden))
        if number and draw(st.booleans()):  # the first network again: with its shapes
            first = networks[0]
            own = (
                tuple(replace(v, name=f"{v.name}_{number}") for v in group)
                for group in (first.input_variables, first.output_variables, first.hidden)
            )
            tie = draw(st.sampled_from(["equal_to", "isomorphic_to"]))
            networks[-1] = Network(f"n{number}", *own, **{tie: first.name})
    inputs, outputs = (sum(getattr(n, side) for n in networks) for side in ("inputs", "outputs"))

    def atom() -> Atom:
        rows = [
            draw(st.dictionaries(st.integers(0, count - 1), numbers, max_size=3))
            for count in (inputs, outputs)
        ]
        return Atom(rows[0], rows[1], draw(numbers), draw(st.booleans()))

    parts: list[Formula] = []
    for i in range(inputs):
        parts += [Atom({i: Fraction(sign)}, {}, Fraction(-2)) for sign in (-1, 1)]
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from([And, Or]))
        parts.append(kind(tuple(atom() for _ in range(draw(st.integers(0, 3))))))
    return Query(tuple(networks), NO_BOUNDS, tuple(parts), ())


@given(queries(), st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_several_networks_are_written_and_read_again(query: Query, random: Random) -> None:
    """The same declarations, the same meaning at any point, and the same text from then on."""
    text = vnnlib.to_text(query, version="2.0")
    again = read(text)
    assert again.networks == query.networks
    assert vnnlib.to_text(again, version="2.0") == text
    for _ in range(5):
        x, y = (
            [Fraction(random.randint(-8, 8), 4) for _ in range(count)]
            for count in (query.inputs, query.outputs)
        )
        assert again.formula.holds(x, y) == query.formula.holds(x, y)
