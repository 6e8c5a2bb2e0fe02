"""VNN-LIB 1.0: what is read, what is refused and where, and the shared benchmark files."""

from __future__ import annotations

import gzip
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from secateur.formats import vnnlib
from secateur.formats.errors import InputError, SecateurError, UnsupportedError
from secateur.formats.query import And, Atom, Or

HEAD = (
    "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
)
BOX = "".join(f"(assert (>= X_{i} -1))\n(assert (<= X_{i} 1))\n" for i in (0, 1))


def test_bounds_and_outputs() -> None:
    query = vnnlib.parse(HEAD + BOX + "(assert (<= Y_0 Y_1))(assert (> Y_1 1e-3))", "p")
    assert (query.inputs, query.outputs) == (2, 2)
    [region] = query.regions
    assert region.lower.tolist() == [-1, -1] and region.upper.tolist() == [1, 1]
    [clause] = region.clauses
    assert clause.outputs.tolist() == [[1, -1], [0, -1]]
    assert clause.constant.tolist() == [0, 0.001]
    assert clause.strict.tolist() == [False, True]
    assert len(region.relations) == 0
    assert query.holds([0, 0], [0.5, 0.5]) and not query.holds([0, 0], [0.5, 0.4])
    assert not query.holds([1.5, 0], [0.5, 0.5])


def test_numbers_are_exact_and_boxes_rounded_outward() -> None:
    query = vnnlib.parse(HEAD + BOX + "(assert (<= X_0 0.1))(assert (>= X_1 0.1))", "p")
    [region] = query.regions
    assert Fraction(float(region.upper[0])) >= Fraction(1, 10)
    assert Fraction(float(region.lower[1])) <= Fraction(1, 10)
    assert abs(region.upper[0] - 0.1) < 1e-16 and abs(region.lower[1] - 0.1) < 1e-16
    assert region.upper[0] > region.lower[1]  # 0.1 is no float64: the two sides lie on either side of it


@pytest.mark.parametrize(
    ("bound", "holds"),
    [
        ("(<= X_0 0.1)", True),
        ("(>= X_0 0.1)", True),
        ("(<= X_0 0.09999999999999999999)", False),
        ("(>= X_0 0.09999999999999999999)", True),
        ("(<= X_0 0.10000000000000000001)", True),
        ("(>= X_0 0.10000000000000000001)", False),
        ("(>= X_0 0.1000000000000000055511151231257827)", False),  # what the float64 is
        ("(< X_0 0.1)", False),
    ],
)
def test_a_witness_is_its_shortest_decimal(bound: str, holds: bool) -> None:
    """All these bounds have the same nearest float64 as the input."""
    assert vnnlib.parse(HEAD + BOX + f"(assert {bound})", "p").holds([0.1, 0], [0, 0]) is holds


def test_shared_bounds_are_factored_out() -> None:
    text = HEAD + BOX + "(assert (or (and (<= Y_0 Y_1)) (and (>= Y_0 3) (<= Y_1 2)) (<= Y_0 Y_1)))"
    [region] = vnnlib.parse(text, "p").regions
    assert [len(clause) for clause in region.clauses] == [1, 2]


def test_boxes_and_outputs_multiply() -> None:
    text = (
        HEAD
        + BOX
        + "(assert (or (<= X_0 0) (and (>= X_0 0.5) (<= X_1 0))))(assert (or (<= Y_0 0) (<= Y_1 0)))"
    )
    regions = vnnlib.parse(text, "p").regions
    assert [(r.lower.tolist(), r.upper.tolist(), len(r.clauses)) for r in regions] == [
        ([-1, -1], [0, 1], 2),
        ([0.5, -1], [1, 0], 2),
    ]


def test_empty_boxes_are_dropped() -> None:
    assert vnnlib.parse(HEAD + BOX + "(assert (<= X_0 -2))", "p").regions == ()
    assert vnnlib.parse(HEAD + BOX + "(assert (< X_0 -1))", "p").regions == ()
    assert len(vnnlib.parse(HEAD + BOX + "(assert (<= X_0 -1))", "p").regions) == 1
    assert vnnlib.parse(HEAD + BOX + "(assert (or (<= X_0 -2) (>= X_1 1.5)))", "p").regions == ()


