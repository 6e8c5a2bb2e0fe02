"""`secateur verifiers`: what the verifiers can do."""

from __future__ import annotations

import click

from secateur.tools.common import emit_json, json_option, say


@click.group("verifiers")
def command() -> None:
    """List the operators that the verifier understands."""


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
    from secateur.pipeline.verify.operators import KINDS, RULES

    if as_json:
        rows = [{"name": name, "kind": row.kind, "note": row.note} for name, row in RULES.items()]
        emit_json({"kinds": KINDS, "operators": rows})
        return
    for name, row in RULES.items():
        say(f"{name:22} {row.kind:17} {row.note}".rstrip())
    say("")
    for kind, meaning in KINDS.items():
        say(f"{kind:17} {meaning}")
