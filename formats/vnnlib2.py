"""VNN-LIB 2.0 properties: read by the official parser into the query normal form, and written from it.

The parser (the package `vnnlib`) checks syntax and types and names what is wrong. Its gaps are worked around before it
sees the text: it knows no scientific notation, no `.5`, and takes `1` for no number of a real type. The numbers
themselves are read exactly, from how they are written. Standard: https://www.vnnlib.org, version 2.0.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from secateur.formats.errors import InputError, SecateurError, UnsupportedError
from secateur.formats.query import NO_BOUNDS, And, Atom, Formula, Network, Or, Query, Variable
from secateur.formats.vnnlib_joint import joint_regions

Terms = dict[int, Fraction]
"""Coefficients by variable: an input's number, or −1 − an output's."""

_HEADER = re.compile(r"(?:\s|;[^\n]*(?:\n|\Z))*\(\s*vnnlib-version\b")
_VERSION = re.compile(r"(\(\s*vnnlib-version\s*<\s*)(\d+)\.(\d+)(\s*>)")
# Numbers stand between blanks and brackets; what stands in strings, comments, indices and versions is none.
_LEXEME = re.compile(
    r"""(?P<skip>;[^\n]*|"[^"]*"|\[[^\]]*\]|<\s*\d+\.\d+\s*>)"""
    r"|(?<=[\s(])(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?=[\s)])"
)
_INTEGERS = re.compile(r"\b(?:u?int(?:8|16|32|64)|[iu](?:8|16|32|64))\b")
_MAX_EXPONENT = 400
_DTYPES = {
    "Unknown": "real",  # "Real", as the standard's examples write it
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "BF16": "bfloat16",
}


def is_version_2(text: str) -> bool:
    """Whether `text` declares a VNN-LIB version, which 1.0 never does."""
    return _HEADER.match(text) is not None


def parse(text: str, name: str, *, sha256: str | None = None) -> Query:
    """The query in VNN-LIB 2.x `text`; `name` is what messages call it.

    Raises:
        InputError: malformed or ill-typed text (with its line), an unbounded input.
        UnsupportedError: another major version, products of variables, too many cases.
    """
    import vnnlib

    try:
        tree = vnnlib.parse_query_string(_palatable(text, name))
    except vnnlib.VNNLibException as error:
        raise _refusal(str(error), name) from None
    networks = tuple(_network(network) for network in tree.networks)
    reader = _Reader(networks, name)
    formula = And(tuple(reader.formula(assertion.expr) for assertion in tree.assertions))
    inputs, outputs = (sum(getattr(n, side) for n in networks) for side in ("inputs", "outputs"))
    return Query(
        networks,
        NO_BOUNDS,
        formula.parts,
        joint_regions(formula, inputs, outputs, name),
        sha256 or hashlib.sha256(text.encode()).hexdigest(),
        name,
        tuple(found[1].strip() for found in re.finditer(r"^;([^\n]*)$", text, re.MULTILINE)),
        "2.0",
    )


def _palatable(text: str, name: str) -> str:
    """The text as the parser takes it, line by line the same: minor version 0, numbers as plain decimals."""
    version = _VERSION.search(text)
    if version is not None and version[2] != "2":
        raise UnsupportedError(
            f"VNN-LIB {version[2]}.{version[3]}: expected 2.x",
            where=f"{name}:{text.count(chr(10), 0, version.start()) + 1}",
        )
    text = _VERSION.sub(r"\g<1>\2.0\4", text, count=1)
    whole = _INTEGERS.search(text) is not None  # then an integer may be meant as one

    def plain(found: re.Match[str]) -> str:
        number = found["number"]
        if number is None:
            return found[0]
        try:
            return decimal(number, whole)
        except ValueError as error:
            raise InputError(
                str(error), where=f"{name}:{text.count(chr(10), 0, found.start()) + 1}"
            ) from None

    return _LEXEME.sub(plain, text)


def decimal(number: str, whole: bool = False) -> str:
    """`number` as a plain decimal of the same value; integers stay integers where `whole`.

    Raises:
        ValueError: an exponent that no float has.
    """
    mantissa, _, exponent = number.lower().partition("e")
    if exponent and abs(int(exponent)) > _MAX_EXPONENT:
        raise ValueError(f"number '{number}': its exponent is beyond any float's")
    sign = "-" if mantissa.startswith("-") else ""
    before, dot, after = mantissa.lstrip("+-").partition(".")
    if not exponent and not dot:
        return f"{sign}{before}" if whole else f"{sign}{before}.0"
    shift = int(exponent or 0)
    if shift > 0:
        before, after = before + after[:shift].ljust(shift, "0"), after[shift:]
    elif shift < 0:
        before, after = before.rjust(1 - shift, "0")[:shift], before.rjust(-shift, "0")[shift:] + after
    return f"{sign}{before.lstrip('0') or '0'}.{after or '0'}"


