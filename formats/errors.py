"""The errors that a person may see: one line each, and the exit code the command line gives them."""

from __future__ import annotations


class SecateurError(Exception):
    """Base of every error that is reported as one clear line.

    `message` says what was expected and what was found, `where` names the file (and the place in it),
    `hint` says what to do. `str()` joins them to the line that the command line prints.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        line = f"{self.where}: {self.message}" if self.where else self.message
        if self.hint:
            line = f"{line} ({self.hint})"
        return " ".join(line.split())


class CheckFailed(SecateurError):
    """A check failed: a rewrite changed the model's meaning, a witness does not hold (exit code 1)."""

    exit_code = 1


class InputError(SecateurError):
    """Bad input or bad usage: missing, malformed or ill-fitting files and arguments (exit code 2)."""

    exit_code = 2


class UnsupportedError(SecateurError):
    """An operator or a format that is well formed but not supported; names it and its node (exit code 3)."""

    exit_code = 3
