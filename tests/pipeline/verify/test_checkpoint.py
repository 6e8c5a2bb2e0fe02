"""A search that goes on from its file: the same verdicts, and one clear line when it does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from factories import box_property
from nets import Net, mlp
from secateur.formats import onnx_model, vnnlib
from secateur.formats.errors import InputError
from secateur.pipeline.questions import Answer, Failure, How, Question
from secateur.pipeline.queue import decide
from secateur.pipeline.verify import engine, verify
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.search import strategy


def question(folder: Path, kind: str, margin: float) -> tuple[str, str]:
    """Files of a network of this kind, and of the property that its output passes its greatest by `margin`."""
    if kind == "cuts":
        net = Net(3, 3)
        value = "x"
        for rows, columns in ((3, 8), (8, 6)):
            weight = net.constant(1.2 * net.random.normal(size=(rows, columns)))
            value = net("Tanh", net("MatMul", value, weight))
        model = net.finish(net("MatMul", value, net.weight(6, 1)))
    else:
        model = mlp(3, 4, (16, 16) if kind == "small" else (40, 40), 1)
    size = 3 if kind == "cuts" else 4
    random = np.random.default_rng(0)
    x = np.concatenate([random.uniform(-1, 1, (20_000, size)), random.choice([-1.0, 1.0], (200, size))])
    most = float(Engine(model).replay.outputs(x).max())
    onnx_model.write(model, str(folder / "net.onnx"))
    text = box_property([-1.0] * size, [1.0] * size, 1, f"(>= Y_0 {most + margin!r})")
    (folder / "p.vnnlib").write_text(text)
    return str(folder / "net.onnx"), str(folder / "p.vnnlib")


def answered(model: str, prop: str, state: str | None, **options: object) -> Answer:
    timeout = float(options.pop("timeout", 60.0))  # type: ignore[arg-type]
    how = How(**options)  # type: ignore[arg-type]
    ((_, answer),) = decide(model, [Question(prop, timeout, state=state)], how)
    if isinstance(answer, Failure):
        raise answer.error
    return answer


class Steps:
    """Says stop after so many questions, as Ctrl-C would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("kind", ["neurons", "inputs"])
@pytest.mark.parametrize(("margin", "expected"), [(0.1, "unsat"), (-0.02, "sat")])
def test_stopped_again_and_again_the_verdict_is_the_same(
    tmp_path: Path, kind: str, margin: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "FEW_INPUTS", 8 if kind == "inputs" else 0)
    monkeypatch.setattr(engine, "BURST", 20)
    monkeypatch.setattr(engine, "FIRST_REFINEMENT", 1e5)
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    monkeypatch.setattr(strategy, "INPUT_BATCH", 2)
    monkeypatch.setattr(strategy, "SPLIT_NUMBERS", 2)
    model, prop = question(tmp_path, kind, margin)
    state = tmp_path / "s.npz"
    stops, domains = 0, 0
    for _ in range(200):
        result = answered(model, prop, str(state), stop=Steps(100 if kind == "neurons" else 30)).result
        assert result.domains >= domains
        domains = result.domains
        if result.verdict != "timeout":
            break
        stops += 1
        assert result.bound is None or result.bound <= 0
        assert state.exists() and "goes on" in result.message
    assert result.verdict == expected
    assert stops >= 1 or expected == "sat"
    assert not state.exists()


def test_a_search_that_cuts_arguments_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FEW_INPUTS", 0)
    monkeypatch.setattr(engine, "BURST", 0.0)
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    monkeypatch.setattr(strategy, "CUT_NUMBERS", 2)
    model, prop = question(tmp_path, "cuts", 0.1)
    state = tmp_path / "s.npz"
    results = [answered(model, prop, str(state), stop=Steps(100)).result for _ in range(5)]
    domains = [result.domains for result in results]
    assert {result.verdict for result in results} == {"timeout"}
    assert domains == sorted(set(domains)) and domains[-1] > 10
    with np.load(state) as file:
        assert len(file["store/bound"]) > 1


def test_a_state_that_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    model, prop = question(tmp_path, "neurons", 0.3)
    state = str(tmp_path / "s.npz")
    assert answered(model, prop, state, stop=lambda: True).result.verdict == "timeout"
    whole = Path(state).read_bytes()
    with pytest.raises(InputError, match=r"s\.npz: .*another seed"):
        answered(model, prop, state, seed=1)
    Path(prop).write_text(Path(prop).read_text() + "\n; another\n")
    with pytest.raises(InputError, match=r"another property \("):
        answered(model, prop, state)
    question(tmp_path, "cuts", 0.3)
    with pytest.raises(InputError, match="another model, another property"):
        answered(model, prop, state)
    assert Path(state).read_bytes() == whole
    question(tmp_path, "neurons", 0.3)
    assert answered(model, prop, state, timeout=60).result.verdict == "unsat"


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "pickle"])
def test_a_damaged_state_is_refused(tmp_path: Path, damage: str) -> None:
    model, prop = question(tmp_path, "neurons", 0.3)
    state = tmp_path / "s.npz"
    answered(model, prop, str(state), stop=lambda: True)
    with np.load(state) as file:
        arrays = {name: file[name] for name in file.files}
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-30])
    elif damage == "flipped":
        arrays["bounds"] = np.ones_like(arrays["bounds"])
        np.savez(state, **arrays)
    elif damage == "text":
        state.write_text("not a state\n")
    else:
        arrays["bounds"] = np.array([{}], dtype=object)
        np.savez(state, **arrays)
    with pytest.raises(InputError, match="damaged") as raised:
        answered(model, prop, str(state))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("few", [0, 8], ids=["neurons", "inputs"])
@pytest.mark.parametrize(("margin", "expected"), [(0.05, "unsat"), (-0.02, "sat")])
def test_a_tiny_memory_gives_the_same_verdicts(
    tmp_path: Path, few: int, margin: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "FEW_INPUTS", few)
    monkeypatch.setattr(engine, "attack", lambda *_, **__: {})
    model, prop = question(tmp_path, "small", margin)
    network, query = onnx_model.read(model), vnnlib.read(prop)
    assert verify(network, query, timeout=60).verdict == expected
    for memory in (1, 2000):
        assert answered(model, prop, None, memory=memory).result.verdict == expected
