"""Fuzz the engine as long as told: random graphs, boxes, properties and settings against independent judges.

    make fuzz MINUTES=60 SEED=1

What is drawn, by the seed of a case (SEED, SEED + 1, …) alone:

* enumerated: a small ReLU network and a property whose least violation is known by enumeration (see `properties`);
* operators: a chain of one to three of the operators' cases (see `cases`), random boxes, conditions set next to the
  least violation among sampled points; the mixed-integer program where ReLUs alone are bounded, too;
* planted: such a chain plus a needle, a spike of ReLUs around a hidden point that satisfies the property and that no
  gradient leads to (in the manner of SoundnessBench, arXiv 2412.03154).

A finding is: `unsat` where a point is known, `sat` where enumeration or the program excludes it or where replay in
onnxruntime fails, a bound that a sampled point passes, a certificate that fails its check, an error that is not a
refusal. Its files go to a folder below
--out: model.onnx, the properties, and a text that says how to repeat it. Exit code 1 when there is one.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import count
from pathlib import Path
from unittest import mock

import numpy as np

from cases import CASES, append, opset
from certificates import prove_within
from nets import INPUTS, Net
from oracles import satisfied
from properties import Row, instance, write
from secateur.formats import onnx_model, vnnlib
from secateur.formats.errors import CheckFailed, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline import compute, onnxrt
from secateur.pipeline.certificate import check
from secateur.pipeline.verify import Result, bounds, engine, verify, verify_many
from secateur.pipeline.verify.api import METHODS
from secateur.pipeline.verify.graph.lowering import lower
from secateur.pipeline.verify.search import strategy

SAMPLES = 600
DELTAS = (-0.3, -0.03, 0.003, 0.03, 0.3, 1.0)
"""Where the least sampled violation is put, in standard deviations of the violation over the samples."""

Floats = np.ndarray


@dataclass(frozen=True)
class Question:
    """A property, what is known of it ("sat", "unsat" or ""), and the least violation among samples (None: unknown)."""

    text: str
    known: str
    clauses: list[list[Row]] = field(default_factory=list)
    shift: float = 0.0
    least: float | None = None

    def violation(self, x: Floats, y: Floats) -> Floats:
        """(n,) at points x (n, inputs) and y (n, outputs): the least, over the clauses, of their largest row."""
        values = [
            np.max([x @ row.inputs + y @ row.outputs + row.constant + self.shift for row in clause], axis=0)
            for clause in self.clauses
        ]
        return np.min(values, axis=0)


@dataclass(frozen=True)
class Example:
    """A network, questions about it, and points of their box with the outputs there (none where enumeration judges)."""

    kind: str
    model: Model
    questions: list[Question]
    x: Floats
    y: Floats


def chain(net: Net, random: np.random.Generator) -> tuple[str, int, int]:
    """One to three operators' cases of one operator set, one behind the other: the last value, its width, the set."""
    names = sorted(CASES)
    first = names[int(random.integers(len(names)))]
    alike = [name for name in names if opset(name) == opset(first)]
    value, width = append(net, "x", INPUTS, first)
    for _ in range(int(random.integers(0, 3))):
        value, width = append(net, value, width, alike[int(random.integers(len(alike)))])
    return value, width, opset(first)


def random_box(random: np.random.Generator) -> Floats:
    """(2, INPUTS), ends in multiples of 1/64, some sides without width."""
    centre = random.integers(-64, 65, INPUTS) / 64
    radius = random.integers(1, 65, INPUTS) / 64
    if random.random() < 0.5:
        radius[random.random(INPUTS) < 0.3] = 0
    return np.stack([centre - radius, centre + radius])


