"""`secateur verifiers`: who they are, where they live, and what ours can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from secateur.tools.common import emit_json, json_option, say

if TYPE_CHECKING:
    from secateur.pipeline.dispatch.protocol import Tool


@click.group("verifiers")
def command() -> None:
    """List, install and examine verifiers; list the operators that ours understands."""


@command.command(
    "list",
    epilog="""\b
Examples:
  secateur verifiers list
  secateur verifiers list --json | jq -r '.[] | select(.installed) | .name'""",
)
@json_option
def list_all(as_json: bool) -> None:
    """List the verifiers: ours, and the foreign ones that are known by name, with licence and where they are installed.

    The list goes to standard error; --json writes it to standard output. Any other verifier can be called as
    vnncomp:DIR (a VNN-COMP tool's folder) or command:'PROGRAM {onnx} {vnnlib} {timeout} {result}'.
    """
    from secateur.pipeline import dispatch
    from secateur.pipeline.dispatch import homes

    rows = [
        {
            "name": name,
            "summary": summary,
            "licence": "BSD-3-Clause",
            "installed": "with secateur",
            "remark": "",
        }
        for name, summary in dispatch.NATIVE.items()
    ]
    for name, tool in dispatch.FOREIGN.items():
        home = homes.look(tool)
        place = "" if home is None else str(home.path or home.python)
        remark = "" if tool.trusted else tool.remark
        rows.append(
            {
                "name": name,
                "summary": tool.summary,
                "licence": tool.licence,
                "installed": place,
                "remark": remark,
            }
        )
    if as_json:
        emit_json(rows)
        return
    for row in rows:
        say(f"{row['name']:11} {row['licence']:13} {row['summary']}")
        say(f"{'':25} {'installed: ' + row['installed'] if row['installed'] else 'not installed'}")
        if row["remark"]:
            say(f"{'':25} not trusted alone: {row['remark']}")


@command.command(
    "install",
    epilog="""\b
Examples:
  secateur verifiers install marabou
  secateur verifiers install nnenum --path ~/src/nnenum --python ~/src/nnenum/venv/bin/python
  secateur verifiers install neuralsat --python /opt/neuralsat/bin/python""",
)
@click.argument("name")
@click.option("--path", metavar="DIR", help="The folder of its source, for verifiers that come as source.")
@click.option(
    "--python", metavar="FILE", help="The interpreter of an environment that has it: nothing is installed."
)
def install(name: str, path: str | None, python: str | None) -> None:
    """Install the verifier NAME from the package index, into a virtual environment of its own.

    It lies under $SECATEUR_CACHE, else $XDG_CACHE_HOME/secateur, else ~/.cache/secateur. With --path or --python only
    the place is noted.
    """
    from secateur.pipeline.dispatch import homes

    tool = _foreign(name)
    home = homes.install(tool, path=path, python=python)
    say(f"{name} {homes.version(tool, home)} is in {home.path or home.python}".replace("  ", " "))


@command.command(
    "doctor",
    epilog="""\b
Examples:
  secateur verifiers doctor
  secateur verifiers doctor marabou neuralsat --timeout 30""",
)
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="For each of the two questions.",
)
@click.pass_context
def doctor(ctx: click.Context, names: tuple[str, ...], timeout: float) -> None:
    """Ask verifiers two small questions with known answers: are they there, do they run, are they right?

    Without a name all that are installed are asked. Exit code 1 when one of them fails.
    """
    from secateur.pipeline import dispatch
    from secateur.pipeline.dispatch import doctor, homes

    asked = names or (*dispatch.NATIVE, *(n for n, tool in dispatch.FOREIGN.items() if homes.look(tool)))
    healthy = True
    for name in asked:
        found = doctor.examine(name, timeout)
        healthy &= found.healthy
        say(f"{name:11} {'well' if found.healthy else 'ill':5} {found.message}")
    if not healthy:
        ctx.exit(1)


def _foreign(name: str) -> Tool:
    from secateur.formats.errors import InputError
    from secateur.pipeline import dispatch

    if name not in dispatch.FOREIGN:
        raise InputError(f"unknown verifier '{name}': expected one of {', '.join(dispatch.FOREIGN)}")
    return dispatch.FOREIGN[name]


@command.command(
    "operators",
    epilog="""\b
Examples:
  secateur verifiers operators
  secateur verifiers operators 2>&1 | grep product
  secateur verifiers operators --json | jq -r '.operators[].name'""",
)
@json_option
def operators(as_json: bool) -> None:
    """List the ONNX operators that the verifier crown understands: name, kind, and what is special about each.

    The list goes to standard error; --json writes it to standard output. Anything computed from constants alone is
    evaluated, whatever its operator. An operator that is not supported is named with its node (exit code 3).
    """
    from secateur.pipeline.verify.graph.operators import KINDS, RULES

    if as_json:
        rows = [{"name": name, "kind": row.kind, "note": row.note} for name, row in RULES.items()]
        emit_json({"kinds": KINDS, "operators": rows})
        return
    for name, row in RULES.items():
        say(f"{name:22} {row.kind:17} {row.note}".rstrip())
    say("")
    for kind, meaning in KINDS.items():
        say(f"{kind:17} {meaning}")
