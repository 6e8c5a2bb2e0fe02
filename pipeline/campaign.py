"""Verifying files: one instance, or every line of an `instances.csv`, with a record of each that survives a stop."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import median

from secateur.formats import instances, onnx_model, streams, verdict, vnnlib, witness
from secateur.formats.errors import InputError, SecateurError
from secateur.formats.instances import Instance
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.formats.verdict import VERDICTS, Record
from secateur.pipeline import certifying, dispatch, onnxrt, queue
from secateur.pipeline.questions import Answer, Failure, How, Question, fingerprint, joined, sources
from secateur.pipeline.verify import api

Labels = Mapping[str, verdict.Label]
Key = tuple[str, str, str, float | None]
PLAINLY = How()
"""By our engine, on the CPU, with the seed 0."""


def load(model_source: str, property_source: str) -> tuple[Model, Query]:
    """Read a model and a property that fits it.

    Raises:
        InputError: unreadable files, both from standard input, or a property for another input or output size.
    """
    if model_source == property_source == streams.STREAM:
        raise InputError("the model and the property cannot both come from standard input")
    model = onnx_model.read(model_source)
    query = vnnlib.read(
        property_source, inputs=onnxrt.count_inputs(model), outputs=onnxrt.count_outputs(model)
    )
    return model, query


def verify_files(
    model_source: str,
    property_source: str,
    how: How = PLAINLY,
    *,
    timeout: float = 60,
    state: str | None = None,
    witness_file: str | None = None,
    log: str | None = None,
    certificate: str | None = None,
) -> Record:
    """Verify a property file of a model file. Reading counts towards `timeout` and the record's seconds.

    Several networks are named as `f=a.onnx,g=b.onnx`. The witness of a `sat` is written to `witness_file`, when given;
    the record holds that file's name. With a `state` file the search goes on from it, and leaves it when time is over
    or `how.stop` says so (see `queue`). What a foreign verifier printed goes to `log`. The certificate of an
    `unsat` is written to `certificate`, when given (see `certifying`).
    """
    for file in (witness_file, log, certificate):
        if file is not None:
            streams.check_destination(file)
    if streams.STREAM in sources(model_source).values() and property_source == streams.STREAM:
        raise InputError("the model and the property cannot both come from standard input")
    answer: Answer | Failure
    if certificate is not None:
        answer = certifying.decide(model_source, property_source, timeout, certificate, how)
    else:
        question = Question(property_source, timeout, state=state, log=log)
        ((_, answer),) = queue.decide(model_source, [question], how)
    if isinstance(answer, Failure):
        raise answer.error
    names = streams.display_name(model_source), streams.display_name(property_source)
    return _record(answer, *names, how, timeout, witness_file, log)


def attack_files(
    model_source: str,
    property_source: str,
    *,
    timeout: float = 60,
    device: str = "cpu",
    seed: int = 0,
    restarts: int | None = None,
    steps: int | None = None,
    witness_file: str | None = None,
) -> bool:
    """Attack a property file of a model file; whether a witness was found (and written to `witness_file`)."""
    if witness_file is not None:
        streams.check_destination(witness_file)
    model, query = load(model_source, property_source)
    effort = {
        name: value for name, value in {"restarts": restarts, "steps": steps}.items() if value is not None
    }
    found = api.attack(model, query, seed=seed, timeout=timeout, device=device, **effort)
    if found is not None and witness_file is not None:
        witness.write(found.x, found.y, witness_file)
    return found is not None


def bound_files(
    model_source: str,
    property_source: str,
    *,
    method: str = "crown",
    iterations: int | None = None,
    device: str = "cpu",
) -> api.Bounds:
    """Bounds of a model file's outputs, and of the violation of each clause, over a property file's regions."""
    model, query = load(model_source, property_source)
    return api.bounds(model, query, method, device=device, iterations=iterations)


@dataclass(frozen=True)
class Job:
    """One line of an instances file: its files found and hashed (an empty hash: the file cannot be read)."""

    instance: Instance
    model: str
    prop: str
    model_sha256: str
    property_sha256: str
    timeout: float
    verifier: str
    labels: Labels

    @property
    def key(self) -> Key:
        return self.model_sha256, self.property_sha256, self.verifier, self.timeout


@dataclass(frozen=True)
class Plan:
    """What a campaign has to do: its jobs, and the records of those that an earlier run has done."""

    jobs: tuple[Job, ...]
    done: Mapping[Key, Record]

    @property
    def pending(self) -> list[Job]:
        return [job for job in self.jobs if job.key not in self.done]

    @property
    def finished(self) -> list[Record]:
        return [self.done[job.key] for job in self.jobs if job.key in self.done]


def plan(
    csv_path: str,
    results: str,
    *,
    verifiers: Sequence[str] = ("crown",),
    timeout: float | None = None,
    limit: int | None = None,
    labels: Labels | None = None,
) -> Plan:
    """What is left for each of `verifiers` to do of the first `limit` lines of an instances file, given `results`.

    An instance is done when a record has its model's and property's hash, the verifier and the timeout, and
    another verdict than `error`. Each may run for its own timeout, or `timeout` seconds where that is less.

    Raises:
        InputError: an unreadable instances or results file; a results file that cannot be written.
    """
    if results == streams.STREAM:
        raise InputError("records go to a file, not to a stream: a later run reads them", hint="name a file")
    streams.check_destination(results)
    lines = instances.read(csv_path)
    known = verdict.read([results]) if Path(results).exists() and Path(results).stat().st_size else []
    sha256 = lru_cache(maxsize=None)(_sha256)
    jobs = []
    for instance, verifier in itertools.product(lines[:limit], verifiers):
        networks = dict(instance.networks) or {"": instance.onnx}
        files = {name: instances.resolve(csv_path, file) for name, file in networks.items()}
        prop = instances.resolve(csv_path, instance.vnnlib)
        jobs.append(
            Job(
                instance=instance,
                model=joined(files),
                prop=prop,
                model_sha256=fingerprint({name: sha256(file) for name, file in files.items()}),
                property_sha256=sha256(prop),
                timeout=instance.timeout if timeout is None else min(timeout, instance.timeout),
                verifier=verifier,
                labels=labels or {},
            )
        )
    done = {
        (entry.model_sha256, entry.property_sha256, entry.verifier, entry.timeout): entry
        for entry in known
        if entry.verdict != "error"
    }
    return Plan(tuple(jobs), done)


def run(
    jobs: Iterable[Job],
    results: str,
    how: How = PLAINLY,
    *,
    witness_dir: str | None = None,
    state_dir: str | None = None,
    log_dir: str | None = None,
) -> Iterator[Record]:
    """Verify the jobs, those of one network together; each record is appended to `results` before it is yielded.

    A record's seconds hold its share of what was done for several jobs at once. A job that fails gets the verdict
    `error` and its reason, and the next one follows. Witnesses go to `witness_dir` (made when missing), when given, as
    `<model>_<property>_<hash>.witness`; what time leaves open goes to `state_dir`, likewise, as `….state`, from where a
    run with a longer timeout goes on; what foreign verifiers print goes to `log_dir`, as `….log`. Each job names its
    verifier; the rest is as `how` says. Once `how.stop` says so, no more is begun; what it cut short has no record.
    """
    for folder in (witness_dir, state_dir, log_dir):
        if folder is not None:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot be made: {error.strerror or error}", where=folder) from None
    networks: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        networks.setdefault((job.model_sha256 or job.model, job.verifier), []).append(job)
    for (_, verifier), group in networks.items():
        questions = [
            Question(
                job.prop,
                job.timeout,
                state=_file(state_dir, job, "state"),
                log=None if verifier in dispatch.NATIVE else _file(log_dir, job, "log"),
            )
            for job in group
        ]
        mine = replace(how, verifier=verifier)
        for i, answer in queue.decide(group[0].model, questions, mine):
            job = group[i]
            entry = _entry(job, answer, mine, _file(witness_dir, job, "witness"), questions[i].log)
            if how.stop() and entry.verdict not in ("sat", "unsat"):
                return
            verdict.append(results, entry)
            yield entry


def _entry(job: Job, answer: Answer | Failure, how: How, witness_file: str | None, log: str | None) -> Record:
    names = job.instance.onnx, job.instance.vnnlib
    if isinstance(answer, Answer):
        try:
            entry = _record(answer, *names, how, job.timeout, witness_file, log)
        except InputError as error:  # the witness cannot be written
            entry = _failed(job, how.seed, Failure(error, answer.result.seconds))
    else:
        entry = _failed(job, how.seed, answer)
    return replace(entry, labels={**entry.labels, **job.labels})


def _record(
    answer: Answer,
    model: str,
    prop: str,
    how: How,
    timeout: float,
    witness_file: str | None,
    log: str | None,
) -> Record:
    """The record of an answer; the witness of a `sat` is written to `witness_file`, when given."""
    result = answer.result
    layers = result.layers
    if witness_file is not None and result.witness is not None:
        witness.write(result.witness.x, result.witness.y, witness_file)
    return Record(
        model=model,
        model_sha256=answer.model_sha256,
        property=prop,
        property_sha256=answer.property_sha256,
        verifier=how.verifier,
        verdict=result.verdict,
        seconds=result.seconds,
        phases=result.phases,
        unstable=None if layers is None else {layer.name: layer.unstable for layer in layers},
        neurons=None if layers is None else {layer.name: layer.neurons for layer in layers},
        domains=result.domains,
        bound=result.bound,
        witness=Path(witness_file).name if witness_file is not None and result.witness is not None else None,
        log=Path(log).name if log is not None and Path(log).exists() else None,
        timeout=timeout,
        seed=how.seed,
        message=result.message,
        labels={"replay": result.replay} if result.replay else {},
    )


def _failed(job: Job, seed: int, failure: Failure) -> Record:
    error = failure.error
    what = str(error) if isinstance(error, SecateurError) else f"{type(error).__name__}: {error}"
    return Record(
        model=job.instance.onnx,
        model_sha256=job.model_sha256,
        property=job.instance.vnnlib,
        property_sha256=job.property_sha256,
        verifier=job.verifier,
        verdict="error",
        seconds=failure.seconds,
        timeout=job.timeout,
        seed=seed,
        message=" ".join(what.split()),
    )


def _file(folder: str | None, job: Job, ending: str) -> str | None:
    """Where in `folder` a job's file of this kind is."""
    if folder is None:
        return None
    stems = [Path(path.removesuffix(".gz")).stem for path in (job.model, job.prop)]
    return str(Path(folder, f"{stems[0]}_{stems[1]}_{job.property_sha256[:8]}.{ending}"))


