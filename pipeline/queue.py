"""Deciding many properties of one network: it is read and prepared once, and what can be done at once is.

By our engine every property first climbs the first rungs of the ladder, a group at a time in shared batches; then those
left open begin their searches in shared batches, and go on one after the other. Each answer is given as soon as it is
known. Other verifiers, and questions about several networks (see `product`), take one after the other.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec

import numpy as np

from secateur.formats import onnx_model, streams, vnnlib
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline import onnxrt, product
from secateur.pipeline.dispatch.foreign import Runner
from secateur.pipeline.questions import (
    Answer,
    Answers,
    Failure,
    How,
    Question,
    fingerprint,
    read_models,
    sources,
)
from secateur.pipeline.verify import api
from secateur.pipeline.verify.engine import GROUP, Engine
from secateur.pipeline.verify.replay import Replay, Witness
from secateur.pipeline.verify.search import checkpoint
from secateur.pipeline.verify.search.work import Work, spent

P = ParamSpec("P")


def decide(model_source: str | Mapping[str, str], questions: Sequence[Question], how: How) -> Answers:
    """Answer questions about the model file at `model_source` (or `-`), whatever happens to some of them.

    Several networks are given as `f=a.onnx,g=b.onnx`, or as files by name (one without a name by ""). Once `how.stop`
    says so (asked between the steps of the engine "crown" and while foreign verifiers run), time is over.
    """
    asked = [i for i, question in enumerate(questions) if question.refusal is None]
    for i, question in enumerate(questions):
        if question.refusal is not None:
            yield i, Failure(question.refusal, 0.0)
    started = time.perf_counter()
    try:
        files = sources(model_source) if isinstance(model_source, str) else model_source
        models = read_models(files)
        reader = _Reader(models, questions, (time.perf_counter() - started) / max(1, len(asked)))
        engine = None
        if how.verifier == "crown" and "" in models:
            engine = Engine(models[""], how.device, how.memory, branching=how.branching)
        runner = None
        if (tool := how.tool) is not None and "" in models:
            runner = Runner(tool, Replay(models[""]), how.limits)
    except Exception as error:
        seconds = (time.perf_counter() - started) / max(1, len(asked))
        yield from ((i, Failure(error, seconds)) for i in asked)
        return
    if engine is not None:
        yield from _ladder(engine, reader, asked, how)
        return
    for i in asked:
        started = time.perf_counter()
        try:
            query, reading = reader.read(i)
            if not reader.about_one(query):
                yield i, _joint(reader, i, query, reading, how)
            elif runner is not None:
                yield i, _foreign(runner, files[""], models[""], questions[i], query, reading, how)
            else:
                yield i, _plain(models[""], questions[i], query, reading, how)
        except Exception as error:
            yield i, Failure(error, time.perf_counter() - started)


@dataclass(frozen=True)
class _Reader:
    """Reads the questions' properties; `share` is each one's part of the seconds that the models took to read."""

    models: Mapping[str, Model]
    questions: Sequence[Question]
    share: float

    def read(self, i: int) -> tuple[Query, float]:
        """The property of question i, and the seconds of reading."""
        started = time.perf_counter()
        query = vnnlib.read(self.questions[i].prop)
        if self.about_one(query):
            model = self.models[""]
            vnnlib.fits(query, onnxrt.count_inputs(model), onnxrt.count_outputs(model), query.name)
        return query, self.share + time.perf_counter() - started

    def about_one(self, query: Query) -> bool:
        """Whether the query is about one network with one input and one output, and the model has no name."""
        return "" in self.models and product.plain(query)

    def given(self, query: Query) -> Mapping[str, Model]:
        """The models by network: one without a name is the first network's."""
        return {name or query.networks[0].name: model for name, model in self.models.items()}


@dataclass(frozen=True)
class _Known:
    """A reader of one question whose property is known already."""

    questions: Sequence[Question]
    query: Query
    seconds: float

    def read(self, i: int) -> tuple[Query, float]:
        return self.query, self.seconds


def _plain(model: Model, question: Question, query: Query, reading: float, how: How) -> Answer:
    """The answer of a verifier of ours that takes one question at a time."""
    timeout = max(question.timeout - reading, 0.001)
    result = api.verify(
        model, query, timeout=timeout, verifier=how.verifier, device=how.device, seed=how.seed
    )
    phases = {"read": reading, **result.phases}
    result = replace(result, seconds=reading + result.seconds, phases=phases)
    return Answer(result, model.sha256, query.sha256)


def _foreign(
    runner: Runner,
    model_source: str,
    model: Model,
    question: Question,
    query: Query,
    reading: float,
    how: How,
) -> Answer:
    """The answer of a foreign verifier, on the files as they are where it can read them."""
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        data = onnx_model.to_bytes(model.proto) if model_source == streams.STREAM else None
        onnx = _file(model_source, Path(folder, "model.onnx"), data)
        restate = runner.tool.restate
        if restate is None and (question.prop == streams.STREAM or not runner.tool.reads(query.version)):
            restate = vnnlib.to_text
        text = None if restate is None else restate(query).encode()
        prop = _file(question.prop if text is None else "-", Path(folder, "property.vnnlib"), text)
        result = runner.decide(
            onnx,
            prop,
            query,
            timeout=max(question.timeout - reading, 0.001),
            log=None if question.log is None else Path(question.log),
            stop=how.stop,
        )
    result = replace(result, seconds=reading + result.seconds, phases={"read": reading, **result.phases})
    return Answer(result, model.sha256, query.sha256)


