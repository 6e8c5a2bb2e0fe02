"""Formula, regions and text say the same: random formulas, judged point by point in exact arithmetic."""

from __future__ import annotations

import contextlib
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.formats import decimals, vnnlib
from secateur.formats.errors import SecateurError
from secateur.formats.query import And, Atom, Clause, Formula, Or, Query, Region, written
from secateur.formats.vnnlib_normalise import outward

INPUTS, OUTPUTS = 2, 2

# Multiples of 1/4 in a small range: exact in float64, so that regions are exact, and ties are common.
quarters = st.integers(-8, 8).map(lambda n: Fraction(n, 4))


def coefficients(count: int) -> st.SearchStrategy[dict[int, Fraction]]:
    return st.dictionaries(st.integers(0, count - 1), quarters.filter(bool), max_size=count)


atoms = st.builds(Atom, coefficients(INPUTS), coefficients(OUTPUTS), quarters, st.booleans())
bounds = st.builds(
    lambda index, sign, value, strict: Atom({index: Fraction(sign)}, {}, value, strict),
    st.integers(0, INPUTS - 1),
    st.sampled_from((-1, 1)),
    quarters,
    st.booleans(),
)
formulas: st.SearchStrategy[Formula] = st.recursive(
    st.one_of(atoms, bounds),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: And(tuple(parts))),
        st.lists(inner, max_size=3).map(lambda parts: Or(tuple(parts))),
    ),
    max_leaves=12,
)
points = st.lists(quarters, min_size=INPUTS + OUTPUTS, max_size=INPUTS + OUTPUTS)

BOUNDED = [
    Atom({index: Fraction(sign)}, {}, Fraction(-2)) for index in range(INPUTS) for sign in (-1, 1)
]  # -2 <= x <= 2


def query_of(formula: Formula) -> Query:
    return vnnlib.parse(vnnlib.formula_text(And((*BOUNDED, formula)), INPUTS, OUTPUTS), "p")


def clause_holds(clause: Clause, x: np.ndarray, y: np.ndarray) -> bool:  # type: ignore[type-arg]
    values = clause.inputs @ x + clause.outputs @ y + clause.constant
    return bool(np.where(clause.strict, values < 0, values <= 0).all())


def region_holds(region: Region, point: list[Fraction]) -> bool:
    x = np.array([float(v) for v in point[:INPUTS]])
    y = np.array([float(v) for v in point[INPUTS:]])
    return (
        bool((region.lower <= x).all() and (x <= region.upper).all())
        and clause_holds(region.relations, x, y)
        and any(clause_holds(clause, x, y) for clause in region.clauses)
    )


def weaken(formula: Formula) -> Formula:
    """Bounds on single inputs made non-strict, as the boxes of regions are."""
    if isinstance(formula, Atom):
        single = len(formula.inputs) == 1 and not formula.outputs
        return Atom(formula.inputs, formula.outputs, formula.constant, formula.strict and not single)
    return type(formula)(tuple(weaken(part) for part in formula.parts))


@settings(max_examples=300, deadline=None)
@given(formulas, st.lists(points, min_size=1, max_size=20))
def test_regions_mean_the_formula(formula: Formula, samples: list[list[Fraction]]) -> None:
    query = query_of(formula)
    weak = weaken(query.formula)
    for point in samples:
        inside = any(region_holds(region, point) for region in query.regions)
        exact = query.formula.holds(point[:INPUTS], point[INPUTS:])
        assert inside or not exact  # regions cover the formula …
        assert not inside or weak.holds(point[:INPUTS], point[INPUTS:])  # … and add its box's faces at most


@settings(max_examples=300, deadline=None)
@given(formulas)
def test_text_round_trip(formula: Formula) -> None:
    query = query_of(formula)
    text = vnnlib.to_text(query)
    again = vnnlib.parse(text, "p")
    assert again.formula == query.formula == And((*BOUNDED, formula))
    assert vnnlib.to_text(again) == text
    assert len(again.regions) == len(query.regions)
    for left, right in zip(again.regions, query.regions, strict=True):
        assert left.lower.tobytes() == right.lower.tobytes() and left.upper.tobytes() == right.upper.tobytes()
        assert len(left.clauses) == len(right.clauses)


@settings(max_examples=200, deadline=None)
@given(formulas, st.lists(points, min_size=1, max_size=20))
def test_the_2_0_twin_means_the_same(formula: Formula, samples: list[list[Fraction]]) -> None:
    query = query_of(formula)
    text = vnnlib.to_text(query, version="2.0")
    twin = vnnlib.parse(text, "p")
    assert twin.version == "2.0" and vnnlib.to_text(twin, version="2.0") == text
    assert len(twin.regions) == len(query.regions)
    for left, right in zip(twin.regions, query.regions, strict=True):
        assert left.lower.tobytes() == right.lower.tobytes() and left.upper.tobytes() == right.upper.tobytes()
        assert len(left.clauses) == len(right.clauses)
    for point in samples:
        holds = query.formula.holds(point[:INPUTS], point[INPUTS:])
        assert twin.formula.holds(point[:INPUTS], point[INPUTS:]) == holds
    back = vnnlib.parse(vnnlib.to_text(twin), "p")
    assert vnnlib.to_text(back, version="2.0") == text


