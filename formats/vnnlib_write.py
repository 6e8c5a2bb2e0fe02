"""Queries as VNN-LIB text: 1.0, which knows one network and flat variables, and 2.0."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

from secateur.formats.errors import UnsupportedError
from secateur.formats.query import And, Atom, Formula, Network, Or, Query, Variable

VERSIONS = ("1.0", "2.0")


@dataclass(frozen=True)
class _Dialect:
    """How a dialect names the input and output of a number, and whether it is 2.0's grammar: that has an equality, and
    no empty conjunction or disjunction."""

    input: Callable[[int], str]
    output: Callable[[int], str]
    modern: bool = False


_FLAT = _Dialect(lambda index: f"X_{index}", lambda index: f"Y_{index}")


def to_text(query: Query, comments: Iterable[str] = (), version: str = "1.0") -> str:
    """The query's formula in that version of VNN-LIB, numbers as exact decimals; `comments` are written at its top.

    Raises:
        UnsupportedError: 1.0 cannot say it (several networks, inputs or outputs, hidden values).
    """
    if version == "1.0":
        reason = beyond_1_0(query)
        if reason is not None:
            raise UnsupportedError(f"VNN-LIB 1.0 cannot say this: {reason}", where=query.name or None)
        return formula_text(query.formula, query.inputs, query.outputs, comments, query.name)
    inputs = [_elements(variable) for network in query.networks for variable in network.input_variables]
    outputs = [
        _elements(variable)
        for network in query.networks
        for variable in (*network.output_variables, *network.hidden)
    ]
    names = [[name for group in side for name in group] for side in (inputs, outputs)]
    dialect = _Dialect(names[0].__getitem__, names[1].__getitem__, modern=True)
    lines = [*_commented(comments), "(vnnlib-version <2.0>)", *map(_network_text, query.networks)]
    lines += [f"(assert {_formula_text(part, dialect)})" for part in query.formula.parts]
    return "\n".join(lines) + "\n"


def beyond_1_0(query: Query) -> str | None:
    """Why VNN-LIB 1.0 cannot say what `query` says; None when it can."""
    if len(query.networks) != 1:
        return f"it is about {len(query.networks)} networks"
    [network] = query.networks
    if network.hidden:
        return f"it is about the hidden value '{network.hidden[0].name}'"
    for variables, what in ((network.input_variables, "inputs"), (network.output_variables, "outputs")):
        if len(variables) != 1:
            return f"the network '{network.name}' has {len(variables)} {what}"
    return None


def formula_text(
    formula: Formula, inputs: int, outputs: int, comments: Iterable[str] = (), name: str = ""
) -> str:
    """VNN-LIB 1.0 text of a formula over so many inputs and outputs; `name` is what messages call it."""
    lines = _commented(comments)
    lines += [f"(declare-const X_{index} Real)" for index in range(inputs)]
    lines += [f"(declare-const Y_{index} Real)" for index in range(outputs)]
    parts = formula.parts if isinstance(formula, And) else (formula,)
    lines += [f"(assert {_formula_text(part, _FLAT)})" for part in parts]
    return "\n".join(lines) + "\n"


def atom_text(atom: Atom) -> str:
    """`(<= X_0 c)` and `(<= Y_0 Y_1)` where the atom is that simple (other tools read little more)."""
    return _atom_text(atom, _FLAT, ("<", ">") if atom.strict else ("<=", ">="))


def decimal(value: Fraction) -> str:
    """`value` as an exact decimal, such as `-0.5`.

    Raises:
        UnsupportedError: it has no finite decimal expansion.
    """
    places = _places(value)
    if places is None:
        raise UnsupportedError(f"{value} is no finite decimal and cannot be written in VNN-LIB")
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _places(value: Fraction) -> int | None:
    """How many decimal places `value` needs (at least one); None when no number of them is enough."""
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest //= 2
        twos += 1
    while rest % 5 == 0:
        rest //= 5
        fives += 1
    return max(twos, fives, 1) if rest == 1 else None


def _commented(comments: Iterable[str]) -> list[str]:
    return [f"; {line}".rstrip() for comment in comments for line in comment.splitlines() or [""]]


def _network_text(network: Network) -> str:
    lines = [f"(declare-network {network.name}"]
    for kind, other in (("equal-to", network.equal_to), ("isomorphic-to", network.isomorphic_to)):
        lines += [f"    ({kind} {other})"] if other else []
    for kind, variables in (
        ("input", network.input_variables),
        ("hidden", network.hidden),
        ("output", network.output_variables),
    ):
        for variable in variables:
            shape = ", ".join(map(str, variable.shape))
            onnx_name = f' "{variable.onnx_name}"' if variable.onnx_name else ""
            lines.append(f"    (declare-{kind} {variable.name} {variable.dtype} [{shape}]{onnx_name})")
    return "\n".join(lines) + "\n)"


def _elements(variable: Variable) -> list[str]:
    """The names of a variable's elements in order: `X[0,0]`, `X[0,1]`, …; of a scalar, its own."""
    if not variable.shape:
        return [variable.name]
    found = [""]
    for size in variable.shape:
        found = [f"{before}{',' if before else ''}{index}" for before in found for index in range(size)]
    return [f"{variable.name}[{indices}]" for indices in found]