def _file(source: str, place: Path, data: bytes | None) -> Path:
    """A plain file for a foreign program: the one at `source` itself where it is one, else what is written to
    `place` (`data`, or what the compressed file at `source` holds)."""
    if source != streams.STREAM and Path(source).is_file():
        with open(source, "rb") as stream:
            if stream.read(2) != b"\x1f\x8b":
                return Path(source)
    place.write_bytes(streams.read_bytes(source) if data is None else data)
    return place


def _joint(reader: _Reader, i: int, query: Query, reading: float, how: How) -> Answer | Failure:
    """The answer to a question about several networks (or inputs, outputs, hidden values): that of their product.

    A witness is one only when it holds on the networks themselves.
    """
    question, started = reader.questions[i], time.perf_counter()
    models = product.models_of(query, reader.given(query), query.name)
    whole = product.compile(query, models)
    reading += time.perf_counter() - started
    if how.verifier == "crown":
        engine = Engine(whole.model, how.device, how.memory, branching=how.branching)
        known = _Known([question], whole.query, reading)
        ((_, answer),) = _ladder(engine, known, [0], how)
    elif (tool := how.tool) is not None:
        runner = Runner(tool, Replay(whole.model), how.limits)
        stream = replace(
            question, prop=streams.STREAM
        )  # neither network nor property is a file as it was given
        answer = _foreign(runner, streams.STREAM, whole.model, stream, whole.query, reading, how)
    else:
        answer = _plain(whole.model, question, whole.query, reading, how)
    if isinstance(answer, Failure):
        return answer
    result = answer.result
    if result.witness is not None:
        x = np.asarray(whole.expand(result.witness.x), np.float64)
        holds, y = product.check(query, models, x)
        if holds:
            result = replace(result, witness=Witness(x, y))
        else:
            message = "the product's witness does not hold on the networks themselves"
            result = replace(result, verdict="unknown", witness=None, message=message)
    known_by = fingerprint({name: model.sha256 for name, model in reader.models.items()})
    return Answer(result, known_by, query.sha256)


def _ladder(engine: Engine, reader: _Reader | _Known, asked: Sequence[int], how: How) -> Answers:
    build = engine.build_seconds / max(1, len(asked))
    waiting: list[tuple[int, Work]] = []
    for first in range(0, len(asked), GROUP):
        group: list[tuple[int, Work]] = []
        for i in asked[first : first + GROUP]:
            started = time.perf_counter()
            try:
                query, reading = reader.read(i)
                if isinstance(reader, _Reader) and not reader.about_one(query):
                    yield i, _joint(reader, i, query, reading, how)
                    continue
                engine.check_fits(query)
                question = reader.questions[i]
                work = Work(query, question.timeout, {"read": reading, "build": build}, how.stop)
                _go_on(engine, work, question.state, how.seed)
                group.append((i, work))
            except Exception as error:
                yield i, Failure(error, time.perf_counter() - started)
        if _error(engine.begin, [work for _, work in group], how.seed):
            # One of them spoils the batch: each by itself, from where it was.
            for i, work in tuple(group):
                if not work.verdict and (reason := _error(engine.begin, [work], how.seed)):
                    group.remove((i, work))
                    yield i, Failure(reason, work.seconds)
        for i, work in group:
            if work.verdict:
                yield i, _answered(engine, work, reader.questions[i].state, how.seed)
            else:
                waiting.append((i, work))
    shared = 0
    for position, (i, work) in enumerate(waiting):
        if position == shared:
            works = [each for _, each in waiting[position : position + GROUP]]
            new = [each for each in works if each.left is None]
            try:
                shared += engine.share(works, how.seed)
            except Exception:  # what spoils shared batches shows again where each is finished by itself
                shared += len(works)
                for each in new:  # from where it was: what is left of it now may lack domains
                    each.left = each.begun = None
        if reason := _error(engine.finish, work, how.seed):
            yield i, Failure(reason, work.seconds)
        else:
            yield i, _answered(engine, work, reader.questions[i].state, how.seed)


def _go_on(engine: Engine, work: Work, state: str | None, seed: int) -> None:
    """Go on from the state file, where one is named and there."""
    if state is not None:
        streams.check_destination(state)
        if Path(state).exists():
            with spent("read", work):
                made_for = checkpoint.fingerprint(engine.model.sha256, work.query.sha256, seed)
                checkpoint.load(state, work, made_for, engine.shaped(work.problems.boxes), engine.budget.half)


def _answered(engine: Engine, work: Work, state: str | None, seed: int) -> Answer | Failure:
    """The answer; what is left is written to the state file where one is named, which is removed when nothing is."""
    if work.earlier:
        work.message = f"{work.earlier:.1f} s before; {work.message}".removesuffix("; ")
    if state is not None and work.verdict == "timeout":
        made_for = checkpoint.fingerprint(engine.model.sha256, work.query.sha256, seed)
        try:
            checkpoint.save(state, work, made_for)
        except InputError as error:
            return Failure(error, work.seconds)
        work.message = f"the same command goes on from {state}"
    elif state is not None:
        Path(state).unlink(missing_ok=True)
    return Answer(work.result(), engine.model.sha256, work.query.sha256)


def _error(step: Callable[P, None], *arguments: P.args, **named: P.kwargs) -> Exception | None:
    """Take the step; what it raises is returned."""
    try:
        step(*arguments, **named)
    except Exception as error:
        return error
    return None
