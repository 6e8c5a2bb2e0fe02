"""A last Softmax is left out where only the order of outputs is asked for; steps are attacked along a guiding line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from factories import box_property
from nets import Net
from secateur.formats import vnnlib
from secateur.formats.onnx_model import Model
from secateur.pipeline.verify import verify
from secateur.pipeline.verify.bounding.specification import compares_outputs
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.graph.lowering import lower, lower_to_logits
from secateur.pipeline.verify.graph.steps import Floor, Round, Sign

INPUTS, OUTPUTS = 4, 3


def classifier(seed: int, head: str = "Softmax", **attributes: int) -> Model:
    net = Net(seed, INPUTS)
    value = net.dense(net("Relu", net.dense("x", INPUTS, 6)), 6, OUTPUTS)
    return net.finish(net(head, value, **attributes) if head else value)


def ask(condition: str, radius: float = 0.6) -> str:
    return box_property([-radius] * INPUTS, [radius] * INPUTS, OUTPUTS, condition)


@pytest.mark.parametrize("head", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("seed", range(6))
def test_comparisons_are_decided_as_without_the_head(head: str, seed: int) -> None:
    with_head, without = classifier(seed, head), classifier(seed, "")
    for other in (1, 2):
        query = vnnlib.parse(ask(f"(>= Y_{other} Y_0)"), "p")
        assert compares_outputs(query)
        found, expected = (verify(model, query, timeout=20) for model in (with_head, without))
        assert found.verdict == expected.verdict
        assert found.verdict in ("sat", "unsat")


def test_what_is_no_comparison_is_asked_of_the_probabilities() -> None:
    engine = Engine(classifier(0))
    plain = vnnlib.parse(ask("(>= Y_1 Y_0)"), "p")
    assert engine.engine_for(plain) is engine.logits
    for condition in ("(>= Y_0 0.5)", "(>= (+ Y_0 Y_1) Y_2)", "(>= Y_0 X_0)"):
        query = vnnlib.parse(ask(condition), "p")
        assert not compares_outputs(query)
        assert engine.engine_for(query) is engine
    certain = vnnlib.parse(ask("(>= Y_0 1.01)"), "p")
    assert verify(classifier(0), certain, timeout=20).verdict == "unsat"


def test_only_a_head_over_all_outputs_is_left_out() -> None:
    assert lower_to_logits(classifier(0, "")) is None
    assert lower_to_logits(classifier(0, "Sigmoid")) is None
    net = Net(0, INPUTS)
    pairs = net("Reshape", net.dense("x", INPUTS, 4), net.ints(1, 2, 2))
    assert lower_to_logits(net.finish(net("Softmax", pairs, axis=-1))) is None
    model = classifier(1)
    logits = lower_to_logits(model)
    assert logits is not None
    x = torch.randn(5, *logits.input.shape, dtype=torch.float64)
    torch.testing.assert_close(logits.forward(x).flatten(1).softmax(1), lower(model).forward(x).flatten(1))


@pytest.mark.parametrize("function", [Sign(), Floor(), Round()])
def test_a_guided_step_has_its_own_values_and_a_gradient(function: Sign) -> None:
    x = torch.linspace(-3, 3, 41, requires_grad=True)
    y = function.guided(x)
    torch.testing.assert_close(y, function(x.detach()), rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert bool((gradient >= 0).all())
    assert int((gradient > 0).sum()) > 20


def test_a_binarised_network_is_attacked() -> None:
    generator = np.random.default_rng(3)
    net = Net(0, 12)
    hidden = net("Sign", net.dense("x", 12, 30))
    weight = net.constant(generator.choice([-1.0, 1.0], (30, OUTPUTS)))
    model = net.finish(net("MatMul", hidden, weight))
    y = lower(model).forward(torch.zeros(1, *lower(model).input.shape, dtype=torch.float64)).flatten()
    order = y.argsort(descending=True).tolist()
    text = box_property([-2.0] * 12, [2.0] * 12, OUTPUTS, f"(>= Y_{order[1]} Y_{order[0]})")
    assert verify(model, vnnlib.parse(text, "p"), timeout=20).verdict == "sat"
