"""The VNN-LIB standard's view of a solver (chapter 5): queries with named networks, assignments, capabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from secateur.formats import instances, streams, vnnlib
from secateur.formats.errors import InputError, SecateurError
from secateur.formats.query import Query, Variable
from secateur.formats.witness import pairs_text
from secateur.pipeline import product, queue
from secateur.pipeline.questions import Failure, How, Question
from secateur.pipeline.verify.graph.operators import RULES
from secateur.pipeline.verify.replay import Witness

WORDS = {"sat": "sat", "unsat": "unsat", "timeout": "timed-out"}
"""Our verdicts in the standard's words; any other is `unknown`."""

_SERIAL = {"real": np.float64, "float64": np.float64, "float32": np.float32, "float16": np.float16}


@dataclass(frozen=True)
class Reply:
    """The standard's answer to `verify`: its word, the query, the witness of a `sat`, and a remark."""

    word: str
    query: Query
    witness: Witness | None
    message: str


def solve(prop: str, networks: Mapping[str, str], how: How, *, timeout: float) -> Reply:
    """Decide the query file `prop` about the model files `networks`, by the names that the query gives them.

    Raises:
        InputError, UnsupportedError: as of `queue.decide`; a network without a model, or the reverse.
    """
    query = vnnlib.read(prop)
    files: Mapping[str, str] = networks
    if product.plain(query) and set(networks) == {query.networks[0].name}:
        files = {"": next(iter(networks.values()))}
    ((_, answer),) = queue.decide(files, [Question(prop, timeout)], how)
    if isinstance(answer, Failure):
        raise answer.error
    result = answer.result
    return Reply(WORDS.get(result.verdict, "unknown"), query, result.witness, result.message)


def competition(onnx: str, prop: str, result: str, how: How, *, timeout: float) -> str:
    """Decide an instance of VNN-COMP and write its result file: the verdict, and the witness in the property's dialect.

    `onnx` names the model file, or several networks' as `instances.csv` does: [('f','a.onnx'),('g','b.onnx')]. What
    cannot be decided for an error is `error`. Returns the verdict.

    Raises:
        InputError: the result file cannot be written.
    """
    streams.check_destination(result)
    try:
        networks = dict(instances.networks(onnx, "the networks")) if onnx.startswith("[") else {"": onnx}
        query = vnnlib.read(prop)
        ((_, answer),) = queue.decide(networks, [Question(prop, timeout)], how)
        if isinstance(answer, Failure):
            raise answer.error
    except SecateurError as error:
        streams.write_bytes(result, b"error\n")
        raise error
    witness = answer.result.witness
    text = ""
    if witness is not None:
        text = pairs_text(witness.x, witness.y) if query.version == "1.0" else assignment(query, witness)
    streams.write_bytes(result, f"{answer.result.verdict}\n{text}".encode())
    return answer.result.verdict


def assignment(query: Query, witness: Witness) -> str:
    """The witness as the standard prints it (section 5.3.1): each variable as `X float32 [1,2]` and a value a line."""
    lines = []
    for variable, values in _assigned(query, witness):
        lines.append(f"{variable.name} {variable.dtype} [{','.join(map(str, variable.shape))}]")
        lines += [repr(value) for value in values.tolist()]
    return "\n".join(lines) + "\n"


def serialise(query: Query, witness: Witness, folder: str) -> None:
    """Each variable of the witness as an ONNX tensor in `folder`/NAME.pb.

    Raises:
        InputError: the folder cannot be written; a type that no tensor of ours has.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror or error}", where=folder) from None
    for variable, values in _assigned(query, witness):
        if variable.dtype not in _SERIAL:
            raise InputError(f"'{variable.name}' is {variable.dtype}: expected one of {', '.join(_SERIAL)}")
        tensor = numpy_helper.from_array(
            values.astype(_SERIAL[variable.dtype]).reshape(variable.shape), variable.name
        )
        streams.write_bytes(str(Path(folder, f"{variable.name}.pb")), tensor.SerializeToString())


def _assigned(query: Query, witness: Witness) -> Iterator[tuple[Variable, NDArray[np.float64]]]:
    """The declared variables and their values, network by network: inputs, hidden values, outputs."""
    x, y = np.asarray(witness.x, np.float64), np.asarray(witness.y, np.float64)
    inputs = outputs = 0
    for network in query.networks:
        first = outputs
        outputs += network.outputs
        hidden = first + sum(variable.size for variable in network.output_variables)
        for variables, values, start in (
            (network.input_variables, x, inputs),
            (network.hidden, y, hidden),
            (network.output_variables, y, first),
        ):
            for variable in variables:
                yield variable, values[start : start + variable.size]
                start += variable.size
        inputs += network.inputs


CAPABILITIES: dict[str, tuple[str, ...]] = {
    "--vnnlib-versions": ("1.0", "2.0"),
    "--onnx-opset-versions": ("7", "22"),
    "--onnx-element-types": ("real", "float32", "float64"),
    "--onnx-operators": tuple(sorted(RULES)),
    "--hidden-node-theories": ("NH", "H"),
    "--multiple-input-output-theories": ("SIO", "MIO"),
    "--multiple-network-theories": ("SNET", "MNET", "MENET", "MINET"),
    "--multiple-node-comparison-theories": ("SNC", "MNC"),
    "--arithmetic-complexity-theories": ("BND", "OUTC", "LIN"),
    "--optimised-disjunctive-reasoning": ("true",),
    "--serialise-assignments": ("true",),
}
"""What `supports` answers (section 5.4): the capability's option, and its lines."""
