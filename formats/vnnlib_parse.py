"""VNN-LIB 1.0 text to an exact formula: scanner and S-expressions.

VNN-LIB 1.0 is flat SMT-LIB over `X_i` (inputs) and `Y_j` (outputs) of one implicit network
(https://www.vnnlib.org, "VNN-LIB 1.0"). What the VNN-COMP files hold beyond it is accepted: `declare-fun`,
strict comparisons, `=`, nested and/or, arithmetic with constants, solver commands (ignored).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise

import numpy as np

from secateur.formats.decimals import Number, number
from secateur.formats.errors import InputError, SecateurError, UnsupportedError
from secateur.formats.query import And, Bounds, Formula, Or
from secateur.formats.vnnlib_terms import ONE, ZERO, Linear

MAX_DEPTH = 200

_NUMBER_PATTERN = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_NUMBER = re.compile(_NUMBER_PATTERN)
_VARIABLE = re.compile(r"([XY])_(0|[1-9]\d*)")
# What stands at the top of a file. Declarations, and bounds of inputs, nearly all of an image property, are taken as
# blocks of any length; each other statement ("open") goes through the S-expression reader.
_DECLARATION = r"\(\s*declare-const\s+[XY]_(?:0|[1-9]\d*)\s+Real\s*\)\s*"
_BOUND = rf"\(\s*assert\s*\(\s*[<>]=\s+X_\d+\s+{_NUMBER_PATTERN}\s*\)\s*\)\s*"
_PIECE = re.compile(
    r"\s*(?:"
    r";(?P<comment>[^\r\n]*)"
    rf"|(?P<declarations>(?:{_DECLARATION})++)"
    rf"|(?P<bounds>(?:{_BOUND})++)"
    r"|(?P<open>\()"
    r"|(?P<end>\Z)"
    r")"
)
_WORD = re.compile(r"[^\s()]+")
_TOKEN = re.compile(
    r"""\s+|;(?P<comment>[^\r\n]*)|(?P<open>\()|(?P<close>\))|(?P<word>"[^"]*"|\|[^|]*\||[^\s();]+)"""
)

_COMPARISONS = {"<=", ">=", "<", ">", "="}
_ARITHMETIC = {"+", "-", "*", "/"}
_IGNORED = {"set-logic", "set-info", "set-option", "check-sat", "get-model", "get-value", "exit"}
_BEYOND = {"not", "=>", "ite", "let", "xor", "distinct", "!=", "forall", "exists"}


