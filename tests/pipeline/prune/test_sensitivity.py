"""Sweeps: what they measure, that they go on where they stopped, and the ratios that come of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from factories import box_property, cnn, mlp
from secateur.formats import dataset, onnx_model, vnnlib
from secateur.formats import sensitivity as records
from secateur.formats.dataset import Dataset
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import from_proto
from secateur.formats.sensitivity import Point, Settings
from secateur.pipeline.prune import Plan, prune
from secateur.pipeline.prune.sensitivity import ratios, sweep
from secateur.pipeline.study import sensitivity_chart
from secateur.pipeline.train.evaluate import evaluate
from secateur.pipeline.verify import stability

PLAN = Plan("magnitude", 0.5)


def data(size: int = 4, images: int = 30) -> Dataset:
    random = np.random.default_rng(0)
    return Dataset("noise", random.random((images, size), np.float32), random.integers(0, 3, images), 3)


def test_points_are_what_pruning_the_layer_alone_gives():
    dense, images = from_proto(mlp([4, 12, 9, 3], scale=2.0), "net.onnx"), data()
    points = list(sweep(dense, PLAN, images, sparsities=(0.5, 0.9)).points())
    assert [(point.layer, point.sparsity) for point in points] == [
        (None, 0.0), *((f"gemm{i}", s) for i in range(3) for s in (0.5, 0.9))
    ]  # fmt: skip
    assert points[0].accuracy == evaluate(dense, images).accuracy
    for point in points[1:]:
        alone = prune(dense, Plan("magnitude", point.sparsity, include=(point.layer,)))
        assert (point.units, point.pruned) == (alone.units, alone.pruned)
        assert point.accuracy == evaluate(from_proto(alone.proto), images).accuracy
        assert point.unstable is None


def test_unstable_neurons_are_those_of_the_verifier():
    dense, images = from_proto(mlp([4, 12, 9, 3], scale=2.0)), data(images=3)
    point = next(sweep(dense, PLAN, images, sparsities=(0.5,), epsilon=0.1, bounds="ibp").points())
    counts = []
    for image in images.images:
        low, high = np.clip(image - 0.1, 0, 1), np.clip(image + 0.1, 0, 1)
        text = box_property(low.astype(float).tolist(), high.astype(float).tolist(), 3, "(<= Y_0 0.0)")
        layers = stability(dense, vnnlib.parse(text, "p"), method="ibp")
        counts.append(sum(layer.unstable for layer in layers))
    assert point.neurons == 21
    assert point.unstable == pytest.approx(np.mean(counts), abs=0.34)


def test_a_sweep_goes_on_where_it_stopped(tmp_path):
    dense, images, path = from_proto(mlp([4, 8, 3])), data(), str(tmp_path / "s.jsonl")
    assert records.resume(path) == []
    whole = list(sweep(dense, PLAN, images, sparsities=(0.3, 0.6)).points())
    records.write(whole[:2], path)
    rest = sweep(dense, PLAN, images, sparsities=(0.3, 0.6), finished=records.resume(path))
    assert rest.todo == (("gemm0", 0.6), ("gemm1", 0.3), ("gemm1", 0.6))
    assert [*records.resume(path), *rest.points()] == whole
    other = Plan("random", 0.5)
    assert len(sweep(dense, other, images, sparsities=(0.3, 0.6), finished=whole).todo) == 5


def test_channels_swept_and_pruned_by_what_was_measured(tmp_path):
    dense = from_proto(cnn(classes=10), "net.onnx")
    plan, images = Plan("magnitude", 0.5, "channel"), dataset.load("digits", "test", 40)
    points = list(sweep(dense, plan, images, sparsities=(0.25, 0.5, 0.75)).points())
    found = ratios(dense, plan, points, "s.jsonl")
    result = prune(dense, plan, scope="layer", ratios=found)
    assert result.pruned == result.wanted == 6  # of 4 + 8
    sensitivity_chart.draw(points, str(tmp_path / "s.svg"))
    sensitivity_chart.draw(points, str(tmp_path / "again.svg"))
    picture = (tmp_path / "s.svg").read_text()
    assert "conv0" in picture and "conv1" in picture and "Accuracy on 40 images of digits" in picture
    assert picture == (tmp_path / "again.svg").read_text()
    with pytest.raises(InputError, match="a picture's name ends in"):
        sensitivity_chart.draw(points, str(tmp_path / "s.jpeg"))


def test_ratios_spare_the_layer_that_costs_more():
    dense = from_proto(mlp([10, 10, 10]))
    settings = Settings(dense.sha256, "magnitude", "weight", "noise", 10)
    points = [Point(settings, None, 0.0, 200, 0, 0.9)]
    for layer, cost in (("gemm0", 0.1), ("gemm1", 0.3)):
        points += [Point(settings, layer, s, 100, round(100 * s), 0.9 - cost * s) for s in (0.4, 0.8)]
    found = ratios(dense, Plan("magnitude", 0.4), points, "s.jsonl")
    assert found == {"gemm0": pytest.approx(0.6, abs=0.01), "gemm1": pytest.approx(0.2, abs=0.01)}
    assert sum(round(100 * share) for share in found.values()) == 80
    with pytest.raises(
        InputError, match="no sensitivity to random on weight \\(found: magnitude on weight\\)"
    ):
        ratios(dense, Plan("random", 0.4), points, "s.jsonl")
    with pytest.raises(InputError, match=r"s\.jsonl: no sensitivity of layer 'gemm2'"):
        ratios(from_proto(mlp([10, 10, 10, 2])), Plan("magnitude", 0.4), points, "s.jsonl")


@pytest.mark.parametrize("line", ["{}", "[]", "nonsense", '{"settings": {}}'])
def test_lines_that_are_no_points_are_named(tmp_path, line):
    path = tmp_path / "s.jsonl"
    settings = Settings("0", "magnitude", "weight", "noise", 10)
    records.write([Point(settings, None, 0.0, 1, 0, 0.5)], str(path))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=r"s\.jsonl:2: not a point of a sensitivity sweep"):
        records.read(str(path))


def test_the_command_measures_once(invoke, tmp_path):
    onnx_model.write(cnn(classes=10), str(tmp_path / "net.onnx"))
    words = [
        "sensitivity",
        tmp_path / "net.onnx",
        "--limit",
        20,
        "--sparsities",
        "0.5,0.9",
        "--results",
        tmp_path / "s.jsonl",
    ]
    first = invoke(*words, "--chart", tmp_path / "s.png")
    assert first.exit_code == 0, first.stderr
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "s.jsonl").read_text().splitlines()
    assert [json.loads(line)["layer"] for line in lines] == [
        None,
        "conv0",
        "conv0",
        "conv1",
        "conv1",
        "fc",
        "fc",
    ]
    again = invoke(*words)
    assert again.exit_code == 0 and "measure:" not in again.stderr
    assert (tmp_path / "s.jsonl").read_text().splitlines() == lines
    pruned = invoke(
        "prune",
        "magnitude",
        tmp_path / "net.onnx",
        "-s",
        0.5,
        "--ratios",
        tmp_path / "s.jsonl",
        "-o",
        tmp_path / "p.onnx",
    )
    assert pruned.exit_code == 0, pruned.stderr
    history = onnx_model.provenance(onnx_model.read(str(tmp_path / "p.onnx")).proto)
    assert set(history[-1]["arguments"]["ratios"]) == {"conv0", "conv1", "fc"}