def _formula_text(formula: Formula, dialect: _Dialect) -> str:
    if isinstance(formula, Atom):
        return _atom_text(formula, dialect, ("<", ">") if formula.strict else ("<=", ">="))
    if dialect.modern and isinstance(formula, And) and _is_equality(formula):
        [atom, _] = formula.parts
        assert isinstance(atom, Atom)
        return _atom_text(atom, dialect, ("==", "=="))
    if dialect.modern and not formula.parts:
        return "(<= 0.0 1.0)" if isinstance(formula, And) else "(<= 0.0 -1.0)"
    operator = "or" if isinstance(formula, Or) else "and"
    return f"({' '.join([operator, *(_formula_text(part, dialect) for part in formula.parts)])})"


def _is_equality(formula: And) -> bool:
    """Whether the formula is a ≤ 0 and −a ≤ 0, with some variable in a."""
    if len(formula.parts) != 2:
        return False
    a, b = formula.parts
    return (
        isinstance(a, Atom)
        and isinstance(b, Atom)
        and not (a.strict or b.strict)
        and bool(a.inputs or a.outputs)
        and a.constant == -b.constant
        and a.inputs == {index: -value for index, value in b.inputs.items()}
        and a.outputs == {index: -value for index, value in b.outputs.items()}
    )


def _atom_text(atom: Atom, dialect: _Dialect, relations: tuple[str, str]) -> str:
    """The atom with its relation as (less, more)."""
    atom = _writable(atom)
    terms = [(dialect.input(index), value) for index, value in sorted(atom.inputs.items())]
    terms += [(dialect.output(index), value) for index, value in sorted(atom.outputs.items())]
    less, more = relations
    if len(terms) == 1 and terms[0][1] == -1:
        return f"({more} {terms[0][0]} {decimal(atom.constant)})"
    right = decimal(-atom.constant)
    if len(terms) == 1 and terms[0][1] == 1:
        return f"({less} {terms[0][0]} {right})"
    if len(terms) == 2 and {value for _, value in terms} == {1, -1}:
        small, large = sorted(terms, key=lambda term: -term[1])
        if not atom.constant:
            return f"({less} {small[0]} {large[0]})"
        return f"({less} (- {small[0]} {large[0]}) {right})"  # some verifiers read no product inside of a sum
    scaled = [variable if value == 1 else f"(* {decimal(value)} {variable})" for variable, value in terms]
    left = "0.0" if not scaled else scaled[0] if len(scaled) == 1 else f"(+ {' '.join(scaled)})"
    return f"({less} {left} {right})"


def _writable(atom: Atom) -> Atom:
    """The atom, multiplied by a positive integer where one of its numbers is no finite decimal."""
    numbers = [*atom.inputs.values(), *atom.outputs.values(), atom.constant]
    if all(_places(value) is not None for value in numbers):
        return atom
    factor = lcm(*(value.denominator for value in numbers))
    return Atom(
        {index: value * factor for index, value in atom.inputs.items()},
        {index: value * factor for index, value in atom.outputs.items()},
        atom.constant * factor,
        atom.strict,
    )