@dataclass(frozen=True)
class Parsed:
    """What a file says: how many inputs and outputs, its assertions (plain bounds of inputs apart), its comments."""

    inputs: int
    outputs: int
    bounds: Bounds
    formulas: tuple[Formula, ...]
    comments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Node:
    """An S-expression: a word (`children` is None) or a list; `position` is its offset in the text."""

    position: int
    word: str
    children: list[_Node] | None


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
        self.bound_words: list[str] = []  # of `(assert (<= X_0 0.5))`: assert, <=, X_0, 0.5
        self.bound_numbers: list[Number] = []

    def error(
        self, position: int, message: str, hint: str | None = None, kind: type[SecateurError] = InputError
    ) -> SecateurError:
        line = self.text.count("\n", 0, position) + 1
        return kind(message, where=f"{self.name}:{line}", hint=hint)

    def run(self) -> Parsed:
        parts: list[Formula] = []
        position = 0
        while True:
            match = _PIECE.match(self.text, position)
            if match is None:
                start = position + len(self.text[position:]) - len(self.text[position:].lstrip())
                word = _shorten(self.text[start:].split("\n", 1)[0])
                raise self.error(
                    start, f"expected '(' or a comment, found '{word}'", "is this a VNN-LIB file?"
                )
            position = match.end()
            kind = match.lastgroup
            if kind == "bounds":
                self._bounds(*match.span("bounds"))
            elif kind == "declarations":
                self._declarations(*match.span("declarations"))
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
        words = self.bound_words
        bounds = Bounds(
            np.array([self.declared[variable][1] for variable in words[2::4]], dtype=np.int64),
            np.array([relation == "<=" for relation in words[1::4]], dtype=np.bool_),
            tuple(self.bound_numbers),
        )
        return Parsed(inputs, outputs, bounds, tuple(parts), tuple(self.comments))

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

    def _declarations(self, start: int, end: int) -> None:
        """Those of a block, all at once: three words each."""
        words = self._words(start, end)
        for i in range(1, len(words), 3):
            if words[i] in self.declared:
                self._declare(words[i], self._position(start, i))  # says so
            self.declared[words[i]] = (words[i][0] == "X", int(words[i][2:]))

    def _bounds(self, start: int, end: int) -> None:
        """Those of a block, all at once: four words each."""
        words = self._words(start, end)
        for i in range(2, len(words), 4):
            if words[i] not in self.declared:
                self._variable(words[i], self._position(start, i))  # says so
            try:
                self.bound_numbers.append(number(words[i + 1]))
            except ValueError:
                self._number(words[i + 1], self._position(start, i + 1))  # says so
        self.bound_words += words

    def _words(self, start: int, end: int) -> list[str]:
        return self.text[start:end].replace("(", " ").replace(")", " ").split()

    def _position(self, start: int, i: int) -> int:
        """Where word i from `start` on stands."""
        return next(islice(_WORD.finditer(self.text, start), i, None)).start()

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
            try:
                value = self.numbers[word] = Fraction(number(word).exact)
            except ValueError:
                raise self.error(
                    position, f"the number '{_shorten(word)}' is too large or too long"
                ) from None
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
                atoms.append(left.at_most(right, strict=operator == "<"))
            if operator in (">=", ">", "="):
                atoms.append(right.at_most(left, strict=operator == ">"))
        return atoms[0] if len(atoms) == 1 else And(tuple(atoms))

    def _term(self, node: _Node) -> Linear:
        if node.children is None:
            if _NUMBER.fullmatch(node.word):
                return Linear({}, {}, self._number(node.word, node.position))
            is_input, index = self._variable(node.word, node.position)
            return Linear({index: ONE}, {}, ZERO) if is_input else Linear({}, {index: ONE}, ZERO)
        head, arguments = self._head(node)
        if head not in _ARITHMETIC:
            raise self.error(
                node.position, f"'{_shorten(head)}' in a term: expected + - * /", kind=UnsupportedError
            )
        if not arguments or (head == "/" and len(arguments) != 2):
            raise self.error(node.position, f"'{head}' has {len(arguments)} terms")
        terms = [self._term(argument) for argument in arguments]
        if head == "-" and len(terms) == 1:
            return terms[0].scaled(-ONE)
        combine = self._combiner(head, node.position)
        total = terms[0]
        for term in terms[1:]:
            total = combine(total, term)
        return total

    def _combiner(self, operator: str, position: int) -> Callable[[Linear, Linear], Linear]:
        def product(left: Linear, right: Linear) -> Linear:
            if left.is_constant:
                return right.scaled(left.constant)
            if right.is_constant:
                return left.scaled(right.constant)
            raise self.error(
                position, "a product of two variables: expected linear terms", kind=UnsupportedError
            )

        def quotient(left: Linear, right: Linear) -> Linear:
            if not right.is_constant:
                raise self.error(
                    position, "division by a variable: expected linear terms", kind=UnsupportedError
                )
            if not right.constant:
                raise self.error(position, "division by zero")
            return left.scaled(1 / right.constant)

        return {
            "+": lambda left, right: left.plus(right),
            "-": lambda left, right: left.plus(right.scaled(-ONE)),
            "*": product,
            "/": quotient,
        }[operator]


def _children(node: _Node) -> list[_Node]:
    assert node.children is not None
    return node.children


def _shorten(word: str) -> str:
    return word if len(word) <= 40 else word[:37] + "…"