def sampled(model: Model, box: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Points of the box, half of them corners, as float32 numbers, and onnxruntime's outputs there, both float64."""
    shares = random.random((SAMPLES, INPUTS))
    shares[: SAMPLES // 2] = shares[: SAMPLES // 2].round()
    x = np.clip((box[0] + shares * (box[1] - box[0])).astype(np.float32), *box)
    return x.astype(np.float64), onnxrt.run(model, x.astype(np.float32)).astype(np.float64)


def near(random: np.random.Generator, box: Floats, x: Floats, y: Floats) -> Question:
    """One to three clauses of one to three rows, moved so that the least sampled violation is one of DELTAS."""

    def row() -> Row:
        direct = random.integers(-8, 9, INPUTS) / 8 if random.random() < 0.3 else np.zeros(INPUTS)
        weights = random.integers(-8, 9, y.shape[1]) / 8
        weights[0] = weights[0] or 1.0
        return Row(direct, weights, float(random.integers(-8, 9) / 8), bool(random.random() < 0.3))

    clauses = [[row() for _ in range(int(random.integers(1, 4)))] for _ in range(int(random.integers(1, 4)))]
    values = Question("", "", clauses).violation(x, y)
    delta = DELTAS[int(random.integers(len(DELTAS)))] * float(values.std() + 1e-3)
    shift = round(delta - float(values.min()), 6)
    text = write(INPUTS, y.shape[1], [(box, [], clauses)], shift)
    return known_by(Question(text, "", clauses, shift), x, y)


def known_by(question: Question, x: Floats, y: Floats) -> Question:
    """The question, "sat" if one of the points that come nearest satisfies its text exactly."""
    values = question.violation(x, y)
    best = np.argsort(values)[:3]
    holds = any(
        satisfied(question.text, *(list(map(Fraction, side[i].tolist())) for side in (x, y))) for i in best
    )
    return replace(question, known="sat" if holds else "", least=float(values.min()))


def enumerated(seed: int, _: np.random.Generator) -> Example:
    found = instance(seed)
    question = Question(found.text, "sat" if found.least < 0 else "unsat")
    return Example("enumerated", found.model, [question], np.zeros((0, 1)), np.zeros((0, 1)))


def operators(seed: int, random: np.random.Generator) -> Example:
    net = Net(seed)
    value, width, version = chain(net, random)
    model = net.finish(net.dense(value, width, 2), version)
    box = random_box(random)
    x, y = sampled(model, box, random)
    questions = [near(random, box, x, y) for _ in range(int(random.integers(1, 4)))]
    return Example("operators", model, questions, x, y)


def planted(seed: int, random: np.random.Generator) -> Example:
    """y₀ gains relu(h - s·|x - x*|₁), and the property asks for a y₀ that only the spike's top reaches."""
    net = Net(seed)
    value, width, version = chain(net, random)
    base = net.dense(value, width, 2)
    box = random_box(random)
    x, y = sampled(net.finish(base, version), box, random)
    point = x[int(random.integers(len(x)))]
    height = float(2 * np.ptp(y[:, 0]) + 1)
    widest = max(float(np.ptp(box, axis=0).max()), 1 / 64)  # a box may be a point
    sharpness = height / (widest * 10 ** random.uniform(-3, -0.5))
    offset = net("Sub", "x", net.constant(point))
    distance = net(
        "MatMul", net("Abs", offset), net.constant(np.array([[-sharpness, 0.0]] * INPUTS, np.float32))
    )
    spike = net("Relu", net("Add", distance, net.constant(np.array([height, 0.0], np.float32))))
    model = net.finish(net("Add", base, spike), version)
    top = float(onnxrt.run(model, point[None].astype(np.float32))[0, 0])
    row = Row(np.zeros(INPUTS), np.array([-1.0, 0.0]), round(top - height / 4, 6), False)
    question = Question(write(INPUTS, 2, [(box, [], [[row]])], 0.0), "", [[row]])
    x = np.concatenate([point[None], x])
    y = onnxrt.run(model, x.astype(np.float32)).astype(np.float64)
    return Example("planted", model, [known_by(question, x, y)], x, y)


KINDS = {"enumerated": (enumerated, 0.3), "operators": (operators, 0.45), "planted": (planted, 0.25)}


def settings(random: np.random.Generator) -> dict[str, object]:
    """The engine's numbers for one case; some without its attack, so that the proof stands alone."""

    def one(*values: object) -> object:
        return values[int(random.integers(len(values)))]

    chosen = {
        "FEW_INPUTS": one(0, 8),
        "BURST": one(0, 10, 3_000),
        "SPLIT_NUMBERS": one(50, 2000, 400_000),
        "CUT_NUMBERS": one(50, 2000, 200_000),
        "INPUT_BATCH": one(1, 16, 256),
    }
    return chosen | ({"attack": no_attack} if random.random() < 0.3 else {})


def no_attack(*_: object, **__: object) -> dict[int, object]:
    return {}


@dataclass
class Outcome:
    """What came of one case: a verdict a question ("refused" for an unsupported operator), and the findings."""

    example: Example | None = None
    verdicts: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    setting: str = ""


def examine(seed: int) -> Outcome:
    """Draw the case of `seed`, run the engine on it, judge."""
    random = np.random.default_rng([seed, 1])
    kind = list(KINDS)[int(random.choice(len(KINDS), p=[share for _, share in KINDS.values()]))]
    outcome = Outcome()
    try:
        with np.errstate(all="ignore"):
            example = outcome.example = KINDS[kind][0](seed, random)
        if not (np.isfinite(example.y).all() and np.abs(example.y).max(initial=0) < 1e6):
            outcome.verdicts = ["overflow"] * len(example.questions)  # outputs that mean nothing in float32
            return outcome
        chosen = settings(random)
        timeout = float(random.choice([0.1, 1.0, 5.0]))
        outcome.setting = f"timeout {timeout:g}, seed {seed}, {chosen}"
        queries = [vnnlib.parse(question.text, f"p{i}") for i, question in enumerate(example.questions)]
        with ExitStack() as stack:
            for name, value in chosen.items():
                stack.enter_context(
                    mock.patch.object(engine if hasattr(engine, name) else strategy, name, value)
                )
            results = list(
                verify_many([(example.model, query) for query in queries], timeout=timeout, seed=seed)
            )
            outcome.verdicts = [result.verdict for result in results]
            for i, (question, result) in enumerate(zip(example.questions, results, strict=True)):
                outcome.findings += [f"p{i}: {said}" for said in judge(example, question, result)]
        method = METHODS[int(random.integers(len(METHODS)))]
        outcome.findings += judge_bounds(example, queries[0], method)
        if lower(example.model).piecewise_linear and random.random() < 0.3:
            program = verify(example.model, queries[0], verifier="milp", timeout=5)
            outcome.findings += [
                f"p0, milp: {said}" for said in judge(example, example.questions[0], program)
            ]
            outcome.findings += against_program(example, results[0], program)
        if random.random() < 0.2:
            outcome.findings += certified(example, queries[0])
    except UnsupportedError:
        outcome.verdicts = ["refused"]
    except Exception:
        outcome.findings.append(traceback.format_exc())
    return outcome


def certified(example: Example, query: Query) -> Iterator[str]:
    """What is wrong with the certificate of the first question, or the verdict without one."""
    try:
        certificate, work = prove_within(example.model, query, 5)
    except UnsupportedError:  # not of ReLUs and affine operators alone
        return
    yield from (f"p0, proving: {said}" for said in judge(example, example.questions[0], work.result()))
    if certificate is not None:
        try:
            check(example.model, query, certificate, "certificate")
        except CheckFailed as error:
            yield f"p0: its certificate fails its check: {error}"


def judge(example: Example, question: Question, result: Result) -> Iterator[str]:
    """What is wrong with a verdict."""
    if result.verdict == "unsat" and question.known == "sat":
        yield "unsat, but there is a witness"
    if result.verdict == "sat":
        assert result.witness is not None
        x = result.witness.x
        y = onnxrt.run(example.model, np.asarray(x, np.float32)[None])[0]
        written = [Fraction(repr(float(v))) for v in x]
        if not satisfied(question.text, written, [Fraction(float(v)) for v in y]):
            yield f"sat, but the witness {x.tolist()} does not satisfy the property"
        if question.known == "unsat":
            yield f"sat, but enumeration excludes it: {x.tolist()}"
    elif result.bound is not None and question.least is not None:
        slack = 1e-4 * (1 + abs(question.least) + np.abs(example.y).max())
        if result.bound > question.least + slack:
            yield f"the violation's bound {result.bound} lies above the sampled {question.least}"


def judge_bounds(example: Example, query: Query, method: str) -> Iterator[str]:
    """What is wrong with the bounds of the outputs and of the violation on the first region."""
    found = bounds(example.model, query, method)
    region, question = found.regions[0], example.questions[0]
    if not len(example.y):
        if found.refuted and question.known == "sat":
            yield f"p0: {method} bounds refute it, but there is a witness"
        return
    slack = 1e-4 * (1 + np.abs(example.y).max())
    if not (
        (example.y >= np.array(region.lower) - slack) & (example.y <= np.array(region.upper) + slack)
    ).all():
        yield f"{method}: a sampled output lies outside the bounds {region.lower}, {region.upper}"
    if question.least is not None and not min(region.clauses) <= question.least + slack:
        yield f"{method}: a clause's bound {min(region.clauses)} lies above the sampled {question.least}"


def against_program(example: Example, ours: Result, program: Result) -> Iterator[str]:
    """Contradictions between the engine and the mixed-integer program, which has a tolerance of its own."""
    if (ours.verdict, program.verdict) == ("unsat", "sat"):
        yield "p0: unsat, but the mixed-integer program has a witness"
    if (ours.verdict, program.verdict) == ("sat", "unsat") and ours.witness is not None and len(example.y):
        x, y = ours.witness.x[None], np.asarray(ours.witness.y, np.float64)[None]
        excess = float(example.questions[0].violation(x, y)[0])
        if excess < -1e-5 * (1 + np.abs(example.y).max()):
            yield f"p0: the mixed-integer program excludes a witness with {-excess} to spare"


def keep(outcome: Outcome, seed: int, folder: Path) -> Path:
    """Write a finding's files, and how to repeat it."""
    place = folder / str(seed)
    place.mkdir(parents=True, exist_ok=True)
    if outcome.example is not None:
        onnx_model.write(outcome.example.model, str(place / "model.onnx"))
        for i, question in enumerate(outcome.example.questions):
            (place / f"p{i}.vnnlib").write_text(question.text)
    repeat = f"make fuzz SEED={seed} CASES=1\n{outcome.setting}\nverdicts: {outcome.verdicts}\n"
    (place / "finding.txt").write_text(repeat + "\n".join(outcome.findings) + "\n")
    return place


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    parser.add_argument("--cases", type=int, help="how many cases at most")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first case (default 0)")
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="where findings go (default fuzz/)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    options = parser.parse_args(arguments)
    compute.configure("cpu", options.threads)
    tallies: dict[str, Counter[str]] = defaultdict(Counter)
    started = said = time.perf_counter()
    findings, code = 0, 0
    try:
        for seed in count(options.seed):
            now = time.perf_counter()
            if now - started > 60 * options.minutes or seed - options.seed == options.cases:
                break
            outcome = examine(seed)
            kind = outcome.example.kind if outcome.example else "not drawn"
            tally = tallies[kind]
            tally.update(outcome.verdicts)
            tally["cases"] += 1
            tally["findings"] += bool(outcome.findings)
            if outcome.findings:
                findings += 1
                print(
                    f"FINDING {keep(outcome, seed, options.out)}: {outcome.findings[0].strip().splitlines()[-1]}"
                )
            if now - said > 30:
                said = now
                done = sum(tally["cases"] for tally in tallies.values())
                print(
                    f"{now - started:.0f} s: {done} cases, {findings} findings", file=sys.stderr, flush=True
                )
    except KeyboardInterrupt:
        code = 130
    columns = ["cases", "sat", "unsat", "unknown", "timeout", "refused", "overflow", "findings"]
    print(f"{'':12}" + "".join(f"{column:>10}" for column in columns))
    for kind, tally in sorted(tallies.items()):
        print(f"{kind:12}" + "".join(f"{tally[column]:>10}" for column in columns))
    last = options.seed + sum(tally["cases"] for tally in tallies.values()) - 1
    print(f"{time.perf_counter() - started:.0f} s, seeds {options.seed} to {last}")
    return 1 if findings else code


if __name__ == "__main__":
    sys.exit(main())
