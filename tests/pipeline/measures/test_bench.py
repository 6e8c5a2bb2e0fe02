"""What a bench measures, against computations of its own: closed forms, bounds in numpy, MILP, sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

import nets
from factories import box_property, cnn, mlp, model
from secateur.formats import measurements, onnx_model, vnnlib
from secateur.formats.dataset import Dataset
from secateur.formats.errors import CheckFailed, InputError
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt, verify
from secateur.pipeline.measures import GROUPS, Bench, Settings, Strength, bounds, choose, proofs
from secateur.pipeline.verify.bounding.clause_bounds import interval_clause_bounds, output_bounds
from secateur.pipeline.verify.bounding.root import bound_nodes
from secateur.pipeline.verify.bounding.specification import subproblems
from secateur.pipeline.verify.engine import Engine

Floats = NDArray[np.float64]


def net(sizes: list[int], seed: int, scale: float = 1.5) -> Model:
    return onnx_model.from_proto(mlp(sizes, seed=seed, scale=scale), f"net{seed}.onnx")


def labelled(network: Model, images: NDArray[np.float32], classes: int, wrong: int = 0) -> Dataset:
    """The images with the classes that the network gives them, but for the first `wrong` ones."""
    labels = onnxrt.run(network, images).argmax(axis=1).astype(np.int64)
    labels[:wrong] = (labels[:wrong] + 1) % classes
    return Dataset("random", images, labels, classes)


def uniform(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)


def layers(network: Model) -> list[tuple[Floats, Floats]]:
    """Weights [out, in] and biases of a multilayer perceptron."""
    arrays = onnx_model.initializers(network.proto)
    count = len(arrays) // 2
    return [
        (arrays[f"fc{i}.weight"].astype(np.float64), arrays[f"fc{i}.bias"].astype(np.float64))
        for i in range(count)
    ]


def near(value: Any) -> Any:
    """But for the rounding of boxes to float32, outwards."""
    return pytest.approx(value, rel=1e-5)


def interval(weight: Floats, bias: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    positive, negative = weight.clip(min=0), weight.clip(max=0)
    return positive @ low + negative @ high + bias, positive @ high + negative @ low + bias


def comparisons(label: int, classes: int) -> Floats:
    """Rows: the label's output less each other one."""
    rows = -np.eye(classes)
    rows[:, label] += 1
    return np.delete(rows, label, axis=0)


def test_intervals_are_those_of_numpy() -> None:
    network = net([5, 12, 9, 3], 3)
    data = labelled(network, uniform(0, 25, 5), 3, wrong=4)
    record = Bench(choose(data, "0.04", count=25), Settings(("bounds",))).measure(network)
    *hidden, (weight, bias) = layers(network)
    unstable, instability, widths, logits, proved = [], [], [], [], []
    for image, label in zip(data.images.astype(np.float64), data.labels, strict=True):
        low, high = (image - 0.04).clip(min=0), (image + 0.04).clip(max=1)
        sides = []
        for w, b in hidden:
            low, high = interval(w, b, low, high)
            sides.append((low, high))
            low, high = low.clip(min=0), high.clip(min=0)
        open_ = [(low < 0) & (high > 0) for low, high in sides]
        unstable.append([part.mean() for part in open_])
        instability.append(
            [(-low * high)[part].sum() for (low, high), part in zip(sides, open_, strict=True)]
        )
        widths.append([(high - low).mean() for low, high in sides])
        outer = interval(weight, bias, low, high)
        logits.append((outer[1] - outer[0]).mean())
        rows = comparisons(int(label), 3)
        proved.append(bool((interval(rows @ weight, rows @ bias, low, high)[0] > 0).all()))
    right = onnxrt.run(network, data.images).argmax(1) == data.labels
    sizes = np.array([12, 9])
    assert record["layer_neurons"] == [12, 9]
    assert record["ibp_layer_unstable_ratio"] == near(np.mean(unstable, axis=0))
    assert record["ibp_unstable_ratio"] == near(np.mean(unstable, axis=0) @ sizes / 21)
    assert record["ibp_layer_instability"] == near(np.mean(instability, axis=0))
    assert record["ibp_instability"] == near(np.sum(instability) / 25)
    assert record["ibp_layer_width"] == near(np.mean(widths, axis=0))
    assert record["ibp_width"] == near(np.mean(widths, axis=0) @ sizes / 21)
    assert record["ibp_logit_width"] == near(np.mean(logits))
    assert record["certified_ibp"] == (right & np.array(proved)).mean()
    assert 0 < record["certified_ibp"] < record["right"] == 21 / 25
    assert record["crown_layer_width"][0] == near(record["ibp_layer_width"][0])
    assert record["crown_layer_width"][1] < record["ibp_layer_width"][1]


