"""VNN-LIB properties, 1.0 and 2.0: read into the query normal form, and written from its formula."""

from __future__ import annotations

import hashlib

from secateur.formats import streams, vnnlib2
from secateur.formats.errors import InputError
from secateur.formats.query import Network, Query
from secateur.formats.vnnlib_normalise import regions
from secateur.formats.vnnlib_parse import parse_formula
from secateur.formats.vnnlib_write import atom_text, decimal, formula_text, to_text

__all__ = ["atom_text", "decimal", "fits", "formula_text", "parse", "read", "to_text", "write"]


def read(source: str, *, inputs: int | None = None, outputs: int | None = None) -> Query:
    """Read the VNN-LIB property at `source` (path or `-`; gzip understood).

    `inputs` and `outputs` are the network's element counts, checked when given. The query's `sha256` is that
    of the uncompressed text.

    Raises:
        InputError: missing or malformed file (with line), an unbounded input, counts that do not fit.
        UnsupportedError: non-linear terms, too many cases, another version of VNN-LIB.
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


def write(query_text: str, destination: str) -> None:
    """Write property text to a path (atomically; `.gz` compresses) or to standard output (`-`)."""
    streams.write_bytes(destination, query_text.encode())