def _refusal(text: str, name: str) -> SecateurError:
    """The parser's error as ours: the first of its errors, with line and hint."""
    try:
        first = json.loads(text)["errors"][0]
    except (ValueError, LookupError):
        found = re.search(r"at line (\d+), column (\d+): '(.*)'", text)
        if found is None:
            return InputError(f"not VNN-LIB 2.0: {text}", where=name)
        near = f"near '{found[3]}'" if found[3] else "at the end"
        return InputError(f"syntax error {near} (column {found[2]})", where=f"{name}:{found[1]}")
    message = f"{first['message']}: '{first['offendingSymbol']}'"
    return InputError(message, where=f"{name}:{first['line']}", hint=first.get("hint") or None)


def _network(declared: Any) -> Network:
    inputs, hidden, outputs = (
        tuple(
            Variable(
                variable.name,
                tuple(variable.shape),
                _DTYPES.get(variable.dtype.name, variable.dtype.name.lower()),
                (variable.onnx_name or "").strip('"'),
            )
            for variable in group
        )
        for group in (declared.inputs, declared.hidden, declared.outputs)
    )
    return Network(declared.name, inputs, outputs, hidden, declared.equal_to, declared.isometric_to)


class _Reader:
    """Turns the parser's tree into our formula."""

    def __init__(self, networks: tuple[Network, ...], name: str) -> None:
        self._name = name
        self._places: dict[tuple[str, str], tuple[int, tuple[int, ...]]] = {}
        places = [0, 0]
        for network in networks:
            for side, variables in enumerate(
                (network.input_variables, (*network.output_variables, *network.hidden))
            ):
                for variable in variables:
                    start = places[side] if side == 0 else -1 - places[side]
                    self._places[network.name, variable.name] = start, variable.shape
                    places[side] += variable.size

    def formula(self, tree: Any) -> Formula:
        kind = type(tree).__name__
        if kind in ("And", "Or"):
            parts = tuple(self.formula(part) for part in tree.args)
            return And(parts) if kind == "And" else Or(parts)
        left, right = self._linear(tree.lhs), self._linear(tree.rhs)
        below = _sum(left, right, Fraction(-1))
        above = _scaled(below, Fraction(-1))
        if kind in ("LessEqual", "LessThan"):
            return _atom(below, kind == "LessThan")
        if kind in ("GreaterEqual", "GreaterThan"):
            return _atom(above, kind == "GreaterThan")
        if kind == "Equal":
            return And((_atom(below, False), _atom(above, False)))
        return Or((_atom(below, True), _atom(above, True)))  # NotEqual

    def _linear(self, tree: Any) -> tuple[Terms, Fraction]:
        """Coefficients and constant of an expression, exact."""
        kind = type(tree).__name__
        if kind == "Var":
            start, shape = self._places[tree.network_name, tree.name]
            place = 0
            for index, size in zip(tree.indices, shape, strict=True):
                place = place * size + index
            return {start + place if start >= 0 else start - place: Fraction(1)}, Fraction(0)
        if kind == "Negate":
            return _scaled(self._linear(tree.expr), Fraction(-1))
        if kind == "Plus":
            parts = [self._linear(part) for part in tree.args]
            total = parts[0]
            for part in parts[1:]:
                total = _sum(total, part, Fraction(1))
            return total
        if kind == "Minus":
            total = self._linear(tree.head)
            for part in tree.rest:
                total = _sum(total, self._linear(part), Fraction(-1))
            return total
        if kind == "Multiply":
            total = {}, Fraction(1)
            for part in (self._linear(part) for part in tree.args):
                if total[0] and part[0]:
                    line = next(_lines(tree), None)
                    raise UnsupportedError(
                        "a product of variables: only linear conditions are understood",
                        where=self._name if line is None else f"{self._name}:{line}",
                    )
                total = _scaled(part, total[1]) if not total[0] else _scaled(total, part[1])
            return total
        return {}, Fraction(tree.lexeme)


def _lines(tree: Any) -> Iterator[int]:
    if hasattr(tree, "line"):
        yield tree.line
    for child in tree.children():
        yield from _lines(child)


def _scaled(value: tuple[Terms, Fraction], factor: Fraction) -> tuple[Terms, Fraction]:
    terms, constant = value
    return {place: part * factor for place, part in terms.items() if factor}, constant * factor


def _sum(
    left: tuple[Terms, Fraction], right: tuple[Terms, Fraction], factor: Fraction
) -> tuple[Terms, Fraction]:
    """`left + factor · right`."""
    terms = dict(left[0])
    for place, part in right[0].items():
        terms[place] = terms.get(place, Fraction(0)) + factor * part
        if not terms[place]:
            del terms[place]
    return terms, left[1] + factor * right[1]


def _atom(value: tuple[Terms, Fraction], strict: bool) -> Atom:
    terms, constant = value
    return Atom(
        {place: part for place, part in terms.items() if place >= 0},
        {-1 - place: part for place, part in terms.items() if place < 0},
        constant,
        strict,
    )