def test_crown_is_that_of_numpy() -> None:
    """With one hidden layer intervals of its arguments are exact, and CROWN of the outputs has a closed form: slope 1
    where u ≥ −l, else 0, below; the chord above (Zhang et al. 2018)."""
    network = net([6, 20, 4], 5)
    data = labelled(network, uniform(1, 40, 6), 4)
    record = Bench(choose(data, "0.07", count=40), Settings(("bounds",))).measure(network)
    (first, offset), (weight, bias) = layers(network)
    proved = []
    for image, label in zip(data.images.astype(np.float64), data.labels, strict=True):
        low, high = (image - 0.07).clip(min=0), (image + 0.07).clip(max=1)
        least, most = interval(first, offset, low, high)
        chord = np.where(
            least >= 0, 1.0, np.where(most <= 0, 0.0, most / np.where(most > least, most - least, 1))
        )
        below = np.where(least >= 0, 1.0, np.where((most > 0) & (most >= -least), 1.0, 0.0))
        shift = np.where((least < 0) & (most > 0), -chord * least, 0.0)
        rows = comparisons(int(label), 4) @ weight
        slopes = np.where(rows >= 0, below, chord) * rows
        constant = (rows.clip(max=0) * shift).sum(1) + slopes @ offset + comparisons(int(label), 4) @ bias
        linear = interval(slopes @ first, constant, low, high)[0]
        rough = interval(rows, comparisons(int(label), 4) @ bias, least.clip(min=0), most.clip(min=0))[0]
        proved.append(bool((np.maximum(linear, rough) > 0).all()))
    assert record["certified_crown"] == np.mean(proved)
    assert record["certified_ibp"] < record["certified_crown"] < 1


def test_interval_margins_of_conjunctions_are_the_best_rows() -> None:
    """(Y_0 ≤ −50 and Y_1 − 1.5 X_0 ≥ 1) or Y_2 − Y_0 ≥ 0.5 or Y_1 − 1.5 X_0 ≥ 1."""
    network = net([3, 7, 3], 4)
    input_too = "(>= (- Y_1 (* 1.5 X_0)) 1.0)"
    condition = f"(or (and (<= Y_0 -50.0) {input_too}) (>= (- Y_2 Y_0) 0.5) {input_too})"
    below, above = [0.125, 0.0, 0.0], [0.25, 0.125, 0.5]
    query = vnnlib.parse(box_property(below, above, 3, condition), "p")
    engine = Engine(network)
    problems = subproblems([query])
    nodes = bound_nodes(engine.graph, engine.shaped(problems.boxes), "ibp")
    found = bounds.interval_margins(engine.graph, nodes, problems).tolist()
    (first, offset), (weight, bias) = layers(network)
    low, high = interval(first, offset, np.array(below), np.array(above))
    rows = np.array([[1.0, 0, 0], [0, -1, 0], [1, 0, -1]])
    least = interval(rows @ weight, rows @ bias, low.clip(min=0), high.clip(min=0))[0]
    with_input = least[1] + 1.0 + 1.5 * 0.125
    assert found == pytest.approx([least[0] + 50, least[2] + 0.5, with_input])
    assert least[0] + 50 > with_input, "the best of the conjunction"