@settings(max_examples=200, deadline=None)
@given(formulas)
def test_no_two_regions_share_a_box(formula: Formula) -> None:
    boxes = [
        (region.lower.tobytes(), region.upper.tobytes())
        for region in query_of(formula).regions
        if not len(region.relations)
    ]
    assert len(set(boxes)) == len(boxes)


numbers = st.one_of(
    st.integers(-40, 40).map(lambda n: f"{n / 16}"),
    st.floats(-3, 3).map(repr),
    st.floats(-3, 3, width=32).map(lambda v: vnnlib.decimal(Fraction(v))),
    st.tuples(st.integers(-2, 2), st.integers(0, 10**20)).map(lambda parts: f"{parts[0]}.{parts[1]:020d}"),
    st.sampled_from(
        ["-0.0", "+.5", "1.", "1e-400", "-1e-400", "5e-324", "1.7976931348623157e308", "1e309", "-1E+309"]
    ),
)
listed = st.tuples(st.integers(0, INPUTS - 1), st.sampled_from(["<=", ">="]), numbers)


def read_or_refused(text: str) -> Query | str:
    try:
        return vnnlib.parse(text, "p")
    except SecateurError as error:
        return str(error)


@settings(max_examples=300, deadline=None)
@given(st.lists(listed, max_size=4), st.permutations(range(2 * INPUTS)), st.data())
def test_listed_bounds_are_read_as_any_formula_is(
    more: list[tuple[int, str, str]], order: list[int], data: st.DataObject
) -> None:
    """The bounds of an image are read, rounded and judged in bulk: as one by one."""
    plain = [(i, relation, data.draw(numbers)) for i in range(INPUTS) for relation in (">=", "<=")]
    bounds = [plain[i] for i in order] + more
    head = "".join(f"(declare-const X_{i} Real)(declare-const Y_{i} Real)" for i in range(INPUTS))
    bulk = read_or_refused(head + "".join(f"(assert ({r} X_{i} {n}))\n" for i, r, n in bounds))
    single = read_or_refused(head + "".join(f"(assert (and ({r} X_{i} {n})))\n" for i, r, n in bounds))
    if isinstance(bulk, str) or isinstance(single, str):
        assert bulk == single
        return
    assert bulk.formula.parts == tuple(
        part.parts[0] for part in single.formula.parts if isinstance(part, And)
    )
    for left, right in zip(bulk.regions, single.regions, strict=True):
        for side in ("lower", "upper", "nearest_lower", "nearest_upper"):
            assert getattr(left, side).tobytes() == getattr(right, side).tobytes()
    ends = [v for _, _, n in bounds if np.isfinite(v := float(n))] or [0.0]
    near = st.sampled_from(ends).flatmap(
        lambda v: st.sampled_from([v, *np.nextafter(v, [-9.0, 9.0]).tolist()])
    )
    x = data.draw(st.lists(near, min_size=INPUTS, max_size=INPUTS))
    exact = bulk.formula.holds(written(x), [Fraction(0)] * OUTPUTS)
    assert bulk.holds(x, [0.0] * OUTPUTS) == single.holds(x, [0.0] * OUTPUTS) == exact


@settings(max_examples=300)
@given(numbers)
def test_decimals_lie_between_their_neighbours(word: str) -> None:
    exact, down, nearest, up = decimals.number(word)
    assert Fraction(exact) == Fraction(word) and nearest == float(word)
    if np.isfinite(nearest):
        for rounded, upward in ((down, False), (up, True)):
            with contextlib.suppress(OverflowError):
                assert repr(rounded) == repr(outward(Fraction(word), up=upward))


@given(st.fractions(), st.booleans())
def test_outward(value: Fraction, up: bool) -> None:
    rounded = Fraction(outward(value, up=up))
    assert rounded >= value if up else rounded <= value
    assert abs(rounded - value) <= abs(value) * Fraction(1, 2**52) + Fraction(1, 10**320)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_an_exact_decimal(value: float) -> None:
    text = vnnlib.decimal(Fraction(value))
    assert Fraction(text) == Fraction(value)
    assert outward(Fraction(value), up=True) == outward(Fraction(value), up=False) == value


@given(st.text(alphabet='()<=>+-*/ \nXY_01.e;|ad"rsetonlc', max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    head = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= 0 X_0 1))"
    for source in (text, head + text):
        with contextlib.suppress(SecateurError):
            vnnlib.parse(source, "p")
