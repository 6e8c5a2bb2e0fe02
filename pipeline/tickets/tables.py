"""Tables of a TOML file as dataclasses: every key is a field of that name, every value of that field's type."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from secateur.formats.errors import InputError


class Document:
    """A TOML text, and the lines on which its keys stand, which TOML's own reader does not tell."""

    def __init__(self, text: str, name: str) -> None:
        """
        Raises:
            InputError: not TOML; names the line.
        """
        try:
            self.content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            at = re.search(r"\(at line (\d+), column \d+\)", str(error))
            reason = str(error)[: at.start()].strip() if at else str(error)
            raise InputError(f"not TOML: {reason}", where=f"{name}:{at[1]}" if at else name) from None
        self._name = name
        self._lines: dict[tuple[str, str], int] = {}
        table = ""
        for number, line in enumerate(text.splitlines(), 1):
            if header := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
                table = header[1].replace('"', "").replace("'", "")
                self._lines[(table, "")] = number
            elif key := re.match(r"\s*[\"']?([\w-]+)[\"']?\s*[=.]", line):
                self._lines.setdefault((table, key[1]), number)

    def where(self, table: str, key: str = "") -> str:
        """File and line of a key (or of its table, or of nothing) for messages."""
        line = self._lines.get((table, key)) or self._lines.get((table, ""))
        return f"{self._name}:{line}" if line else self._name


def settings(
    document: Document, table: str, values: Any, kind: type, *, without: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The entries of a table as arguments of the dataclass `kind`; lists become tuples. `without`: fields that the
    table may not have.

    Raises:
        InputError: not a table, a key that is no field, a value of another type; names the line.
    """
    if not isinstance(values, dict):
        raise InputError(f"{table} = {values!r}: expected a table [{table}]", where=document.where("", table))
    hints = get_type_hints(kind)
    known = [entry.name for entry in fields(kind) if entry.name not in without]
    found = {}
    for key, value in values.items():
        if key not in known:
            inside = f" in [{table}]" if table else ""
            raise InputError(
                f"unknown key '{key}'{inside}: expected {', '.join(known)}", where=document.where(table, key)
            )
        if not _fits(value, hints[key]):
            raise InputError(
                f"{key} = {value!r}: expected {_expected(hints[key])}", where=document.where(table, key)
            )
        found[key] = _as(value)
    return found


def _as(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner if one is not NoneType)
    if origin is Literal:
        return value in inner and isinstance(value, str)
    if origin is tuple:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _expected(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_expected(one) for one in inner if one is not NoneType)
    if origin is Literal:
        return f"one of {', '.join(repr(one) for one in inner)}"
    if origin is tuple:
        return f"a list, each {_expected(inner[0])}"
    if origin is not None:
        return f"a table, each value {_expected(inner[1])}"
    return {float: "a number", int: "a whole number", bool: "true or false", str: "text"}[hint]
