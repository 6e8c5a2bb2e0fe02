"""VNN-LIB 1.0 text to an exact formula: scanner, S-expressions, linear terms.

VNN-LIB 1.0 is flat SMT-LIB over `X_i` (inputs) and `Y_j` (outputs) of one implicit network
(https://www.vnnlib.org, "VNN-LIB 1.0"). What the VNN-COMP files hold beyond it is accepted: `declare-fun`,
strict comparisons, `=`, nested and/or, arithmetic with constants, solver commands (ignored).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from secateur.formats.errors import InputError, SecateurError, UnsupportedError
from secateur.formats.query import And, Atom, Formula, Or

MAX_DEPTH = 200
_MAX_EXPONENT = 400  # float64 ends at 1e308; beyond, exact powers of ten only cost memory

_NUMBER_PATTERN = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_NUMBER = re.compile(_NUMBER_PATTERN)
_VARIABLE = re.compile(r"([XY])_(0|[1-9]\d*)")
# One statement a match. Bounds and declarations, nearly all of an image property, are taken whole;
# everything else ("open") goes through the S-expression reader.
_STATEMENT = re.compile(
    r"\s*(?:"
    r";(?P<comment>[^\r\n]*)"
    r"|\(\s*declare-const\s+(?P<declared>[XY]_\d+)\s+Real\s*\)"
    rf"|\(\s*assert\s*\(\s*(?P<relation><=|>=)\s+(?P<variable>[XY]_\d+)\s+(?P<number>{_NUMBER_PATTERN})\s*\)\s*\)"
    r"|(?P<open>\()"
    r"|(?P<end>\Z)"
    r")"
)
_TOKEN = re.compile(
    r"""\s+|;(?P<comment>[^\r\n]*)|(?P<open>\()|(?P<close>\))|(?P<word>"[^"]*"|\|[^|]*\||[^\s();]+)"""
)

_COMPARISONS = {"<=", ">=", "<", ">", "="}
_ARITHMETIC = {"+", "-", "*", "/"}
_IGNORED = {"set-logic", "set-info", "set-option", "check-sat", "get-model", "get-value", "exit"}
_BEYOND = {"not", "=>", "ite", "let", "xor", "distinct", "!=", "forall", "exists"}
_ZERO = Fraction(0)
_ONE = Fraction(1)


@dataclass(frozen=True)
class Parsed:
    """What a file says: how many inputs and outputs, the conjunction of its assertions, its comments."""

    inputs: int
    outputs: int
    formula: And
    comments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Node:
    """An S-expression: a word (`children` is None) or a list; `position` is its offset in the text."""

    position: int
    word: str
    children: list[_Node] | None


@dataclass(frozen=True, slots=True)
class _Linear:
    inputs: dict[int, Fraction]
    outputs: dict[int, Fraction]
    constant: Fraction

    @property
    def is_constant(self) -> bool:
        return not self.inputs and not self.outputs

    def scaled(self, factor: Fraction) -> _Linear:
        if not factor:
            return _Linear({}, {}, _ZERO)
        return _Linear(
            {index: value * factor for index, value in self.inputs.items()},
            {index: value * factor for index, value in self.outputs.items()},
            self.constant * factor,
        )

    def plus(self, other: _Linear) -> _Linear:
        return _Linear(
            _sum(self.inputs, other.inputs), _sum(self.outputs, other.outputs), self.constant + other.constant
        )


def _sum(left: dict[int, Fraction], right: dict[int, Fraction]) -> dict[int, Fraction]:
    total = dict(left)
    for index, value in right.items():
        total[index] = total.get(index, _ZERO) + value
        if not total[index]:
            del total[index]
    return total