def _sha256(path: str) -> str:
    try:
        return hashlib.sha256(streams.read_bytes(path)).hexdigest()
    except InputError:
        return ""


@dataclass(frozen=True)
class Tally:
    """Counts and times of a set of records; `right` and `wrong` are judged by what was known before."""

    instances: int
    verdicts: Mapping[str, int]
    right: int
    wrong: int
    seconds: float
    median_seconds: float

    @property
    def decided(self) -> int:
        return self.verdicts["sat"] + self.verdicts["unsat"]


def tally(records: Iterable[Record], expected: Mapping[tuple[str, str], str] | None = None) -> Tally:
    """Count verdicts and seconds; `expected` maps (model, property), as records name them, to `sat` or `unsat`."""
    records = list(records)
    counts = Counter(entry.verdict for entry in records)
    judged = [
        answer == entry.verdict
        for entry in records
        if entry.verdict in ("sat", "unsat")
        and (answer := (expected or {}).get((entry.model, entry.property)))
    ]
    return Tally(
        instances=len(records),
        verdicts={name: counts[name] for name in VERDICTS},
        right=judged.count(True),
        wrong=judged.count(False),
        seconds=sum(entry.seconds for entry in records),
        median_seconds=median(entry.seconds for entry in records) if records else 0.0,
    )
