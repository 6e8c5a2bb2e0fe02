"""Small networks of few inputs: boxes and neurons are split in turns; what is hard for one is left to the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from factories import box_property
from nets import Net
from secateur.formats import onnx_model, vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline.questions import Answer, How, Question
from secateur.pipeline.queue import decide
from secateur.pipeline.verify import engine
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.search import strategy
from secateur.pipeline.verify.search.problem import Progress
from secateur.pipeline.verify.search.work import Work


def twins(seed: int) -> Model:
    """The difference of two copies of a network of six neurons: zero everywhere, which no box shows."""
    net = Net(seed, 2)
    weights = [net.random.normal(size=shape) for shape in ((2, 6), (6, 1))]
    values = []
    for _ in range(2):
        hidden = net("Relu", net("Add", net("MatMul", "x", net.constant(weights[0])), net.constant(0.1)))
        values.append(net("MatMul", hidden, net.constant(weights[1])))
    return net.finish(net("Sub", *values))


def searched(model: Model, margin: float, most: int) -> tuple[str, int]:
    """The verdict of a search that is stopped after about so many domains, and how many it took."""
    query = vnnlib.parse(box_property([-1.0] * 2, [1.0] * 2, 1, f"(>= Y_0 {margin!r})"), "p")
    ready, work = Engine(model), Work(query, 300.0)
    work.stop = lambda: work.left is not None and work.left.progress.domains >= most
    ready.begin([work], 0)
    ready.finish(work, 0)
    return work.verdict, work.domains


def test_twins_that_differ_by_less_than_asked_are_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    monkeypatch.setattr(strategy, "FIRST_TURN", 500)
    monkeypatch.setattr(strategy, "NEURON_TURN", 2)
    model = twins(0)
    verdict, domains = searched(model, 1e-4, 12_000)
    assert verdict == "unsat" and domains > 500
    monkeypatch.setattr(strategy, "FEW_NEURONS", 0)
    assert searched(model, 1e-4, 12_000)[0] == "timeout"


def test_stopped_in_any_turn_the_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    monkeypatch.setattr(strategy, "FIRST_TURN", 300)
    monkeypatch.setattr(strategy, "NEURON_TURN", 2)
    monkeypatch.setattr(strategy, "INPUT_BATCH", 64)
    onnx_model.write(twins(0), str(tmp_path / "net.onnx"))
    (tmp_path / "p.vnnlib").write_text(box_property([-1.0] * 2, [1.0] * 2, 1, "(>= Y_0 0.001)"))
    state = tmp_path / "s.npz"
    domains, both = [0], 0
    for _ in range(100):
        asked = 0

        def stop() -> bool:
            nonlocal asked
            asked += 1
            return asked > 100

        question = Question(str(tmp_path / "p.vnnlib"), 300.0, state=str(state))
        ((_, answer),) = decide(str(tmp_path / "net.onnx"), [question], How(stop=stop))
        assert isinstance(answer, Answer)
        domains.append(answer.result.domains)
        if answer.result.verdict != "timeout":
            break
        with np.load(state) as file:
            both += "store/bound" in file.files and "neurons-store/bound" in file.files
    assert answer.result.verdict == "unsat" and both > 1
    assert domains == sorted(set(domains)) and len(domains) > 4


def test_where_neurons_cannot_decide_boxes_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def undecided(*_: object, progress: Progress, **__: object) -> str:
        progress.undecided = True
        return "unknown"

    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    monkeypatch.setattr(strategy, "FIRST_TURN", 1)
    monkeypatch.setattr(strategy.relu_split, "solve", undecided)
    verdict, domains = searched(twins(0), 0.1, 12_000)
    assert verdict == "unsat" and domains > 2
