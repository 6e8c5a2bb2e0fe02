"""How programs end: one line on standard error, and an exit code, for every way to fail."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from secateur.formats.errors import SecateurError


class ReportingGroup(click.Group):
    """A click group that turns every way to fail into one line on standard error and the exit code of that kind."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and leave by `SystemExit` with 0, 1 (failed), 2 (bad input), 3 (unsupported) or 130."""
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read our output has left. Keep the interpreter from flushing into the pipe once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except SecateurError as error:
            code = self._fail(str(error), error.exit_code)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else self.name
            code = self._fail(f"{error.format_message().rstrip('.')} (see '{path} --help')", 2)
        except click.ClickException as error:
            code = self._fail(error.format_message(), 2)
        except (click.Abort, KeyboardInterrupt):
            click.echo(f"{self.name}: interrupted", err=True)
            code = 130
        except Exception as error:
            if os.environ.get("SECATEUR_DEBUG"):
                raise
            what = " ".join(f"{type(error).__name__}: {error}".split())
            code = self._fail(f"{what} (unexpected: set SECATEUR_DEBUG=1 to see the traceback)", 1)
        sys.exit(code if isinstance(code, int) else 0)

    def _fail(self, line: str, code: int) -> int:
        click.echo(f"{self.name}: error: {' '.join(line.split())}", err=True)
        return code


def run(group: ReportingGroup) -> None:
    """Run a program."""
    if not sys.warnoptions:
        import warnings

        # Libraries' advice to their callers is not for the person at the terminal.
        warnings.simplefilter("ignore")
    group(prog_name=group.name)