@pytest.mark.parametrize(
    "build",
    [
        lambda seed: nets.residual(seed, 3, 6, 4),
        lambda seed: nets.convolutional(seed),
        lambda seed: nets.ending_in_relu(seed, 3),
        lambda seed: nets.starting_with_relu(seed, 3),
        lambda seed: nets.without_relu(seed, 3),
    ],
)
def test_interval_margins_hold_and_are_tighter_than_those_of_outputs(build: Callable[[int], Model]) -> None:
    tighter: list[bool] = []
    for seed in range(4):
        network, random = build(seed), np.random.default_rng(seed)
        inputs, outputs = onnxrt.count_inputs(network), onnxrt.count_outputs(network)
        middle = random.normal(size=inputs).round(2)
        below, above = (middle - 0.3).tolist(), (middle + 0.3).tolist()
        wrong = " ".join(f"(and (>= Y_{i} Y_0))" for i in range(1, outputs))
        query = vnnlib.parse(box_property(below, above, outputs, f"(or {wrong})"), "p")
        engine = Engine(network)
        problems = subproblems([query])
        nodes = bound_nodes(engine.graph, engine.shaped(problems.boxes), "ibp")
        found = bounds.interval_margins(engine.graph, nodes, problems)
        apart = interval_clause_bounds(problems, *output_bounds(engine.graph, nodes, linear=False))
        points = random.uniform(below, above, size=(500, inputs))
        y = torch.from_numpy(onnxrt.run(network, points.astype(np.float32)).astype(np.float64))
        least = (y[:, :1] - y[:, 1:]).amin(0)
        assert (found <= least + 1e-5).all()
        assert (found >= apart - 1e-9).all()
        tighter.append(bool((found > apart + 1e-9).any()))
    assert any(tighter) != (network.graph.node[-1].op_type == "Relu")


@settings(max_examples=4)
@given(st.integers(0, 10**6))
def test_the_ladder_is_sound_and_each_rung_holds_the_one_below(seed: int) -> None:
    network = net([4, 10, 8, 3], seed, scale=2.0)
    data = labelled(network, uniform(seed, 8, 4), 3, wrong=1)
    bench = Bench(
        choose(data, "0.06", count=8), Settings(("bounds", "alpha-crown", "complete"), timeout=30, seed=seed)
    )
    record = bench.measure(network)
    ladder = [record[f"certified_{name}"] for name in ("ibp", "crown", "alpha_crown")]
    assert [*ladder, record["certified"], record["right"]] == sorted(
        [*ladder, record["certified"], record["right"]]
    )
    parts = record["certified"] + record["refuted"] + record["undecided"]
    assert parts == pytest.approx(record["right"])
    random = np.random.default_rng(seed)
    for place, (proof, query) in enumerate(
        zip(record["image_proof"], bench.images.queries(network), strict=True)
    ):
        exact = verify.verify(network, query, verifier="milp", timeout=60).verdict
        if proof == "wrong":
            assert exact == "sat", "the image itself is a counterexample"
            continue
        # A solution of the program that does not hold in onnxruntime leaves "unknown".
        assert exact in (("sat", "unknown") if proof == "refuted" else ("unsat",))
        alone = [method for method in bounds.METHODS if verify.bounds(network, query, method).refuted]
        if alone:
            assert bounds.METHODS.index(proof) <= bounds.METHODS.index(alone[0])
        if proof != "refuted":
            low, high = (side[0] for side in bench.images.ball(place, place + 1))
            points = (low + random.random((200, 4)) * (high - low)).astype(np.float32)
            assert (onnxrt.run(network, points).argmax(1) == data.labels[place]).all()


