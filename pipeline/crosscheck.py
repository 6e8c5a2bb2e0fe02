"""Several verifiers at one question: what they say together, who is refuted, and who comes first."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from secateur.formats import streams, verdict
from secateur.formats.errors import InputError, SecateurError
from secateur.formats.verdict import Record
from secateur.pipeline import campaign, dispatch
from secateur.pipeline.campaign import Job
from secateur.pipeline.questions import How, joined, sources


@dataclass(frozen=True)
class Conclusion:
    """What several records of one question say together.

    `refuted` are the verifiers that said `unsat` where a witness holds strictly: a disagreement that is settled.
    """

    verdict: str
    message: str = ""
    refuted: tuple[str, ...] = ()


def conclude(records: Sequence[Record]) -> Conclusion:
    """A witness that holds strictly settles the question; then an `unsat` counts from a verifier that is trusted.

    Verifiers that are known to say `unsat` wrongly are no evidence, alone or together; nor is a witness that holds only
    tolerantly: without better, the verdict is `unknown`.
    """
    sat = [r.verifier for r in records if r.verdict == "sat" and r.labels.get("replay") != "tolerant"]
    unsat = [r.verifier for r in records if r.verdict == "unsat"]
    if sat:
        message = f"{', '.join(unsat)} said unsat, but the witness of {sat[0]} holds" if unsat else ""
        return Conclusion("sat", message, tuple(unsat))
    trusted = [name for name in unsat if dispatch.trusted(name)]
    if trusted:
        return Conclusion("unsat", f"says {trusted[0]}")
    if unsat:
        return Conclusion(
            "unknown", f"only {', '.join(unsat)} said unsat, not trusted without another verifier"
        )
    if any(r.verdict == "sat" for r in records):
        return Conclusion("unknown", "a witness holds only with inputs outside of what the property allows")
    return Conclusion("timeout" if any(r.verdict == "timeout" for r in records) else "unknown")


def settled(record: Record) -> bool:
    """Whether one record is enough: what `conclude` says of it alone is `sat` or `unsat`."""
    return conclude([record]).verdict in ("sat", "unsat")


def portfolio(
    model_source: str, property_source: str, verifiers: Sequence[str], how: How, *, timeout: float = 60
) -> Iterator[Record]:
    """The records of verifiers that run side by side, as they end; the first that settles the question ends the rest.

    Ours run in processes of their own too. A verifier that fails gives a record with the verdict `error`.

    Raises:
        InputError: the model or the property comes from standard input; no such verifier.
    """
    if streams.STREAM in (*sources(model_source).values(), property_source):
        raise InputError("several verifiers at once need files, not standard input")
    for spec in verifiers:
        dispatch.tool(spec)
    done = threading.Event()

    def one(spec: str) -> Record:
        name = f"process:{spec}" if spec in dispatch.NATIVE else spec
        mine = replace(how, verifier=name, stop=lambda: done.is_set() or how.stop())
        try:
            record = campaign.verify_files(model_source, property_source, mine, timeout=timeout)
        except SecateurError as error:
            return failed(spec, model_source, property_source, timeout, str(error))
        record = replace(record, verifier=spec)
        if settled(record):
            done.set()
        return record

    with ThreadPoolExecutor(len(verifiers)) as pool:
        yield from pool.map(one, verifiers)


def failed(verifier: str, model: str, prop: str, timeout: float, message: str) -> Record:
    """The record of a verifier that could not answer."""
    return Record(model, "", prop, "", verifier, "error", 0.0, timeout=timeout, message=message)


def check_each(
    model_source: str,
    property_source: str,
    verifiers: Sequence[str],
    how: How,
    *,
    timeout: float = 60,
    said: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """The records of all verifiers, one after the other, each with the whole timeout; `said` hears of each.

    Raises:
        InputError: as `portfolio`.
    """
    if streams.STREAM in (*sources(model_source).values(), property_source):
        raise InputError("several verifiers need files, not standard input")
    for spec in verifiers:
        dispatch.tool(spec)
    records = []
    for spec in verifiers:
        mine = replace(how, verifier=spec)
        try:
            records.append(campaign.verify_files(model_source, property_source, mine, timeout=timeout))
        except SecateurError as error:
            records.append(failed(spec, model_source, property_source, timeout, str(error)))
        said(records[-1])
    return records


def disagreements(jobs: Sequence[Job], records: Sequence[Record], folder: str, how: How) -> list[str]:
    """A message for each question of a campaign on which a verifier is refuted, with its reproduction in `folder`."""
    asked = {(job.model_sha256, job.property_sha256): job for job in jobs}
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.model_sha256, record.property_sha256), []).append(record)
    messages = []
    for key, group in groups.items():
        conclusion = conclude(group)
        if conclusion.refuted and key in asked:
            job = asked[key]
            place = Path(folder, f"{Path(job.instance.onnx).stem}_{Path(job.prop).stem}_{key[1][:8]}")
            write_reproduction(str(place), job.model, job.prop, group, how)
            messages.append(f"{job.instance.onnx} {job.instance.vnnlib}: {conclusion.message} ({place})")
    return messages


def write_reproduction(
    folder: str, model_source: str, property_source: str, records: Sequence[Record], how: How
) -> None:
    """All that shows a disagreement again: models, property, records, and a script that asks the same verifiers.

    Raises:
        InputError: the folder cannot be written, or a file is gone.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror or error}", where=folder) from None
    files = {}
    for name, source in sources(model_source).items():
        files[name] = f"{name or 'model'}.onnx"
        streams.write_bytes(str(place / files[name]), streams.read_bytes(source))
    streams.write_bytes(str(place / "property.vnnlib"), streams.read_bytes(property_source))
    lines = "".join(verdict.to_json(record) + "\n" for record in records)
    streams.write_bytes(str(place / "records.jsonl"), lines.encode())
    conclusion = conclude(records)
    asked = [r.verifier for r in records]
    limit = max((r.timeout or 0.0 for r in records), default=60.0)
    question = ["secateur", "verify", joined(files), "property.vnnlib"]
    question += ["--timeout", f"{limit:g}", "--seed", str(how.seed)]
    script = [
        "#!/bin/sh",
        f"# {' '.join((conclusion.message or conclusion.verdict).split())}",
        'cd "$(dirname "$0")" || exit 2',
        *(
            shlex.join([*question, "--verifier", spec, "--witness", f"{n}.txt"])
            for n, spec in enumerate(asked)
        ),
    ]
    streams.write_bytes(str(place / "reproduce.sh"), ("\n".join(script) + "\n").encode())