def parse_formula(text: str, name: str) -> Parsed:
    """Parse VNN-LIB 1.0 `text`; `name` is what messages call it.

    Raises:
        InputError: not VNN-LIB 1.0, an undeclared or twice declared variable, gaps in numbering; with line.
        UnsupportedError: VNN-LIB 2.0, products of variables, negation and other SMT-LIB; with line.
    """
    return _Parser(text, name).run()


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.declared: dict[str, tuple[bool, int]] = {}  # name -> (is an input, index)
        self.numbers: dict[str, Fraction] = {}
        self.comments: list[str] = []

    def error(
        self, position: int, message: str, hint: str | None = None, kind: type[SecateurError] = InputError
    ) -> SecateurError:
        line = self.text.count("\n", 0, position) + 1
        return kind(message, where=f"{self.name}:{line}", hint=hint)

    def run(self) -> Parsed:
        parts: list[Formula] = []
        position = 0
        while True:
            match = _STATEMENT.match(self.text, position)
            if match is None:
                start = position + len(self.text[position:]) - len(self.text[position:].lstrip())
                word = _shorten(self.text[start:].split("\n", 1)[0])
                raise self.error(
                    start, f"expected '(' or a comment, found '{word}'", "is this a VNN-LIB file?"
                )
            position = match.end()
            kind = match.lastgroup
            if kind == "number":
                parts.append(self._bound(match))
            elif kind == "declared":
                self._declare(match["declared"], match.start("declared"))
            elif kind == "comment":
                self.comments.append(match["comment"].strip())
            elif kind == "open":
                node, position = self._tree(match.start("open"))
                formula = self._statement(node)
                if formula is not None:
                    parts.append(formula)
            else:
                break
        inputs, outputs = self._count("X", "input"), self._count("Y", "output")
        return Parsed(inputs, outputs, And(tuple(parts)), tuple(self.comments))

    def _count(self, letter: str, what: str) -> int:
        count = sum(variable[0] == letter for variable in self.declared)
        if not count:
            raise InputError(
                f"declares no {what} variable: expected '(declare-const {letter}_0 Real)'",
                where=self.name,
                hint="is this a VNN-LIB file?",
            )
        for index in range(count):
            if f"{letter}_{index}" not in self.declared:
                raise InputError(
                    f"declares {count} {what}s but not {letter}_{index}: "
                    f"expected {letter}_0 to {letter}_{count - 1}",
                    where=self.name,
                )
        return count

    def _declare(self, variable: str, position: int) -> None:
        match = _VARIABLE.fullmatch(variable)
        if match is None:
            raise self.error(
                position, f"declares '{_shorten(variable)}': expected X_0, X_1, … or Y_0, Y_1, …"
            )
        if variable in self.declared:
            raise self.error(position, f"declares {variable} a second time")
        self.declared[variable] = (match[1] == "X", int(match[2]))

    def _bound(self, match: re.Match[str]) -> Atom:
        """The atom of `(assert (<= X_0 0.5))`, without building a tree."""
        is_input, index = self._variable(match["variable"], match.start("variable"))
        value = self._number(match["number"], match.start("number"))
        upper = match["relation"] == "<="
        coefficients = {index: _ONE if upper else -_ONE}
        constant = -value if upper else value
        return Atom(coefficients, {}, constant) if is_input else Atom({}, coefficients, constant)

    def _variable(self, word: str, position: int) -> tuple[bool, int]:
        found = self.declared.get(word)
        if found is None:
            raise self.error(
                position,
                f"'{_shorten(word)}' is neither a number nor a declared variable",
                "declare every X_i and Y_j before its first use",
            )
        return found

    def _number(self, word: str, position: int) -> Fraction:
        value = self.numbers.get(word)
        if value is None:
            exponent = re.split("[eE]", word)[1:]
            try:
                if exponent and abs(int(exponent[0])) > _MAX_EXPONENT:
                    raise ValueError
                value = Fraction(word)
            except ValueError:
                raise self.error(
                    position, f"the number '{_shorten(word)}' is too large or too long"
                ) from None
            self.numbers[word] = value
        return value

    def _tree(self, start: int) -> tuple[_Node, int]:
        """The S-expression that opens at `start`, and where it ends."""
        stack: list[_Node] = []
        for match in _TOKEN.finditer(self.text, start):
            kind = match.lastgroup
            if kind == "open":
                if len(stack) >= MAX_DEPTH:
                    raise self.error(
                        match.start(), f"nested more than {MAX_DEPTH} deep", kind=UnsupportedError
                    )
                stack.append(_Node(match.start(), "", []))
            elif kind == "close":
                done = stack.pop()
                if not stack:
                    return done, match.end()
                _children(stack[-1]).append(done)
            elif kind == "word":
                _children(stack[-1]).append(_Node(match.start(), match["word"], None))
            elif kind == "comment":
                self.comments.append(match["comment"].strip())
        raise self.error(
            stack[-1].position, "this '(' is never closed: the file ends first", "is the file truncated?"
        )

    def _statement(self, node: _Node) -> Formula | None:
        head, arguments = self._head(node)
        if head == "assert":
            if len(arguments) != 1:
                raise self.error(node.position, f"'assert' takes 1 formula, found {len(arguments)}")
            return self._formula(arguments[0])
        if head in ("declare-const", "declare-fun"):
            words = [argument.word for argument in arguments]
            if head == "declare-fun" and len(arguments) == 3 and arguments[1].children == []:
                del words[1]
            if len(words) != 2 or not all(words):
                raise self.error(node.position, f"malformed '{head}'", "write (declare-const X_0 Real)")
            if words[1] != "Real":
                raise self.error(
                    node.position,
                    f"{words[0]} has type {_shorten(words[1])}: expected Real",
                    kind=UnsupportedError,
                )
            self._declare(words[0], arguments[0].position)
            return None
        if head in _IGNORED:
            return None
        if head in ("vnnlib-version", "declare-network"):
            raise self.error(
                node.position,
                f"'{head}' is VNN-LIB 2.0: expected VNN-LIB 1.0",
                "write it with declare-const X_0, Y_0, …",
                UnsupportedError,
            )
        raise self.error(node.position, f"expected 'declare-const' or 'assert', found '{_shorten(head)}'")

    def _head(self, node: _Node) -> tuple[str, list[_Node]]:
        children = _children(node)
        if not children or not children[0].word:
            raise self.error(node.position, "expected an operator after '('")
        return children[0].word, children[1:]

    def _formula(self, node: _Node) -> Formula:
        if node.children is None:
            raise self.error(
                node.position, f"expected a comparison, 'and' or 'or', found '{_shorten(node.word)}'"
            )
        head, arguments = self._head(node)
        if head == "and":
            return And(tuple(self._formula(argument) for argument in arguments))
        if head == "or":
            return Or(tuple(self._formula(argument) for argument in arguments))
        if head in _COMPARISONS:
            return self._comparison(node, head, arguments)
        if head in _BEYOND:
            raise self.error(
                node.position, f"'{head}' is not supported", "use and, or, <=, >=, <, >, =", UnsupportedError
            )
        raise self.error(node.position, f"expected a comparison, 'and' or 'or', found '{_shorten(head)}'")

    def _comparison(self, node: _Node, operator: str, arguments: list[_Node]) -> Formula:
        if len(arguments) < 2:
            raise self.error(node.position, f"'{operator}' takes 2 terms, found {len(arguments)}")
        terms = [self._term(argument) for argument in arguments]
        atoms: list[Formula] = []
        for left, right in pairwise(terms):  # SMT-LIB chains: (<= a b c) is a <= b <= c
            if operator in ("<=", "<", "="):
                atoms.append(_atom(left, right, strict=operator == "<"))
            if operator in (">=", ">", "="):
                atoms.append(_atom(right, left, strict=operator == ">"))
        return atoms[0] if len(atoms) == 1 else And(tuple(atoms))

    def _term(self, node: _Node) -> _Linear:
        if node.children is None:
            if _NUMBER.fullmatch(node.word):
                return _Linear({}, {}, self._number(node.word, node.position))
            is_input, index = self._variable(node.word, node.position)
            return _Linear({index: _ONE}, {}, _ZERO) if is_input else _Linear({}, {index: _ONE}, _ZERO)
        head, arguments = self._head(node)
        if head not in _ARITHMETIC:
            raise self.error(
                node.position, f"'{_shorten(head)}' in a term: expected + - * /", kind=UnsupportedError
            )
        if not arguments or (head == "/" and len(arguments) != 2):
            raise self.error(node.position, f"'{head}' has {len(arguments)} terms")
        terms = [self._term(argument) for argument in arguments]
        if head == "-" and len(terms) == 1:
            return terms[0].scaled(-_ONE)
        combine = self._combiner(head, node.position)
        total = terms[0]
        for term in terms[1:]:
            total = combine(total, term)
        return total

    def _combiner(self, operator: str, position: int) -> Callable[[_Linear, _Linear], _Linear]:
        def product(left: _Linear, right: _Linear) -> _Linear:
            if left.is_constant:
                return right.scaled(left.constant)
            if right.is_constant:
                return left.scaled(right.constant)
            raise self.error(
                position, "a product of two variables: expected linear terms", kind=UnsupportedError
            )

        def quotient(left: _Linear, right: _Linear) -> _Linear:
            if not right.is_constant:
                raise self.error(
                    position, "division by a variable: expected linear terms", kind=UnsupportedError
                )
            if not right.constant:
                raise self.error(position, "division by zero")
            return left.scaled(1 / right.constant)

        return {
            "+": lambda left, right: left.plus(right),
            "-": lambda left, right: left.plus(right.scaled(-_ONE)),
            "*": product,
            "/": quotient,
        }[operator]


def _atom(small: _Linear, large: _Linear, strict: bool) -> Atom:
    difference = small.plus(large.scaled(-_ONE))
    return Atom(difference.inputs, difference.outputs, difference.constant, strict)


def _children(node: _Node) -> list[_Node]:
    assert node.children is not None
    return node.children


def _shorten(word: str) -> str:
    return word if len(word) <= 40 else word[:37] + "…"