def linear(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> Model:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "gemm", transB=1)]
    proto = model(nodes, {"w": weight, "b": bias}, ["N", weight.shape[1]], ["N", len(weight)])
    return onnx_model.from_proto(proto, "linear.onnx")


def test_attacks_on_a_linear_network_are_as_strong_as_any() -> None:
    """Of two linear outputs the margin is least at a corner of the ball, which one signed step reaches."""
    random = np.random.default_rng(2)
    network = linear(random.normal(size=(2, 9)).astype(np.float32), np.zeros(2, np.float32))
    data = labelled(network, uniform(3, 300, 9), 2, wrong=30)
    weight = layers_of(network)
    record = Bench(choose(data, "0.1", count=1), Settings(("attacks",), attacked=280)).measure(network)
    withstood = []
    for image, label in zip(data.images[:280].astype(np.float64), data.labels, strict=False):
        row = weight[label] - weight[1 - label]
        least = interval(row[None], np.zeros(1), (image - 0.1).clip(min=0), (image + 0.1).clip(max=1))[0]
        withstood.append(bool(least[0] > 0))
    assert record["attacked_images"] == 280
    assert record["fgsm_accuracy"] == record["pgd_accuracy"] == np.mean(withstood)
    assert 0.1 < record["pgd_accuracy"] < 0.9


def layers_of(network: Model) -> Floats:
    return onnx_model.initializers(network.proto)["w"].astype(np.float64)


def test_more_steps_and_restarts_attack_harder_and_never_beyond_the_ball() -> None:
    network = net([20, 30, 30, 3], 1, scale=3.0)
    data = labelled(network, uniform(4, 120, 20), 3)
    found = []
    for strength in (Strength(1, 1), Strength(30, 3)):
        bench = Bench(choose(data, "0.05", count=1), Settings(("attacks",), strength=strength))
        found.append(bench.measure(network)["pgd_accuracy"])
    assert found[1] < found[0] < 1
    transfer = bench.transfer(network)
    points = transfer.points
    assert np.abs(points.astype(np.float64) - data.images).max() <= 0.05 + 1e-7
    assert points.min() >= 0 and points.max() <= 1
    assert transfer.right.all() and transfer.fooled.mean() == pytest.approx(1 - found[1])


def test_attacks_made_on_the_dense_net_are_tried_on_others() -> None:
    dense, pruned = (onnx_model.from_proto(cnn(seed=seed), f"{seed}.onnx") for seed in (4, 5))
    data = labelled(dense, uniform(4, 80, 1, 8, 8), 3, wrong=5)
    bench = Bench(choose(data, "0.05", count=1), Settings(("attacks", "transfer")))
    own, other = (bench.measure(network, dense=dense) for network in (dense, pruned))
    assert own["transfer_accuracy"] == own["pgd_accuracy"] and own["transfer_success"] == 1.0
    made = bench.transfer(dense)
    before, after = (
        onnxrt.run(pruned, points).argmax(1) == data.labels for points in (data.images, made.points)
    )
    assert other["transfer_accuracy"] == (before & after).mean()
    assert other["transfer_success"] == (before & made.fooled & ~after).sum() / (before & made.fooled).sum()
    assert "transfer_accuracy" not in bench.measure(pruned)


def test_accuracy_and_size_are_counted_by_hand() -> None:
    network = net([4, 6, 3], 0)
    weight = np.array(onnx_model.initializers(network.proto)["fc0.weight"])
    weight[:2] = 0
    onnx_model.set_initializer(network.proto, "fc0.weight", weight)
    network = onnx_model.from_proto(network.proto)
    data = labelled(network, uniform(0, 20, 4), 3, wrong=5)
    record = Bench(choose(data, 0, count=1), Settings(("accuracy", "size", "speed"))).measure(network)
    assert record["accuracy"] == 0.75 and record["accuracy_images"] == 20
    totals = np.bincount(data.labels, minlength=3)
    hits = np.bincount(data.labels[5:], minlength=3)
    assert record["class_accuracy"] == [
        hit / total if total else None for hit, total in zip(hits, totals, strict=True)
    ]
    assert (record["parameters"], record["weights"]) == (4 * 6 + 6 + 6 * 3 + 3, 4 * 6 + 6 * 3)
    assert record["nonzero_weights"] == record["weights"] - 8
    assert record["nonzero_parameters"] == record["parameters"] - 8
    assert (record["flops"], record["nonzero_flops"]) == (2 * 42, 2 * 34)
    assert record["milliseconds"] > 0


