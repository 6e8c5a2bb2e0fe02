"""Which layers are meant: glob patterns on names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from secateur.formats.errors import InputError
from secateur.pipeline.prune.pool import Pool


@dataclass(frozen=True)
class Choice:
    """Glob patterns on names of layers, their weights or residual branches; all without `include`."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def takes(self, names: Iterable[str]) -> bool:
        names = list(names)
        return (not self.include or matches(self.include, names)) and not matches(self.exclude, names)

    def check(self, names: Sequence[Iterable[str]], where: str) -> None:
        """
        Raises:
            InputError: a pattern that matches nothing.
        """
        for pattern in (*self.include, *self.exclude):
            check_pattern(pattern, names, where)


def matches(patterns: Iterable[str], names: Iterable[str]) -> bool:
    names = list(names)
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def check_pattern(pattern: str, names: Sequence[Iterable[str]], where: str) -> None:
    """
    Raises:
        InputError: the pattern matches none of the names.
    """
    if not any(matches([pattern], group) for group in names):
        first = [next(iter(group)) for group in names]
        shown = ", ".join(first[:8]) + (", …" if len(first) > 8 else "")
        raise InputError(f"pattern '{pattern}' matches no layer (there are {shown})", where=where)


def names_of(pool: Pool) -> list[str]:
    """What patterns are matched with: the pool's name, its layers' and their weights'."""
    return list(dict.fromkeys([pool.name, *(n for layer in pool.layers for n in (layer.name, layer.weight))]))
