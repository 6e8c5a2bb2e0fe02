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
from secateur.formats.query import NO_BOUNDS, And, Formula, Network, Or, Query, Variable
from secateur.formats.vnnlib_joint import joint_regions
from secateur.formats.vnnlib_terms import ONE, ZERO, Linear

_HEADER = re.compile(r"(?:\s|;[^\n]*(?:\n|\Z))*\(\s*vnnlib-version\b")
_VERSION = re.compile(r"(\(\s*vnnlib-version\s*<\s*)(\d+)\.(\d+)(\s*>)")
# Numbers stand between blanks and brackets; what stands in strings, comments, indices and versions is none.
_LEXEME = re.compile(
    r"""(?P<skip>;[^\n]*|"[^"]*"|\[[^\]]*\]|<\s*\d+\.\d+\s*>)"""
    r"|(?<=[\s(])(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?=[\s)])"
)
_REAL = re.compile(r"(\(\s*declare-(?:input|hidden|output)\s+\S+\s+)Real\b")
_INTEGERS = re.compile(r"\b(?:u?int(?:8|16|32|64)|[iu](?:8|16|32|64))\b")
_MAX_EXPONENT = 400
_DTYPES = {
    "Real": "real",
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
        UnsupportedError: another major version, variables of integers, products of variables, too many cases.
    """
    import vnnlib

    try:
        tree = vnnlib.parse_query_string(_palatable(text, name))
    except vnnlib.VNNLibException as error:
        raise _refusal(str(error), name) from None
    networks = tuple(_network(network, name) for network in tree.networks)
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
    text = _VERSION.sub(r"\g<1>\2.0\4", text)
    text = _REAL.sub(r"\1real", text)  # as the standard's examples have it; to the parser no type at all
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


def _network(declared: Any, name: str) -> Network:
    for variable in (*declared.inputs, *declared.hidden, *declared.outputs):
        # A witness would have to consist of values of the type: of other numbers than ours.
        if variable.dtype.name not in _DTYPES:
            raise UnsupportedError(
                f"'{variable.name}' is of type {variable.dtype.name}: expected real or a floating-point type",
                where=name,
            )
    inputs, hidden, outputs = (
        tuple(
            Variable(
                variable.name,
                tuple(variable.shape),
                _DTYPES[variable.dtype.name],
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
        self._places: dict[tuple[str, str], tuple[bool, int, tuple[int, ...]]] = {}
        inputs = outputs = 0
        for network in networks:
            for variable in network.input_variables:
                self._places[network.name, variable.name] = True, inputs, variable.shape
                inputs += variable.size
            for variable in (*network.output_variables, *network.hidden):
                self._places[network.name, variable.name] = False, outputs, variable.shape
                outputs += variable.size

    def formula(self, tree: Any) -> Formula:
        kind = type(tree).__name__
        if kind in ("And", "Or"):
            parts = tuple(self.formula(part) for part in tree.args)
            return And(parts) if kind == "And" else Or(parts)
        left, right = self._linear(tree.lhs), self._linear(tree.rhs)
        if kind in ("LessEqual", "LessThan"):
            return left.at_most(right, strict=kind == "LessThan")
        if kind in ("GreaterEqual", "GreaterThan"):
            return right.at_most(left, strict=kind == "GreaterThan")
        differ = kind == "NotEqual"
        sides = left.at_most(right, strict=differ), right.at_most(left, strict=differ)
        return Or(sides) if differ else And(sides)

    def _linear(self, tree: Any) -> Linear:
        """An arithmetic expression, exact."""
        kind = type(tree).__name__
        if kind == "Var":
            is_input, place, shape = self._places[tree.network_name, tree.name]
            offset = 0
            for index, size in zip(tree.indices, shape, strict=True):
                offset = offset * size + index
            one = {place + offset: ONE}
            return Linear(one, {}, ZERO) if is_input else Linear({}, one, ZERO)
        if kind == "Negate":
            return self._linear(tree.expr).scaled(-ONE)
        if kind in ("Plus", "Multiply"):
            total, *terms = (self._linear(part) for part in tree.args)
            for term in terms:
                total = total.plus(term) if kind == "Plus" else self._product(total, term, tree)
            return total
        if kind == "Minus":
            total = self._linear(tree.head)
            for part in tree.rest:
                total = total.plus(self._linear(part).scaled(-ONE))
            return total
        return Linear({}, {}, Fraction(tree.lexeme))

    def _product(self, left: Linear, right: Linear, tree: Any) -> Linear:
        if left.is_constant:
            return right.scaled(left.constant)
        if right.is_constant:
            return left.scaled(right.constant)
        line = next(_lines(tree), None)
        raise UnsupportedError(
            "a product of variables: only linear conditions are understood",
            where=self._name if line is None else f"{self._name}:{line}",
        )


def _lines(tree: Any) -> Iterator[int]:
    if hasattr(tree, "line"):
        yield tree.line
    for child in tree.children():
        yield from _lines(child)