def test_certified_accuracy_of_classes_is_that_of_their_images() -> None:
    network = net([4, 10, 3], 8, scale=2.0)
    data = labelled(network, uniform(8, 30, 4), 3, wrong=3)
    images = choose(data, "0.05", count=12, start=2, seed=7)
    record = Bench(images, Settings(("complete",), timeout=30)).measure(network)
    assert record["image_index"] == np.random.default_rng(7).permutation(30)[2:14].tolist()
    proved = np.array([proof == "complete" for proof in record["image_proof"]])
    labels = data.labels[record["image_index"]]
    assert record["certified"] == proved.mean() > 0
    shares = [proved[labels == label].mean() if (labels == label).any() else None for label in range(3)]
    assert record["class_certified"] == shares
    wrong = [proof == "wrong" for proof in record["image_proof"]]
    assert wrong == [index < 3 for index in record["image_index"]]
    assert [seconds is None for seconds in record["image_seconds"]] == wrong
    assert record["seconds"] == pytest.approx(sum(one or 0 for one in record["image_seconds"]))
    assert record["domains"] == sum(one or 0 for one in record["image_domains"])


def test_no_time_means_undecided_not_certified() -> None:
    network = net([6, 30, 30, 3], 1, scale=3.0)
    data = labelled(network, uniform(2, 6, 6), 3)
    record = Bench(choose(data, "0.2", count=6), Settings(("complete",), timeout=1e-9)).measure(network)
    assert record["certified"] == 0.0
    assert record["undecided"] + record["refuted"] == 1.0 and record["undecided"] > 0


@pytest.mark.parametrize("ending", ["Softmax", "LogSoftmax"])
def test_a_softmax_at_the_end_changes_nothing(ending: str) -> None:
    plain = net([5, 10, 3], 6)
    proto = onnx.ModelProto()
    proto.CopyFrom(plain.proto)
    proto.graph.node[-1].output[0] = "logits"
    proto.graph.node.append(helper.make_node(ending, ["logits"], ["y"], "end", axis=1))
    data = labelled(plain, uniform(6, 25, 5), 3, wrong=2)
    bench = Bench(choose(data, "0.04", count=10), Settings(timeout=30))
    first, second = (bench.measure(one) for one in (plain, onnx_model.from_proto(proto, "soft.onnx")))
    same = ("accuracy", "fgsm_accuracy", "pgd_accuracy", "image_proof", "certified", "ibp_width", "layer")
    assert [second[name] for name in same] == [first[name] for name in same]
    assert second["calibration_error"] == pytest.approx(first["calibration_error"], abs=1e-6)