def test_relations_and_arithmetic() -> None:
    text = HEAD + BOX + "(assert (<= (+ (* 2 X_0) (- X_1) 0.5) (- (* X_0 1) -1)))(assert (<= 0 (* -2 X_0)))"
    [region] = vnnlib.parse(text, "p").regions
    assert region.relations.inputs.tolist() == [[1, -1]] and region.relations.constant.tolist() == [-0.5]
    assert region.upper.tolist() == [0, 1]
    assert [len(clause) for clause in region.clauses] == [0]


def test_equality_and_chains() -> None:
    query = vnnlib.parse(HEAD + BOX + "(assert (= X_0 0.25))(assert (<= -1 Y_0 Y_1 3))", "p")
    [region] = query.regions
    assert region.lower[0] == region.upper[0] == 0.25
    assert len(region.clauses[0]) == 3
    assert query.holds([0.25, 0], [0, 3]) and not query.holds([0.25, 0], [0, 4])


def test_layout_is_free() -> None:
    text = (
        "; first\r\n(set-logic QF_LRA)(declare-fun Y_0 () Real)\r\n( declare-const X_0 Real ) ; second\r\n"
        "(set-info :source |a (b|)(assert\r\n ( and ; third\r\n (<= X_0 +1.) (>= X_0 -.5E+0)))"
        "(assert (< Y_0 0))(check-sat)"
    )
    query = vnnlib.parse(text, "p")
    assert query.regions[0].lower.tolist() == [-0.5] and query.regions[0].upper.tolist() == [1.0]
    assert query.comments == ("first", "second", "third")
    bounds = And((Atom({0: Fraction(1)}, {}, Fraction(-1)), Atom({0: Fraction(-1)}, {}, Fraction(-1, 2))))
    assert query.formula == And((bounds, Atom({}, {0: Fraction(1)}, Fraction(0), strict=True)))


def test_layout_of_bounds_is_free() -> None:
    plain = vnnlib.parse(HEAD + BOX + "(assert (<= Y_0 0))", "p")
    text = "".join(f"(declare-const {v} Real)" for v in ("Y_1", "X_1", "X_0", "Y_0")) + (
        "(assert(<= X_1 1.0e0))( assert\t( >= X_0 -1 ) );(assert (<= X_0 0))\r\n"
        "(assert (<= Y_0 0))(assert (>= X_1 -1.))(assert (<= X_0\n; not yet\n +01))"
    )
    query = vnnlib.parse(text, "p")
    assert query.comments == ("(assert (<= X_0 0))", "not yet")
    [region], [expected] = query.regions, plain.regions
    assert (
        region.lower.tolist() == expected.lower.tolist() and region.upper.tolist() == expected.upper.tolist()
    )


