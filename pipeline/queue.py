"""Deciding many properties of one network: it is read and prepared once, and what can be done at once is.

First every property climbs the first rungs of the ladder, a group at a time in shared batches; then those left open are
searched one after the other. Each answer is given as soon as it is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec

from secateur.formats import onnx_model, streams, vnnlib
from secateur.formats.errors import InputError, SecateurError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline import onnxrt
from secateur.pipeline.verify import api, checkpoint
from secateur.pipeline.verify.engine import GROUP, Engine
from secateur.pipeline.verify.results import Result
from secateur.pipeline.verify.work import Work, never, spent

P = ParamSpec("P")


@dataclass(frozen=True)
class Question:
    """A property file (or `-`) and the seconds that its answer may take.

    `refusal`: why it is not asked at all; `state`: a file that holds what is left of the search when time is over, and
    from which it goes on when the file is there. It is removed when the question is answered.
    """

    prop: str
    timeout: float
    refusal: SecateurError | None = None
    state: str | None = None


@dataclass(frozen=True)
class Answer:
    """What was decided; `result.seconds` are all that was spent on it, reading included: of batches, its share."""

    result: Result
    model_sha256: str
    property_sha256: str


@dataclass(frozen=True)
class Failure:
    """What went wrong instead, and after how many seconds."""

    error: Exception
    seconds: float


Answers = Iterator[tuple[int, Answer | Failure]]
"""Positions of questions, and what became of them."""


def decide(
    model_source: str,
    questions: Sequence[Question],
    *,
    verifier: str = "crown",
    device: str = "cpu",
    seed: int = 0,
    memory: int | None = None,
    stop: Callable[[], bool] = never,
) -> Answers:
    """Answer questions about the model file at `model_source` (or `-`), whatever happens to some of them.

    Once `stop` says so (asked between the steps of the engine "crown"), time is over.
    """
    asked = [i for i, question in enumerate(questions) if question.refusal is None]
    for i, question in enumerate(questions):
        if question.refusal is not None:
            yield i, Failure(question.refusal, 0.0)
    started = time.perf_counter()
    try:
        model = onnx_model.read(model_source)
        reader = _Reader(model, questions, (time.perf_counter() - started) / max(1, len(asked)))
        engine = Engine(model, device, memory) if verifier == "crown" else None
    except Exception as error:
        seconds = (time.perf_counter() - started) / max(1, len(asked))
        yield from ((i, Failure(error, seconds)) for i in asked)
        return
    if engine is not None:
        yield from _ladder(engine, reader, asked, seed, stop)
        return
    for i in asked:
        started = time.perf_counter()
        try:
            query, reading = reader.read(i)
            timeout = max(questions[i].timeout - reading, 0.001)
            result = api.verify(model, query, timeout=timeout, verifier=verifier, device=device, seed=seed)
        except Exception as error:
            yield i, Failure(error, time.perf_counter() - started)
        else:
            phases = {"read": reading, **result.phases}
            result = replace(result, seconds=reading + result.seconds, phases=phases)
            yield i, Answer(result, model.sha256, query.sha256)


@dataclass(frozen=True)
class _Reader:
    """Reads the questions' properties; `share` is each one's part of the seconds that the model took to read."""

    model: Model
    questions: Sequence[Question]
    share: float

    def read(self, i: int) -> tuple[Query, float]:
        """The property of question i, and the seconds of reading."""
        started = time.perf_counter()
        query = vnnlib.read(
            self.questions[i].prop,
            inputs=onnxrt.count_inputs(self.model),
            outputs=onnxrt.count_outputs(self.model),
        )
        return query, self.share + time.perf_counter() - started


def _ladder(
    engine: Engine, reader: _Reader, asked: list[int], seed: int, stop: Callable[[], bool]
) -> Answers:
    build = engine.build_seconds / max(1, len(asked))
    waiting: list[tuple[int, Work]] = []
    for first in range(0, len(asked), GROUP):
        group: list[tuple[int, Work]] = []
        for i in asked[first : first + GROUP]:
            started = time.perf_counter()
            try:
                query, reading = reader.read(i)
                engine.check_fits(query)
                question = reader.questions[i]
                work = Work(query, question.timeout, {"read": reading, "build": build}, stop)
                _go_on(engine, work, question.state, seed)
                group.append((i, work))
            except Exception as error:
                yield i, Failure(error, time.perf_counter() - started)
        if _error(engine.begin, [work for _, work in group], seed):
            # One of them spoils the batch: each by itself, from where it was.
            for i, work in tuple(group):
                if not work.verdict and (reason := _error(engine.begin, [work], seed)):
                    group.remove((i, work))
                    yield i, Failure(reason, work.seconds)
        for i, work in group:
            if work.verdict:
                yield i, _answered(engine, work, reader.questions[i].state, seed)
            else:
                waiting.append((i, work))
    for i, work in waiting:
        if reason := _error(engine.finish, work, seed):
            yield i, Failure(reason, work.seconds)
        else:
            yield i, _answered(engine, work, reader.questions[i].state, seed)


def _go_on(engine: Engine, work: Work, state: str | None, seed: int) -> None:
    """Go on from the state file, where one is named and there."""
    if state is not None:
        streams.check_destination(state)
        if Path(state).exists():
            with spent("read", work):
                made_for = checkpoint.fingerprint(engine.model.sha256, work.query.sha256, seed)
                checkpoint.load(state, work, made_for, engine.shaped(work.problems.boxes), engine.store_limit)


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