def test_normalised_inputs_are_the_same_question() -> None:
    plain = net([6, 14, 3], 9)
    mean, std = np.array([0.25, 0.5, 0.125]), np.array([0.5, 0.25, 2.0])
    weight, bias = layers(plain)[0]
    wide, shift = np.repeat(std, 2), np.repeat(mean, 2)  # a channel has two pixels
    proto = onnx.ModelProto()
    proto.CopyFrom(plain.proto)
    onnx_model.set_initializer(proto, "fc0.weight", (weight * wide).astype(np.float32))
    onnx_model.set_initializer(proto, "fc0.bias", (bias + weight @ shift).astype(np.float32))
    network = onnx_model.from_proto(proto, "normalised.onnx")
    raw = labelled(plain, uniform(9, 40, 6), 3, wrong=3)
    data = dataclasses.replace(raw, images=raw.images.reshape(40, 3, 2))
    measure = Settings(("accuracy", "attacks", "bounds"))
    first = Bench(choose(raw, "0.05", count=30), measure).measure(plain)
    second = Bench(choose(data, "0.05", count=30, mean=mean.tolist(), std=std.tolist()), measure).measure(
        network
    )
    for name in ("accuracy", "image_proof", "fgsm_accuracy", "pgd_accuracy", "ibp_layer_unstable_ratio"):
        assert second[name] == first[name]
    assert second["crown_width"] == pytest.approx(first["crown_width"], rel=1e-5)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["0", "1/255", "0.1", "0.37", "1e-9"]),
    st.sampled_from([(), ("0.1307",), ("0.4914", "0.4822")]),
    st.sampled_from([(), ("0.3081",), ("0.247", "0.2435")]),
)
@settings(max_examples=25)
def test_attacks_stay_in_the_box_of_the_property(
    seed: int, epsilon: str, mean: tuple[str, ...], std: tuple[str, ...]
) -> None:
    network = net([4, 3, 2], 0)
    data = Dataset("random", uniform(seed, 5, 2, 2), np.zeros(5, np.int64), 2)
    images = choose(data, epsilon, count=5, mean=mean, std=std)
    low, high = images.ball(0, 5)
    assert (low <= high).all()
    if Fraction(epsilon) > Fraction("1e-8"):  # a smaller ball may hold no float32 but the image
        pixels, radius = data.images.astype(np.float64), float(Fraction(epsilon))
        shift = np.array([float(one) for one in mean or ("0",)])[:, None]
        scale = np.array([float(one) for one in std or ("1",)])[:, None]
        least = (((pixels - radius).clip(0, 1) - shift) / scale).reshape(5, 4)
        most = (((pixels + radius).clip(0, 1) - shift) / scale).reshape(5, 4)
        for inwards in (low - least, most - high):
            assert inwards.min() > -1e-12 and inwards.max() < 1e-6
    for place, query in enumerate(images.queries(network)):
        (region,) = query.regions
        assert (region.lower <= low[place]).all() and (high[place] <= region.upper).all()
        assert np.abs(region.lower - low[place]).max() < 1e-6
        assert np.abs(region.upper - high[place]).max() < 1e-6


def test_a_proof_of_what_is_refuted_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    network = net([4, 10, 3], 8, scale=2.0)
    data = labelled(network, uniform(8, 4, 4), 3)
    bench = Bench(choose(data, "0.4", count=4), Settings(("attacks", "bounds", "complete"), timeout=30))
    assert bench.measure(network)["refuted"] > 0
    monkeypatch.setattr(bounds, "_margins", lambda *_: np.ones(1))
    spared = Bench(
        choose(dataclasses.replace(data, labels=(data.labels + 1) % 3), "0.4", count=4), Settings(("bounds",))
    )
    assert spared.measure(network)["image_proof"] == ["wrong"] * 4, "whatever is proved of a ball"
    with pytest.raises(CheckFailed, match=r"robust_idx\d_eps0\.4\.vnnlib: proved by ibp, but an attack"):
        bench.measure(network)


def test_what_an_attack_refutes_is_refuted() -> None:
    proved = ["wrong", "ibp", "crown", "undecided", "refuted", "complete"]
    margins = np.array([-1.0, np.inf, -1e-6, -0.5, -0.5, 0.1])
    settled = proofs.check(proved, margins, [""] * 6, "m.onnx")
    assert settled == ["wrong", "ibp", "refuted", "refuted", "refuted", "complete"]
    assert proofs.rungs(settled, ["ibp", "crown"]) == {"certified_ibp": 1 / 6, "certified_crown": 1 / 6}