def test_read_finds_the_compressed_file(tmp_path: Path) -> None:
    text = HEAD + BOX + "(assert (<= Y_0 0))"
    (tmp_path / "p.vnnlib.gz").write_bytes(gzip.compress(text.encode("utf-8-sig")))
    query = vnnlib.read(str(tmp_path / "p.vnnlib"), inputs=2, outputs=2)
    assert query.formula == vnnlib.parse(text, "p").formula
    with pytest.raises(InputError, match="declares 2 inputs, the network has 5"):
        vnnlib.read(str(tmp_path / "p.vnnlib"), inputs=5, outputs=2)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("(assert (<= X_0 1))", InputError, r"p:1: 'X_0' is neither a number nor a declared variable"),
        (HEAD + "\n(assert (<= X_0 nan))", InputError, r"p:6: 'nan' is neither a number"),
        (HEAD + "(assert (<= X_0 1)", InputError, r"p:5: this '\(' is never closed"),
        (HEAD + "(assert (<= X_0 1)))", InputError, r"p:5: expected '\(' or a comment, found '\)'"),
        (HEAD + "(assert (<= X_0 1) (<= X_0 1))", InputError, r"p:5: 'assert' takes 1 formula, found 2"),
        (HEAD + "(assert (<= X_0))", InputError, r"p:5: '<=' takes 2 terms, found 1"),
        (HEAD + "(assert X_0)", InputError, r"p:5: expected a comparison, 'and' or 'or', found 'X_0'"),
        (HEAD + "(assert (le X_0 1))", InputError, r"p:5: expected a comparison, 'and' or 'or', found 'le'"),
        (HEAD + "(assert ())", InputError, r"p:5: expected an operator"),
        (
            HEAD + "(prove (<= X_0 1))",
            InputError,
            r"p:5: expected 'declare-const' or 'assert', found 'prove'",
        ),
        (HEAD + "(assert (<= X_0 1e999999999))", InputError, r"p:5: the number '1e999999999' is too large"),
        (
            HEAD + "(assert (<= X_0 " + "1" * 5000 + "))",
            InputError,
            r"p:5: the number '1+…' is too large or too long",
        ),
        (HEAD + "(assert (<= (/ X_0 0) 1))", InputError, r"p:5: division by zero"),
        (
            HEAD + BOX + "\n(assert\n(<= X_2 1))",
            InputError,
            r"p:11: 'X_2' is neither a number nor a declared",
        ),
        (HEAD + BOX.replace("X_1 1)", "X_1 1e401)"), InputError, r"p:8: the number '1e401' is too large"),
        (HEAD + BOX.replace("X_1 1)", "X_01 1)"), InputError, r"p:8: 'X_01' is neither a number nor"),
        (HEAD + "(declare-const X_0 Real)", InputError, r"p:5: declares X_0 a second time"),
        (HEAD + "\n; twice\n" + HEAD, InputError, r"p:7: declares X_0 a second time"),
        (HEAD + "(declare-const X_02 Real)", InputError, r"p:5: declares 'X_02': expected X_0"),
        (HEAD + "(declare-const Z_0 Real)", InputError, r"p:5: declares 'Z_0': expected X_0"),
        (HEAD + "(declare-const X_3 Real)", InputError, r"p: declares 3 inputs but not X_2"),
        (HEAD + "(declare-const X_2)", InputError, r"p:5: malformed 'declare-const'"),
        ("(declare-const X_0 Real)", InputError, r"p: declares no output variable"),
        ("; nothing", InputError, r"p: declares no input variable"),
        (
            "onnx/a.onnx,vnnlib/p.vnnlib,60",
            InputError,
            r"p:1: expected '\(' or a comment, found 'onnx/a.onnx",
        ),
        (HEAD + "(assert (<= Y_0 1))", InputError, r"p: input X_0 has no lower bound"),
        (HEAD + BOX.replace("(<= X_1 1)", "(<= X_1 X_0)"), InputError, r"p: input X_1 has no upper bound"),
        (
            HEAD + BOX.replace("(<= X_1 1)", "(<= X_1 1e309)"),
            InputError,
            r"upper bound of X_1 lies beyond float64",
        ),
        ("(declare-const X_0 Int)", UnsupportedError, r"p:1: X_0 has type Int: expected Real"),
        (
            "(declare-const X_0 Real)(vnnlib-version <2.0>)",
            UnsupportedError,
            r"p:1: 'vnnlib-version' is VNN-LIB 2.0",
        ),
        (HEAD + "(assert (not (<= X_0 1)))", UnsupportedError, r"p:5: 'not' is not supported"),
        (HEAD + "(assert (<= (* X_0 X_1) 1))", UnsupportedError, r"p:5: a product of two variables"),
        (HEAD + "(assert (<= (/ 1 X_1) 1))", UnsupportedError, r"p:5: division by a variable"),
        (HEAD + "(assert (<= (sin X_1) 1))", UnsupportedError, r"p:5: 'sin' in a term"),
        (HEAD + "(assert " + "(and " * 300 + ")" * 301, UnsupportedError, r"p:5: nested more than 200 deep"),
    ],
)
def test_refusals(text: str, kind: type[SecateurError], message: str) -> None:
    with pytest.raises(kind, match=message):
        vnnlib.parse(text, "p")


