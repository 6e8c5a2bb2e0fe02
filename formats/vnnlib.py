"""VNN-LIB 1.0 properties: read into the query normal form, and written from its formula."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from fractions import Fraction

from secateur.formats import streams, vnnlib2
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.query import And, Atom, Formula, Network, Or, Query
from secateur.formats.vnnlib_normalise import regions
from secateur.formats.vnnlib_parse import parse_formula


def read(source: str, *, inputs: int | None = None, outputs: int | None = None) -> Query:
    """Read the VNN-LIB 1.0 property at `source` (path or `-`; gzip understood).

    `inputs` and `outputs` are the network's element counts, checked when given. The query's `sha256` is that
    of the uncompressed text.

    Raises:
        InputError: missing or malformed file (with line), an unbounded input, counts that do not fit.
        UnsupportedError: VNN-LIB 2.0, non-linear terms, too many cases.
    """
    name = streams.display_name(source)
    data = streams.read_bytes(source)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"not text: byte {error.start} is not UTF-8", where=name, hint="is this a VNN-LIB file?"
        ) from None
    query = parse(text, name, sha256=hashlib.sha256(data).hexdigest())
    if inputs is not None and outputs is not None:
        fits(query, inputs, outputs, name)
    return query


def parse(text: str, name: str, *, sha256: str | None = None) -> Query:
    """As `read`, of text in memory; `name` is what messages call it."""
    if vnnlib2.is_version_2(text):
        return vnnlib2.parse(text, name, sha256=sha256)
    parsed = parse_formula(text, name)
    network = Network.flat(parsed.inputs, parsed.outputs)
    return Query(
        (network,),
        parsed.bounds,
        parsed.formulas,
        regions(parsed.bounds, parsed.formulas, parsed.inputs, parsed.outputs, name),
        sha256 or hashlib.sha256(text.encode()).hexdigest(),
        name,
        parsed.comments,
    )


def fits(query: Query, model_inputs: int, model_outputs: int, where: str) -> None:
    """Check that `query` is about a network of that many inputs and outputs; `where` names property or model.

    Raises:
        InputError: the counts differ.
    """
    for what, declared, found in (
        ("inputs", query.inputs, model_inputs),
        ("outputs", query.outputs, model_outputs),
    ):
        if declared != found:
            raise InputError(
                f"the property declares {declared} {what}, the network has {found}",
                where=where,
                hint="take the property that was made for this network",
            )


def to_text(query: Query, comments: Iterable[str] = ()) -> str:
    """VNN-LIB 1.0 text of the query's formula, numbers as exact decimals; `comments` are written at its top.

    Raises:
        UnsupportedError: several networks, or a number that is no finite decimal (a float always is one).
    """
    if len(query.networks) != 1:
        raise UnsupportedError(
            f"VNN-LIB 1.0 holds 1 network, this property has {len(query.networks)}", where=query.name or None
        )
    return formula_text(query.formula, query.inputs, query.outputs, comments, query.name)


def formula_text(
    formula: Formula, inputs: int, outputs: int, comments: Iterable[str] = (), name: str = ""
) -> str:
    """As `to_text`, of a formula over so many inputs and outputs; `name` is what messages call it."""
    lines = [f"; {line}".rstrip() for comment in comments for line in comment.splitlines() or [""]]
    lines += [f"(declare-const X_{index} Real)" for index in range(inputs)]
    lines += [f"(declare-const Y_{index} Real)" for index in range(outputs)]
    parts = formula.parts if isinstance(formula, And) else (formula,)
    lines += [f"(assert {_formula_text(part, name)})" for part in parts]
    return "\n".join(lines) + "\n"


def write(query_text: str, destination: str) -> None:
    """Write property text to a path (atomically; `.gz` compresses) or to standard output (`-`)."""
    streams.write_bytes(destination, query_text.encode())


def _formula_text(formula: Formula, name: str) -> str:
    if isinstance(formula, Atom):
        return atom_text(formula, name)
    operator = "or" if isinstance(formula, Or) else "and"
    return f"({' '.join([operator, *(_formula_text(part, name) for part in formula.parts)])})"


def atom_text(atom: Atom, name: str = "") -> str:
    """`(<= X_0 c)` and `(<= Y_0 Y_1)` where the atom is that simple (other tools read little more)."""
    terms = [(f"X_{index}", value) for index, value in sorted(atom.inputs.items())]
    terms += [(f"Y_{index}", value) for index, value in sorted(atom.outputs.items())]
    less, more = ("<", ">") if atom.strict else ("<=", ">=")
    if len(terms) == 1 and terms[0][1] == -1:
        return f"({more} {terms[0][0]} {decimal(atom.constant, name)})"
    right = decimal(-atom.constant, name)
    if len(terms) == 1 and terms[0][1] == 1:
        return f"({less} {terms[0][0]} {right})"
    if len(terms) == 2 and not atom.constant and {value for _, value in terms} == {1, -1}:
        small, large = sorted(terms, key=lambda term: -term[1])
        return f"({less} {small[0]} {large[0]})"
    scaled = [f"(* {decimal(value, name)} {variable})" for variable, value in terms]
    left = "0.0" if not scaled else scaled[0] if len(scaled) == 1 else f"(+ {' '.join(scaled)})"
    return f"({less} {left} {right})"


def decimal(value: Fraction, name: str = "") -> str:
    """`value` as an exact decimal, such as `-0.5`.

    Raises:
        UnsupportedError: it has no finite decimal expansion.
    """
    denominator = value.denominator
    twos = fives = 0
    while denominator % 2 == 0:
        denominator //= 2
        twos += 1
    while denominator % 5 == 0:
        denominator //= 5
        fives += 1
    if denominator != 1:
        raise UnsupportedError(
            f"{value} is no finite decimal and cannot be written in VNN-LIB", where=name or None
        )
    places = max(twos, fives, 1)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