def test_bounds_spare_the_search_and_their_seconds_count() -> None:
    network = net([5, 12, 9, 3], 3)
    data = labelled(network, uniform(0, 25, 5), 3, wrong=4)
    images = choose(data, "0.04", count=25)
    both = Bench(images, Settings(("bounds", "complete"), timeout=30)).measure(network)
    alone = Bench(images, Settings(("complete",), timeout=30)).measure(network)
    assert both["certified"] == alone["certified"] and both["refuted"] == alone["refuted"]
    assert {"ibp", "crown", "wrong"} <= set(both["image_proof"])
    assert {"complete", "wrong"} >= {proof for proof in alone["image_proof"] if proof != "refuted"}
    for proof, seconds, domains in zip(
        both["image_proof"], both["image_seconds"], both["image_domains"], strict=True
    ):
        assert (seconds is None) == (domains is None) == (proof == "wrong")
        assert seconds is None or seconds > 0
        assert domains == 0 or proof not in ("ibp", "crown")


def test_the_same_gives_the_same_and_each_setting_another_fingerprint() -> None:
    network, other = net([4, 8, 3], 1), net([4, 8, 3], 2)
    data = labelled(network, uniform(1, 12, 4), 3)
    images, alike = choose(data, "0.05", count=4), Settings(timeout=30)
    calls: list[str] = []

    def measured() -> dict[str, Any]:
        bench = Bench(images, alike)
        record = bench.measure(network, dense=other, step=calls.append)
        assert len(calls) == bench.steps
        calls.clear()
        return {name: value for name, value in record.items() if not measurements.is_timed(name)}

    first = measured()
    assert first == measured()
    assert set(first) <= set(measurements.COLUMNS)
    prints = {
        Bench(images, settings).fingerprint(one, dense)
        for settings in (
            alike,
            Settings(timeout=31),
            dataclasses.replace(alike, seed=1),
            dataclasses.replace(alike, attacked=3),
            dataclasses.replace(alike, strength=Strength(3, 1)),
            dataclasses.replace(alike, groups=("accuracy", "bounds")),
        )
        for one, dense in ((network, None), (other, None))
    }
    prints |= {
        Bench(chosen, alike).fingerprint(network)
        for chosen in (
            choose(data, "0.06", count=4),
            choose(data, "0.05", count=5),
            choose(data, "0.05", count=4, start=1),
            choose(data, "0.05", count=4, mean=["0.5"]),
            choose(dataclasses.replace(data, labels=data.labels[::-1].copy()), "0.05", count=4),
        )
    }
    prints |= {Bench(images, alike).fingerprint(network, one) for one in (network, other)}
    assert len(prints) == 12 + 5 + 2
    again = dataclasses.replace(alike, groups=tuple(reversed(GROUPS)))
    assert Bench(images, again).fingerprint(network) in prints, "the order of groups says nothing"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"epsilon": "-1"}, "epsilon is -1"),
        ({"epsilon": "wide"}, "'wide' is not a number"),
        ({"epsilon": 0.1, "start": 9}, "no image 9"),
        ({"epsilon": 0.1, "std": ["0"]}, "std that is not positive"),
        ({"epsilon": 0.1, "mean": ["0", "1", "2"]}, "3 numbers for mean"),
    ],
)
def test_images_that_cannot_be_chosen(arguments: dict[str, Any], says: str) -> None:
    data = Dataset("random", uniform(0, 9, 2, 2), np.zeros(9, np.int64), 2)
    epsilon = arguments.pop("epsilon")
    with pytest.raises(InputError, match=says):
        choose(data, epsilon, count=3, **arguments)


def test_what_cannot_be_measured() -> None:
    with pytest.raises(InputError, match="unknown measure 'speedy': expected one of accuracy"):
        Settings(("speedy",))
    data = Dataset("random", uniform(0, 9, 5), np.zeros(9, np.int64), 2)
    with pytest.raises(InputError, match="4 inputs"):
        Bench(choose(data, 0.1, count=1)).measure(net([4, 3, 2], 0))