def test_exponential_formulas_are_refused() -> None:
    text = HEAD + BOX + "".join(f"(assert (or (<= Y_0 {k}) (<= Y_1 {k})))\n" for k in range(30))
    with pytest.raises(UnsupportedError, match=r"at least 65536 cases .* at most 50000"):
        vnnlib.parse(text, "p")


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "p.vnnlib").write_bytes(b"\x08\x07\xff\xfe")
    with pytest.raises(InputError, match="not text: byte 2 is not UTF-8"):
        vnnlib.read(str(tmp_path / "p.vnnlib"))


def test_text_is_what_other_tools_read() -> None:
    text = HEAD + BOX + "(assert (or (and (>= Y_1 Y_0)) (and (< Y_0 0.25) (>= Y_1 1e-3))))\n"
    written = vnnlib.to_text(vnnlib.parse(text, "p"), comments=["robust", "two\nlines"])
    assert written == "; robust\n; two\n; lines\n" + HEAD + BOX.replace("-1)", "-1.0)").replace(
        " 1)", " 1.0)"
    ) + ("(assert (or (and (<= Y_0 Y_1)) (and (< Y_0 0.25) (>= Y_1 0.001))))\n")


def test_a_third_is_no_decimal_and_is_multiplied_out() -> None:
    query = vnnlib.parse(HEAD + BOX + "(assert (<= Y_0 (/ 1 3)))", "p")
    again = vnnlib.parse(vnnlib.to_text(query), "p")
    for y, holds in ((0.33333, True), (1 / 3, True), (0.33334, False)):
        assert query.holds([0.5, 0.5], [y, 0.0]) == again.holds([0.5, 0.5], [y, 0.0]) == holds
    with pytest.raises(UnsupportedError, match="1/3 is no finite decimal"):
        vnnlib.decimal(Fraction(1, 3))


def test_time_of_a_large_property() -> None:
    """3,072 inputs, each bound another number: 0.1 s here; the limit leaves room for slow machines."""
    values = np.random.default_rng(0).random(3072)
    text = "".join(f"(declare-const X_{i} Real)\n" for i in range(3072)) + "".join(
        f"(declare-const Y_{i} Real)\n" for i in range(10)
    )
    text += "".join(f"(assert (<= X_{i} {v + 0.1}))\n(assert (>= X_{i} {v}))\n" for i, v in enumerate(values))
    text += "(assert (or" + "".join(f"(and (>= Y_{i} Y_0))\n" for i in range(1, 10)) + "))\n"
    start = time.perf_counter()
    query = vnnlib.parse(text, "p")
    assert time.perf_counter() - start < 2
    assert len(query.regions) == 1 and len(query.regions[0].clauses) == 9


@pytest.mark.data
def test_every_shared_property(shared_data: Path) -> None:
    """Each is read, has the boxes it must have, and survives being written."""
    paths = sorted((shared_data / "benchmarks").glob("**/*.vnnlib.gz"))
    assert len(paths) > 400
    for path in paths:
        query = vnnlib.read(str(path))
        assert isinstance(query.formula, And)
        assert len(query.regions) == (2 if path.name.startswith("prop_6.") else 1), path
        for region in query.regions:
            assert region.lower.shape == region.upper.shape == (query.inputs,)
            assert (region.lower <= region.upper).all()
            assert all(clause.outputs.shape[1] == query.outputs for clause in region.clauses)
        if query.inputs < 1000:
            assert vnnlib.parse(vnnlib.to_text(query), str(path)).formula == query.formula


@pytest.mark.data
def test_acasxu_property_6(shared_data: Path) -> None:
    query = vnnlib.read(str(shared_data / "benchmarks/acasxu/vnnlib/prop_6.vnnlib"), inputs=5, outputs=5)
    assert [len(region.clauses) for region in query.regions] == [4, 4]
    assert isinstance(query.formula, And) and all(isinstance(part, Or) for part in query.formula.parts)
    assert query.regions[1].upper[1] == pytest.approx(-0.11140846)
